"""Reading from PostgreSQL so that nobody else feels it: short read-only transactions, reconnection, bounded retries.

Nothing here lives longer in the session than a transaction, so that pgbouncer may give every transaction another server
connection: no named cursors, no prepared statements, no session settings.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg2
from psycopg2 import errors, sql

from mastosync_dagster.errors import AdminError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from psycopg2.extensions import connection as Connection  # noqa: N812  (a class with a lower-case name)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812  (as above)

Connect: TypeAlias = "Callable[[], Connection]"
"""Opens a new connection, which the caller closes. It should set ``connect_timeout`` and TCP keepalives."""

STATEMENT_TIMEOUT_MS = 30_000

RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds to wait before each repetition of a failed query: about as long as PostgreSQL needs to restart."""

# Without statistics, or with old ones, PostgreSQL may think that little is left behind an id, and then reads and sorts
# all of it for each page. These leave it the primary key, in order.
_WALK_THE_INDEX = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; "
# Compiling a page's query takes longer than running it.
_DO_NOT_COMPILE = "SET LOCAL jit = off; "
_FIRST_WITH_JIT = 110000  # PostgreSQL 11

_SILENCE_SECONDS = 25.0
"""So long after its time limit a statement that was not answered counts as lost."""
_APPLICATION_NAME = "mastosync"
_FEWEST_ROWS = 100

# A smaller page may pass where these came: the statement timeout, and a standby that had to go on replaying.
_TOO_SLOW = (errors.QueryCanceled, errors.SerializationFailure)


class NotMastodonError(AdminError):
    """The database lacks tables or columns that Mastodon has; the message names them and what to change."""


class DatabaseReadError(AdminError):
    """The database could not be read, after retries where those help; the message says what to look at."""


def not_mastodon(database: str, absent: str) -> NotMastodonError:
    """Return the error for a database that lacks what Mastodon has."""
    return NotMastodonError(
        f"The database {database!r} is not a Mastodon database that mastosync can read: {absent}."
        " Name Mastodon's own database in DATABASE_URL or DB_NAME, with a user who may read its tables."
    )


def may_not_read(database: str, what: str) -> DatabaseReadError:
    """Return the error for a user who lacks a right."""
    return DatabaseReadError(
        f"The database {database!r} does not let its user read {what}."
        " GRANT SELECT on it to the user of DATABASE_URL or DB_USER, or name another user there."
    )


@contextlib.contextmanager
def short_transaction(connection: Connection, statement_timeout_ms: int = STATEMENT_TIMEOUT_MS) -> Iterator[Cursor]:
    """Give a cursor within a read-only transaction of its own, which ends with the block.

    Args:
        connection: A connection that is in no transaction.
        statement_timeout_ms: PostgreSQL cancels a statement that runs longer.
    """
    # The server's own limit helps nobody where the server, or the way to it, is silently gone.
    deadline = threading.Timer(statement_timeout_ms / 1000 + _SILENCE_SECONDS, _hang_up, (connection,))
    deadline.daemon = True
    deadline.start()
    try:
        with _transaction(connection, statement_timeout_ms) as cursor:
            yield cursor
    finally:
        deadline.cancel()


def _hang_up(connection: Connection) -> None:
    """Shut a connection's socket down: whoever waits for an answer gets an error at once."""
    with contextlib.suppress(OSError, psycopg2.Error), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _transaction(connection: Connection, statement_timeout_ms: int) -> Iterator[Cursor]:
    # In autocommit mode psycopg2 leaves BEGIN and COMMIT to us: one round trip less, which counts through a tunnel.
    begin, commit = ("BEGIN; ", "COMMIT") if connection.autocommit else ("", None)
    with connection.cursor() as cursor:
        try:
            cursor.execute(
                # A pooler's session may come with what others left in it: pg_dump empties the search path.
                begin + "SET TRANSACTION READ ONLY; SET LOCAL search_path TO DEFAULT;"
                " SET LOCAL statement_timeout = %s; SET LOCAL application_name = %s",
                (statement_timeout_ms, _APPLICATION_NAME),
            )
            yield cursor
            if commit:
                cursor.execute(commit)
            else:
                connection.commit()
        except BaseException:  # also an interrupt: the connection must not stay in a transaction
            with contextlib.suppress(psycopg2.Error):  # the first error is the one to tell
                if commit:
                    cursor.execute("ROLLBACK")
                else:
                    connection.rollback()
            raise


