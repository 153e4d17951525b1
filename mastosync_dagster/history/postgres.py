"""Dagster's history in PostgreSQL: limits for each connection of this process, and an end once the process is to end.

Dagster opens a connection for each statement, tries that six times and waits for its answer without a limit, and a
signal that comes between two ops interrupts nothing. SQLAlchemy lets the connection be opened here instead.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from typing import TYPE_CHECKING, Any

import psycopg2
from dagster._utils.interrupts import check_captured_interrupt  # a signal came, and Dagster keeps it for later
from psycopg2.extensions import STATUS_SETUP
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from mastosync_dagster.addresses import connect_first, look_up
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import one_line
from mastosync_dagster.mastodon.waits import LimitedConnection, SilentError, limited, wait_for_socket

if TYPE_CHECKING:
    import select
    from collections.abc import Callable, Iterator, MutableMapping

_LOG = logging.getLogger(__name__)

_CONNECT_SECONDS = 10.0
_LIMITS = {
    "keepalives": 1,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 35_000,
}
"""So that a flow that has vanished is noticed within 40 s; ``params`` in dagster.yaml wins."""
_PATIENCE_SECONDS = 1_200.0
"""Longer than the upgrade of a database server takes; the queue waits for an hour."""
_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
_STOP_SECONDS = 3.0
"""How long a process that is to end waits for a history that is silent, all statements together."""
_END_SECONDS = 10.0
"""How long it waits for one that answers."""
_LATE_SECONDS = 15.0
"""After so long a statement that is not answered is mentioned in a sentence."""
_PIECE_SECONDS = 0.2


class HistoryError(AdminError):
    """Dagster's history does not answer. The message says where it is."""


class _State:
    """How this process waits for the history.

    Attributes:
        patient: A run goes on here: its statements wait for a history that is away.
        at_once: A command says at once why a connection cannot be made: somebody waits for it.
        say: Gets a sentence when the history is lost, and when it is back.
        left: Seconds of silence that are left of those for the end; None: the process is not to end.
        end: When the process waits no longer for a history that answers, by the monotonic clock.
        lost_at: Since when no connection stands, by the monotonic clock; None: the last one did.
        addresses: Those that work, by host.
    """

    def __init__(self) -> None:
        self.patient = False
        self.at_once = False
        self.say: Callable[[str], object] = _LOG.warning
        self.left: float | None = None
        self.end = math.inf
        self.lost_at: float | None = None
        self.addresses: dict[str, str] = {}

    def seconds(self) -> float:
        """Return how long the history may take from now on."""
        if self.left is None and check_captured_interrupt():
            self.stop()
        return math.inf if self.left is None else min(self.left, self.end - time.monotonic())

    def stop(self) -> None:
        """Note that the process is to end."""
        if self.left is None:
            self.left, self.end = _STOP_SECONDS, time.monotonic() + _END_SECONDS

    def waited(self, seconds: float) -> None:
        """Take a wait from what is left."""
        if self.left is not None:
            self.left -= seconds

    def answered(self) -> None:
        """Note that the history has answered: however far it is, it is not silent."""
        if self.left is not None:
            self.left = _STOP_SECONDS
        self.found()

    def may_wait(self) -> bool:
        """Tell whether a connection that could not be made is tried again."""
        late = self.lost_at is not None and time.monotonic() > self.lost_at + _PATIENCE_SECONDS
        return self.patient and self.seconds() == math.inf and not late

    def lost(self, what: str, since: float) -> None:
        """Say that the history is lost, once."""
        if self.lost_at is None:
            self.lost_at = since
            self.say(what)

    def found(self) -> None:
        """Say that the history is back, if it was lost."""
        if self.lost_at is not None:
            seconds, self.lost_at = time.monotonic() - self.lost_at, None
            self.say(f"Dagster's history answers again, after {seconds:.0f} s")


_state = _State()


class _HistoryConnection(LimitedConnection):
    def wait_piece(self, poller: select.poll, started: float) -> bool:
        """Wait for a short while: all waits together take a short time once the process is to end."""
        begun = time.monotonic()
        if begun - started > _LATE_SECONDS and self.status != STATUS_SETUP:
            place = f"{self.info.host}:{self.info.port}"
            _state.lost(f"Dagster's history at {place} has not answered for {begun - started:.0f} s", started)
        left = min(self.until - begun, started + _PATIENCE_SECONDS - begun, _state.seconds())
        try:
            return wait_for_socket(poller, min(left, _PIECE_SECONDS), started)
        finally:
            _state.waited(time.monotonic() - begun)

    def answered(self) -> None:
        """Note that the wait is over."""
        _state.answered()


