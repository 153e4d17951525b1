"""Waits for PostgreSQL that have a limit, and that signals interrupt.

libpq waits in C, where no signal handler of Python's runs, and as long as the kernel believes in the connection.
psycopg2 hands every wait to a function instead, once there is one: for all connections of the process, those of
Dagster's history too. COPY does not work then.
"""

from __future__ import annotations

import math
import select
import time
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import (
    POLL_OK,
    POLL_READ,
    STATUS_SETUP,
    get_wait_callback,
    parse_dsn,
    set_wait_callback,
)
from psycopg2.extensions import connection as Connection

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_WAIT = 60.0
"""Seconds until a wait without a limit looks at its socket again."""


class SilentError(psycopg2.OperationalError):
    """The server did not answer in time. The connection is closed."""


class LimitedConnection(Connection):
    """A connection that waits for no answer longer than it may.

    Attributes:
        until: When the present wait ends, by the monotonic clock.
        deadline: When every wait ends.
        on_silence: Gets a sentence when the server did not answer a query in time.
    """

    until = math.inf
    deadline = math.inf
    on_silence: Callable[[str], object] | None = None

    def __init__(
        self, dsn: str, *arguments: Any, seconds: float = math.inf, deadline: float = math.inf, **options: Any
    ) -> None:
        """Connect within so many seconds."""
        install()
        self.until, self.deadline = time.monotonic() + seconds, deadline
        try:
            super().__init__(dsn, *arguments, **options)
        except BaseException:
            # The error's traceback would keep the socket open, and the server waiting for a password.
            self.close()
            raise
        self.until = math.inf


def limited(seconds: float, deadline: float = math.inf) -> Callable[..., LimitedConnection]:
    """Return a ``connection_factory`` for connections that must stand within so many seconds."""

    def connect(dsn: str, *arguments: Any, **options: Any) -> LimitedConnection:
        return LimitedConnection(dsn, *arguments, seconds=seconds, deadline=deadline, **options)

    return connect


def install() -> None:
    """Have signals interrupt every wait for PostgreSQL in this process. Doing it again changes nothing."""
    if get_wait_callback() is not _wait:
        set_wait_callback(_wait)


def _wait(connection: Connection) -> None:
    """Wait until a connection is ready (psycopg2's callback). An error that is raised here closes it."""
    started = time.monotonic()
    until = _limit(connection, started)
    while (state := connection.poll()) != POLL_OK:
        left = min(until - time.monotonic(), _LONGEST_WAIT)
        if left <= 0:
            why = f"no answer for {time.monotonic() - started:.0f} s"
            if isinstance(connection, LimitedConnection) and connection.on_silence is not None:
                connection.on_silence(f"the database {connection.info.dbname} has fallen silent: {why} to a query")
            raise SilentError(why)
        # libpq may go on over another socket.
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        # Handlers of signals run here, and those that raise end the wait.
        poller.poll(left * 1000)


def _limit(connection: Connection, now: float) -> float:
    """Return when a wait that begins now has to end."""
    if isinstance(connection, LimitedConnection):
        return min(connection.until, connection.deadline)
    if connection.status != STATUS_SETUP:
        return math.inf
    # Somebody else's connection: libpq knows connect_timeout, but does not look at it where another one waits.
    seconds = float(parse_dsn(connection.dsn).get("connect_timeout") or 0)
    return now + max(seconds, 2.0) if seconds > 0 else math.inf
