"""Reading from PostgreSQL with little load for others: short read-only transactions, reconnection, bounded retries.

pgbouncer may give every transaction another server connection. So no session state is used: no named cursors, no
prepared statements, no session settings.
"""

from __future__ import annotations

import contextlib
import math
import time
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import PYDATETIME, PYDATETIMETZ, new_type, register_type
from psycopg2.extensions import cursor as Cursor

from mastosync_dagster.errors import AdminError
from mastosync_dagster.mastodon.waits import LimitedConnection, SilentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from psycopg2.extensions import connection as Connection

_T = TypeVar("_T")

Connect: TypeAlias = "Callable[[], Connection]"
"""Opens a new connection, which the caller closes. It should be a `LimitedConnection`, of a `Reconnecting`."""

_STATEMENT_TIMEOUT_MS = 30_000
_RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before each retry of a connection or a query: together about as long as PostgreSQL needs to restart."""
_PATIENCE_SECONDS = 180.0
"""No retry begins later than this after the first failure."""

# With old or no statistics PostgreSQL may expect few rows after an id, and read and sort all of them for each page.
# With these settings it walks the primary key in order.
_WALK_THE_INDEX = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; "
# Compiling a page's query takes longer than running it.
_DO_NOT_COMPILE = "SET LOCAL jit = off; "
_FIRST_WITH_JIT = 110000  # PostgreSQL 11

_SILENCE_SECONDS = 25.0
"""Seconds after its time limit at which an unanswered statement counts as lost."""
_APPLICATION_NAME = "mastosync"
_FEWEST_ROWS = 100
_IDLE_SECONDS = 30.0
"""A connection that has not been used for so long is opened anew: the server ends idle sessions (`_SESSION`)."""

# Nobody's migration waits for a client that is gone. While a query runs, its own limit ends it, or the server notices
# that the client has hung up; and where an answer does not get through (to a pooler or an SSH server that cannot pass
# it on, too), TCP has a limit. All end with the transaction, which is the query's alone.
_TRANSACTION = (
    ("tcp_keepalives_idle", "15", 0),
    ("tcp_keepalives_interval", "5", 0),
    ("tcp_keepalives_count", "3", 0),
    ("tcp_user_timeout", "25s", 120000),
    # PostgreSQL 14 has it, and refuses it on any other system than Linux.
    ("client_connection_check_interval", "5s", 150000),
    # Each query has a transaction of its own, and a limit of its own. This one would end the session.
    ("transaction_timeout", "0", 170000),
)
"""Settings of a transaction, each with the first version of PostgreSQL to be given it."""

_SESSION = {
    "tcp_user_timeout": "25s",
    "tcp_keepalives_idle": "20",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "idle_session_timeout": "60s",
}
"""What a session of our own is set to, so that the server ends it soon when this machine is gone."""
_EARLIEST, _LATEST = datetime(1, 1, 2), datetime(9999, 12, 30)  # noqa: DTZ001  (as Mastodon's columns are)
"""Timestamps that are read, in UTC: those that Python has, less a day, so that hours can be added and taken off."""
_SET_UP_SECONDS = 10.0
_SET_UP_SESSION = """
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SELECT set_config(wanted.name, wanted.value, false)
    FROM unnest(%(names)s, %(values)s) AS wanted (name, value)
    JOIN pg_catalog.pg_settings USING (name)
    WHERE pg_catalog.pg_backend_pid() = %(pid)s
"""

# A smaller page may avoid these: the statement timeout, and a standby that had to continue its replay.
_TOO_SLOW = (errors.QueryCanceled, errors.SerializationFailure)


class NotMastodonError(AdminError):
    """The database lacks tables or columns of Mastodon's. The message names them."""


class DatabaseReadError(AdminError):
    """The database could not be read, after retries where those help. The message says what to check."""


class LostDatabaseError(DatabaseReadError):
    """The connection broke while a query without retries waited for its answer."""


def not_mastodon(database: str, absent: str) -> NotMastodonError:
    """Return the error for a database without ``absent``."""
    return NotMastodonError(
        f"The database {database!r} is not a Mastodon database that mastosync can read: {absent}."
        " Name Mastodon's own database in DATABASE_URL or DB_NAME, with a user who may read its tables."
    )