def limit_waits(*, at_once: bool = False) -> None:
    """Limit the waits for a history in PostgreSQL, in this process from now on.

    ``at_once``: a connection that cannot be made is a `HistoryError` at once, until a run begins. Dagster would try it
    six times, and write a warning each time.
    """
    _state.at_once = at_once or _state.at_once
    if not event.contains(Engine, "do_connect", _connect):
        event.listen(Engine, "do_connect", _connect)


def begin_run(say: Callable[[str], object] | None = None) -> None:
    """Wait for minutes for a history that is away: a run goes on.

    ``say`` gets a sentence when it is lost, and when it is back; None: who gets it does not change.
    """
    limit_waits()
    _state.patient, _state.say, _state.left, _state.end = True, say or _state.say, None, math.inf


def stop_soon() -> None:
    """Wait no longer than for some seconds, all statements together: the process is to end. From any thread."""
    _state.stop()


def is_history_error(error: BaseException) -> bool:
    """Tell whether an error is the history's: SQLAlchemy's are Dagster's alone, and so is what is raised from one."""
    return any(isinstance(each, (HistoryError, SQLAlchemyError)) for each in (error, error.__cause__))


@contextlib.contextmanager
def history_may_fail() -> Iterator[None]:
    """Go on after the block where the history does not take what it says."""
    try:
        yield
    except Exception as error:
        if not is_history_error(error):
            raise


def _connect(
    dialect: Any, _record: object, arguments: list[Any], parameters: MutableMapping[str, Any]
) -> LimitedConnection | None:
    """Open a connection (SQLAlchemy's hook). None: SQLAlchemy opens it."""
    if dialect.driver != "psycopg2":
        return None
    for delay in itertools.chain(_DELAYS, itertools.repeat(_DELAYS[-1])):
        begun = time.monotonic()
        try:
            connection = _open(arguments, parameters)
        except (psycopg2.OperationalError, OSError) as error:
            _state.addresses.clear()
            why = f"Dagster's history at {_place(parameters)} cannot be reached: {_reason(error)}"
            if not _state.may_wait():
                if _state.patient or isinstance(error, (SilentError, OSError)):
                    raise HistoryError(f"{why}. Is the server of storage in dagster.yaml up?") from None
                if _state.at_once:  # it has answered: a setting may be wrong, too
                    raise HistoryError(
                        f"{why}. Look at the section storage of dagster.yaml, and whether the server that it names is"
                        " up."
                    ) from None
                raise
            _state.lost(f"{why}. It is tried again for up to {_PATIENCE_SECONDS / 60:.0f} minutes", begun)
            _sleep(delay)
        else:
            _state.found()
            return connection
    raise AssertionError  # the time is up before


def _open(arguments: list[Any], parameters: MutableMapping[str, Any]) -> LimitedConnection:
    seconds = min(float(parameters.get("connect_timeout") or _CONNECT_SECONDS), _state.seconds())
    if seconds <= 0:
        raise SilentError("this process is about to end, and does not wait for it")
    changed: dict[str, Any] = {"connection_factory": limited(seconds, kind=_HistoryConnection)}
    host, begun = str(parameters.get("host") or ""), time.monotonic()
    # libpq looks a name up without a limit, and no signal ends that.
    if host and not host.startswith(("/", "@")) and "," not in host and "hostaddr" not in parameters:
        try:
            changed["hostaddr"] = _address(host, int(parameters.get("port") or 5432), seconds)
        finally:
            _state.waited(time.monotonic() - begun)
    connection: LimitedConnection = psycopg2.connect(*arguments, **{**_LIMITS, **parameters, **changed})
    return connection


def _address(host: str, port: int, seconds: float) -> str:
    """Return the address of a host; of several, the first that answers. It is kept as long as it does."""
    if host not in _state.addresses:
        found = look_up(host, port, seconds)
        if len(found) > 1:
            first, connected = connect_first(found, seconds)
            connected.close()
            found = [first]
        _state.addresses[host] = found[0].ip
    return _state.addresses[host]


def _place(parameters: MutableMapping[str, Any]) -> str:
    return f"{parameters.get('host') or 'localhost'}:{parameters.get('port') or 5432}"


def _reason(error: Exception) -> str:
    """Return libpq's own reason, in one line: it quotes no secret."""
    text = str(error).strip() or type(error).__name__
    return one_line(text.rpartition("failed: ")[2].splitlines()[0]).rstrip(".")


def _sleep(seconds: float) -> None:
    """Wait; no longer once the process is to end."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and _state.seconds() == math.inf:
        time.sleep(min(left, _PIECE_SECONDS))
