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
        name: What is waited for, in sentences.
        late: Seconds after which a query that is not answered is late.
        on_silence: Gets a sentence when a query is late.
        on_answer: Called when it is answered all the same.
    """

    until = math.inf
    deadline = math.inf
    name = "the database"
    late = 15.0
    on_silence: Callable[[str], object] | None = None
    on_answer: Callable[[], object] | None = None
    _is_late = False

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

    def wait_piece(self, poller: select.poll, started: float) -> bool:
        """Wait for the socket for a while. Returns whether it is ready; raises SilentError where no time is left."""
        now = time.monotonic()
        left = min(self.until, self.deadline) - now
        if self.on_silence is not None and not self._is_late:
            until_late = self.late - (now - started)
            if min(left, until_late) <= 0:
                self._is_late = True
                self.on_silence(f"{self.name} has not answered a query for {now - started:.0f} s")
            else:
                left = min(left, until_late)
        return wait_for_socket(poller, left, started)

    def answered(self) -> None:
        """Note that the wait is over."""
        if self._is_late:
            self._is_late = False
            if self.on_answer is not None:
                self.on_answer()


def limited(
    seconds: float, deadline: float = math.inf, kind: type[LimitedConnection] = LimitedConnection
) -> Callable[..., LimitedConnection]:
    """Return a ``connection_factory`` for connections that must stand within so many seconds."""

    def connect(dsn: str, *arguments: Any, **options: Any) -> LimitedConnection:
        return kind(dsn, *arguments, seconds=seconds, deadline=deadline, **options)

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
        # libpq may go on over another socket.
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        ready = False
        # libpq is called only when its socket is ready: it takes one that is not for connected.
        while not ready:
            if isinstance(connection, LimitedConnection):
                ready = connection.wait_piece(poller, started)
            else:
                ready = wait_for_socket(poller, until - time.monotonic(), started)
    if isinstance(connection, LimitedConnection):
        connection.answered()


def wait_for_socket(poller: select.poll, seconds: float, started: float) -> bool:
    """Wait for a socket. Returns whether it is ready; raises SilentError where no time is left."""
    if seconds <= 0:
        raise SilentError(f"no answer for {time.monotonic() - started:.0f} s")
    # Handlers of signals run here, and those that raise end the wait.
    return bool(poller.poll(1000 * min(seconds, _LONGEST_WAIT)))


def _limit(connection: Connection, now: float) -> float:
    """Return when a wait of somebody else's connection has to end that begins now."""
    if connection.status != STATUS_SETUP:
        return math.inf
    # libpq knows connect_timeout, but does not look at it where another one waits.
    seconds = float(parse_dsn(connection.dsn).get("connect_timeout") or 0)
    return now + max(seconds, 2.0) if seconds > 0 else math.inf