def may_not_read(database: str, what: str) -> DatabaseReadError:
    """Return the error for a user without the right to read ``what``."""
    return DatabaseReadError(
        f"The database {database!r} does not let its user read {what}."
        " GRANT SELECT on it to the user of DATABASE_URL or DB_USER, or name another user there."
    )


def rows_hidden(database: str, user: str, rows: str) -> DatabaseReadError:
    """Return the error for a user to whom row-level security does not show ``rows``."""
    return DatabaseReadError(
        f"In the database {database!r} row-level security hides {rows} from this user. What it hides would count as"
        f' deleted, and private media as public. Run as a superuser: ALTER ROLE "{user}" BYPASSRLS. Or name the owner'
        " of the tables in DATABASE_URL or DB_USER."
    )


class Reconnecting:
    """Opens connections, the first one and later ones by one policy: what may pass is retried for some minutes.

    Thread-safe. Only where somebody waits for the first one, that one is tried once: most likely a setting is wrong.
    Settings that have worked are right: what refuses a later connection for them may pass.

    Args:
        connect: Opens a connection, or raises a psycopg2.OperationalError, which may say that it is ``permanent``:
            until the first success, it is not retried.
        at_once: The first connection is tried once.
        warn: Gets a sentence when the database is lost, and when it is back.
        deadline: No retry begins later, by the monotonic clock.
    """

    def __init__(
        self, connect: Connect, *, at_once: bool, warn: Callable[[str], object], deadline: float = math.inf
    ) -> None:
        self._connect = connect
        self._at_once = at_once
        self._warn = warn
        self._deadline = deadline
        self._has_worked = False
        self._lost_at: float | None = None
        self._late = LimitedConnection.late

    def __call__(self) -> Connection:
        """Open a connection.

        Raises:
            psycopg2.OperationalError: What ``connect`` raised last.
        """
        until = min(time.monotonic() + _PATIENCE_SECONDS, self._deadline)
        for delay in (*_RETRY_DELAYS, None):
            try:
                connection = self._connect()
            except psycopg2.OperationalError as error:
                late = time.monotonic() + (delay or 0) > until
                hopeless = self._at_once or getattr(error, "permanent", False)
                if delay is None or late or (hopeless and not self._has_worked):
                    raise
                self._lost(f"{_first_line(error)}. It is tried again for up to {_PATIENCE_SECONDS / 60:.0f} minutes")
            else:
                self._found()
                if isinstance(connection, LimitedConnection):
                    connection.late = self._late
                    connection.on_silence, connection.on_answer = self._lost, partial(self._answered, connection)
                return connection
            time.sleep(delay)
        raise AssertionError  # the last attempt returns or raises

    def _lost(self, what: str) -> None:
        """Say that the database is lost, once."""
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            self._warn(what)

    def _answered(self, connection: LimitedConnection) -> None:
        """Note that a late query was answered: one that takes as long again is not said once more."""
        if self._lost_at is not None:
            self._late = connection.late = max(self._late, 2 * (time.monotonic() - self._lost_at + self._late))
        self._found()

    def _found(self) -> None:
        self._has_worked = True
        if self._lost_at is not None:
            seconds, self._lost_at = time.monotonic() - self._lost_at, None
            self._warn(f"the database answers again, after {seconds:.0f} s")


def _timestamp(text: str | bytes | None, cursor: Cursor) -> datetime | None:
    """Return a timestamp, or the nearest one: PostgreSQL has other years too, and any server may send one."""
    return _nearest(PYDATETIME, text, cursor, None)


def _timestamp_with_zone(text: str | bytes | None, cursor: Cursor) -> datetime | None:
    return _nearest(PYDATETIMETZ, text, cursor, timezone.utc)


def _nearest(
    read: Callable[[str | bytes | None, Cursor], datetime | None],
    text: str | bytes | None,
    cursor: Cursor,
    zone: timezone | None,
) -> datetime | None:
    earliest, latest = _EARLIEST.replace(tzinfo=zone), _LATEST.replace(tzinfo=zone)
    try:
        found = read(text, cursor)
    except ValueError:
        return earliest if str(text).endswith("BC") else latest
    return found and min(max(found, earliest), latest)