@contextlib.contextmanager
def single_transaction(connection: Connection) -> Iterator[Cursor]:
    """Give a cursor as `short_transaction` does, for the few queries that are asked once and not repeated.

    Raises:
        DatabaseReadError: The connection broke, or the server would not answer.
    """
    try:
        with short_transaction(connection) as cursor:
            yield cursor
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise DatabaseReadError(
            f"The database {connection.info.dbname!r} broke off: {_first_line(error)}."
            " Is the server of DATABASE_URL or DB_HOST up, and not overloaded?"
        ) from error


class Reader:
    """Runs queries that each read a bounded number of rows, on a connection that is reopened when it is lost.

    Args:
        connect: Opens a connection.
        rows: The most rows that a query may read. Halved, for good, each time that a query takes too long.
        statement_timeout_ms: How long a query may take.
        retry_delays: Seconds to wait before each repetition of a query that failed for a reason that passes.
        database: The database's name, where it has been reached before: a connection that fails is then no wrong
            setting, and is tried again.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        rows: int,
        statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
        retry_delays: Sequence[float] = RETRY_DELAYS,
        database: str = "",
    ) -> None:
        if rows < 1:
            raise ValueError(f"a query must read at least one row, not {rows}")
        self.rows = rows
        self._connect = connect
        self._statement_timeout_ms = statement_timeout_ms
        self._retry_delays = retry_delays
        self._connection: Connection | None = None
        self._connected = False
        self._database = database

    def fetch(self, query: sql.Composed, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Return all rows of a query; its parameter ``rows`` is how many rows of the table it may read.

        Raises:
            NotMastodonError: A table or column does not exist.
            DatabaseReadError: It failed again and again, or for a reason that does not pass.
            Exception: What ``connect`` raised the first time that it was called, of a database not reached before.
        """
        for delay in (*self._retry_delays, None):
            try:
                connection = self._open()
            except Exception as error:  # the tunnel's errors are as welcome here as the driver's
                if not self._connected and not (self._database and _passes(error)):
                    raise
                failure = error
            else:
                try:
                    with short_transaction(connection, self._statement_timeout_ms) as cursor:
                        settings = _WALK_THE_INDEX
                        if connection.server_version >= _FIRST_WITH_JIT:
                            settings += _DO_NOT_COMPILE
                        cursor.execute(sql.SQL(settings) + query, {**parameters, "rows": self.rows})
                        return cursor.fetchall()
                except psycopg2.Error as error:
                    self._raise_unless_it_passes(error, connection)
                    failure = error
                    if isinstance(error, _TOO_SLOW):
                        self.rows = max(self.rows // 2, min(self.rows, _FEWEST_ROWS))
                    self.close()
            if delay is not None:
                time.sleep(delay)
        raise DatabaseReadError(
            f"Reading the database {self._database!r} failed {len(self._retry_delays) + 1} times in a row, the last"
            f" time with: {_first_line(failure)}. Is the server of DATABASE_URL or DB_HOST up, and not overloaded?"
        ) from failure

    def close(self) -> None:
        """Close the connection; the next query opens another."""
        if self._connection is not None:
            with contextlib.suppress(psycopg2.Error):
                self._connection.close()
            self._connection = None

    def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
            if not self._connection.autocommit:
                self._connection.autocommit = True  # psycopg2's own matter; the server is not told
            self._connected = True
            self._database = self._connection.info.dbname
        return self._connection

    def _raise_unless_it_passes(self, error: psycopg2.Error, connection: Connection) -> None:
        if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
            raise not_mastodon(self._database, _first_line(error)) from error
        if isinstance(error, errors.InsufficientPrivilege):
            raise may_not_read(self._database, f"what it must ({_first_line(error)})") from error
        # Of a connection that broke, psycopg2 sometimes raises the base class alone.
        if not isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError) and not connection.closed:
            raise DatabaseReadError(f"Reading the database {self._database!r} failed: {_first_line(error)}") from error


def _passes(error: Exception) -> bool:
    """Tell whether a failure to connect may be one that passes."""
    return isinstance(error, psycopg2.OperationalError) and not getattr(error, "permanent", False)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