_TIMESTAMPS = (
    # `timestamp without time zone`, which Mastodon's columns are, and `timestamp with time zone`.
    new_type((1114,), "TIMESTAMP", _timestamp),
    new_type((1184,), "TIMESTAMPTZ", _timestamp_with_zone),
)


def set_up_session(connection: Connection) -> None:
    """Have the server end a new connection's session soon after this machine is gone, if the session is ours alone.

    A pooler's session has another process id than the one that the pooler gives us, and is left as it is.
    """
    before, connection.autocommit = connection.autocommit, True
    if isinstance(connection, LimitedConnection):
        connection.until = time.monotonic() + _SET_UP_SECONDS
    try:
        with connection.cursor() as cursor:
            parameters = {"names": list(_SESSION), "values": list(_SESSION.values())}
            cursor.execute(_SET_UP_SESSION, {**parameters, "pid": connection.info.backend_pid})
    except psycopg2.DatabaseError:
        # A server that only speaks PostgreSQL's protocol may know no such settings. It may still be read.
        if connection.closed:
            raise
    finally:
        if isinstance(connection, LimitedConnection):
            connection.until = math.inf
        if not connection.closed:
            connection.autocommit = before


class ReadingCursor(Cursor):
    """Executes each query in a read-only transaction of its own, with `_TRANSACTION` and a time limit in milliseconds.

    The settings and the query are one message, and such a message is one transaction (PostgreSQL 10 and newer). It ends
    with its answer, whatever that is: between two queries nothing is open, and after an error nothing waits for a
    ROLLBACK of a client that may be gone, behind a pooler either.
    """

    def limit(self, milliseconds: int) -> None:
        """Set the time limit of queries."""
        version = self.connection.server_version
        settings = {
            # A pooler's session may have settings of other clients: pg_dump empties the search path.
            "search_path": "DEFAULT",
            # A query fails where a policy would hide rows from it.
            "row_security": "off",
            # Columns without time zone, and times that are compared with them, are in UTC. Columns with one, which a
            # conversion of the database may have made, are then as well.
            "TimeZone": "'UTC'",
            "statement_timeout": str(milliseconds),
            "application_name": f"'{_APPLICATION_NAME}'",
            **{name: f"'{value}'" for name, value, first in _TRANSACTION if version >= first},
        }
        local = "".join(f"SET LOCAL {name} TO {value}; " for name, value in settings.items())
        # Of a single query the level says nothing. A standby refuses transactions that are serializable by default.
        self._before = sql.SQL("SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY; " + local)

    def execute(self, query: Any, parameters: Any = None) -> None:
        """Execute a query, a text or a `sql.Composable`."""
        super().execute(self._before + (query if isinstance(query, sql.Composable) else sql.SQL(query)), parameters)


@contextlib.contextmanager
def reading(connection: Connection, statement_timeout_ms: int = _STATEMENT_TIMEOUT_MS) -> Iterator[Cursor]:
    """Yield a cursor that executes each query in a read-only transaction. The connection must be in none."""
    # A setting of psycopg2 alone: nothing is sent.
    before, connection.autocommit = connection.autocommit, True
    limited = connection if isinstance(connection, LimitedConnection) else None
    if limited is not None:
        # The server's own limit does not help if the server, or the network, stops answering.
        limited.until = time.monotonic() + statement_timeout_ms / 1000 + _SILENCE_SECONDS
    try:
        with connection.cursor(cursor_factory=ReadingCursor) as cursor:
            for timestamp in _TIMESTAMPS:
                register_type(timestamp, cursor)
            cursor.limit(statement_timeout_ms)
            yield cursor
    finally:
        if limited is not None:
            limited.until = math.inf
        if not connection.closed:
            connection.autocommit = before


@contextlib.contextmanager
def reading_once(connection: Connection) -> Iterator[Cursor]:
    """Yield a cursor as `reading` does, for queries without retries. A failure is a DatabaseReadError."""
    database = connection.info.dbname
    try:
        with reading(connection) as cursor:
            yield cursor
    except psycopg2.Error as error:
        raise _unreadable(database, connection, error) from error


def read_over(connect: Connect, read: Callable[[Connection], _T]) -> _T:
    """Return what a function reads over a connection; over a new one where it is lost, as often as `Reader` tries.

    Raises:
        LostDatabaseError: Each one was lost.
        AdminError: What ``connect`` or the function raises for another reason.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    for delay in _RETRY_DELAYS:
        try:
            return _read_over_one(connect, read)
        except LostDatabaseError:
            if time.monotonic() + delay > until:
                raise
        time.sleep(delay)
    return _read_over_one(connect, read)


def _read_over_one(connect: Connect, read: Callable[[Connection], _T]) -> _T:
    with contextlib.closing(connect()) as connection:
        return read(connection)


def _unreadable(database: str, connection: Connection, error: psycopg2.Error) -> AdminError:
    """Return in words for an admin why a query failed."""
    if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
        return not_mastodon(database, _first_line(error))
    if isinstance(error, errors.InsufficientPrivilege):
        # The message is in the server's language, and the same class of error stands for a right that is missing.
        if error.diag.source_function == "check_enable_rls":
            return rows_hidden(database, connection.info.user, f"rows ({_first_line(error)})")
        return may_not_read(database, f"what it must ({_first_line(error)})")
    if isinstance(error, errors.CharacterNotInRepertoire | errors.UntranslatableCharacter):
        return DatabaseReadError(
            f"The database {database!r} holds text that is not UTF-8 ({_first_line(error)}), which its encoding (SHOW"
            " server_encoding) lets in: find the row with these bytes in a file name or an address, and correct it."
        )
    message = f"Reading the database {database!r} failed: {_first_line(error)}."
    if _is_lost(error, connection):
        return LostDatabaseError(f"{message} Is the server of DATABASE_URL or DB_HOST up, and not overloaded?")
    return DatabaseReadError(message)


def _is_lost(error: psycopg2.Error, connection: Connection) -> bool:
    """Return whether a query failed because of the connection, so that another one may help."""
    # For a broken connection psycopg2 sometimes raises only its base class.
    return isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError) or bool(connection.closed)


class Reader:
    """Runs queries that read a bounded number of rows each, and reconnects after a lost connection.

    ``rows`` is the limit of a query, halved for good after each timeout.
    """

    def __init__(self, connect: Connect, *, rows: int) -> None:
        if rows < 1:
            raise ValueError(f"a query must read at least one row, not {rows}")
        self.rows = rows
        self._connect = connect
        self._connection: Connection | None = None
        self._used = 0.0

    def fetch(self, query: sql.Composed, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Return all rows of a query; its parameter ``rows`` is how many rows of the table it may read.

        Errors are NotMastodonError for an absent table or column, DatabaseReadError after all retries or if none helps,
        and that of ``connect``, which has retries of its own, as it is.
        """
        started = time.monotonic()
        attempts = 0
        for delay in (*_RETRY_DELAYS, None):
            attempts += 1
            connection = self._open()
            database = connection.info.dbname
            try:
                with reading(connection, _STATEMENT_TIMEOUT_MS) as cursor:
                    settings = _WALK_THE_INDEX
                    if connection.server_version >= _FIRST_WITH_JIT:
                        settings += _DO_NOT_COMPILE
                    cursor.execute(sql.SQL(settings) + query, {**parameters, "rows": self.rows})
                    return cursor.fetchall()
            except psycopg2.Error as error:
                if not _is_lost(error, connection):
                    raise _unreadable(database, connection, error) from error
                failure = error
                if isinstance(error, (*_TOO_SLOW, SilentError)):
                    self.rows = max(self.rows // 2, min(self.rows, _FEWEST_ROWS))
                self.close()
            finally:
                self._used = time.monotonic()
            if delay is None or time.monotonic() - started + delay > _PATIENCE_SECONDS:
                break
            time.sleep(delay)
        raise DatabaseReadError(
            f"Reading the database {database!r} failed {attempts} times in a row, the last"
            f" time with: {_first_line(failure)}. Is the server of DATABASE_URL or DB_HOST up, and not overloaded?"
        ) from failure

    def close(self) -> None:
        """Close the connection; the next query opens another."""
        if self._connection is not None:
            with contextlib.suppress(psycopg2.Error):
                self._connection.close()
            self._connection = None

    def _open(self) -> Connection:
        if time.monotonic() - self._used > _IDLE_SECONDS:
            self.close()
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
