"""Reading from PostgreSQL with little load for others: short read-only transactions, reconnection, bounded retries.

pgbouncer may give every transaction another server connection. So no session state is used: no named cursors, no
prepared statements, no session settings.
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
    from collections.abc import Callable, Iterator, Mapping

    from psycopg2.extensions import connection as Connection  # noqa: N812  (a class with a lower-case name)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812  (as above)

Connect: TypeAlias = "Callable[[], Connection]"
"""Opens a new connection, which the caller closes. It should set ``connect_timeout`` and TCP keepalives."""

_STATEMENT_TIMEOUT_MS = 30_000
_RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before each retry of a query: together about as long as PostgreSQL needs to restart."""

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

# A smaller page may avoid these: the statement timeout, and a standby that had to continue its replay.
_TOO_SLOW = (errors.QueryCanceled, errors.SerializationFailure)


class NotMastodonError(AdminError):
    """The database lacks tables or columns of Mastodon's. The message names them."""


class DatabaseReadError(AdminError):
    """The database could not be read, after retries where those help. The message says what to check."""


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


@contextlib.contextmanager
def short_transaction(connection: Connection, statement_timeout_ms: int = _STATEMENT_TIMEOUT_MS) -> Iterator[Cursor]:
    """Yield a cursor in a read-only transaction that ends with the block. The connection must be in none."""
    # The server's own limit does not help if the server, or the network, stops answering.
    deadline = threading.Timer(statement_timeout_ms / 1000 + _SILENCE_SECONDS, _hang_up, (connection,))
    deadline.daemon = True
    deadline.start()
    try:
        with _transaction(connection, statement_timeout_ms) as cursor:
            yield cursor
    finally:
        deadline.cancel()


def _hang_up(connection: Connection) -> None:
    """Shut down a connection's socket, so that the thread that waits for an answer gets an error at once."""
    with contextlib.suppress(OSError, psycopg2.Error), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _transaction(connection: Connection, statement_timeout_ms: int) -> Iterator[Cursor]:
    # In autocommit mode BEGIN is sent here with the settings: one round trip less, which counts through a tunnel.
    begin, commit = ("BEGIN; ", "COMMIT") if connection.autocommit else ("", None)
    with connection.cursor() as cursor:
        try:
            cursor.execute(
                # A pooler's session may have settings of other clients: pg_dump empties the search path.
                begin + "SET TRANSACTION READ ONLY; SET LOCAL search_path TO DEFAULT;"
                " SET LOCAL statement_timeout = %s; SET LOCAL application_name = %s",
                (statement_timeout_ms, _APPLICATION_NAME),
            )
            yield cursor
            if commit:
                cursor.execute(commit)
            else:
                connection.commit()
        except BaseException:  # also after an interrupt: the connection must not stay in a transaction
            with contextlib.suppress(psycopg2.Error):  # the first error is the one to report
                if commit:
                    cursor.execute("ROLLBACK")
                else:
                    connection.rollback()
            raise


@contextlib.contextmanager
def single_transaction(connection: Connection) -> Iterator[Cursor]:
    """Yield a cursor as `short_transaction` does, for queries without retries. A failure is a DatabaseReadError."""
    try:
        with short_transaction(connection) as cursor:
            yield cursor
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise DatabaseReadError(
            f"Reading the database {connection.info.dbname!r} failed: {_first_line(error)}."
            " Is the server of DATABASE_URL or DB_HOST up, and not overloaded?"
        ) from error


class Reader:
    """Runs queries that read a bounded number of rows each, and reconnects after a lost connection.

    ``rows`` is the limit of a query, halved for good after each timeout. ``database`` is the name of a database that
    has been reached before: its settings are right, so the first connection is retried too.
    """

    def __init__(self, connect: Connect, *, rows: int, database: str = "") -> None:
        if rows < 1:
            raise ValueError(f"a query must read at least one row, not {rows}")
        self.rows = rows
        self._connect = connect
        self._connection: Connection | None = None
        self._connected = False
        self._database = database

    def fetch(self, query: sql.Composed, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Return all rows of a query; its parameter ``rows`` is how many rows of the table it may read.

        Errors are NotMastodonError for an absent table or column, DatabaseReadError after all retries or if none helps,
        and that of the first connection to a database not reached before, as it is.
        """
        for delay in (*_RETRY_DELAYS, None):
            try:
                connection = self._open()
            except Exception as error:  # of the driver or of the tunnel
                temporary = isinstance(error, psycopg2.OperationalError) and not getattr(error, "permanent", False)
                # Until a database has been reached, a failure is most likely a wrong setting.
                if not self._connected and not (self._database and temporary):
                    raise
                failure = error
            else:
                try:
                    with short_transaction(connection, _STATEMENT_TIMEOUT_MS) as cursor:
                        settings = _WALK_THE_INDEX
                        if connection.server_version >= _FIRST_WITH_JIT:
                            settings += _DO_NOT_COMPILE
                        cursor.execute(sql.SQL(settings) + query, {**parameters, "rows": self.rows})
                        return cursor.fetchall()
                except psycopg2.Error as error:
                    self._raise_if_permanent(error, connection)
                    failure = error
                    if isinstance(error, _TOO_SLOW):
                        self.rows = max(self.rows // 2, min(self.rows, _FEWEST_ROWS))
                    self.close()
            if delay is not None:
                time.sleep(delay)
        raise DatabaseReadError(
            f"Reading the database {self._database!r} failed {len(_RETRY_DELAYS) + 1} times in a row, the last"
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
                self._connection.autocommit = True  # a setting of psycopg2 alone: nothing is sent
            self._connected = True
            self._database = self._connection.info.dbname
        return self._connection

    def _raise_if_permanent(self, error: psycopg2.Error, connection: Connection) -> None:
        if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
            raise not_mastodon(self._database, _first_line(error)) from error
        if isinstance(error, errors.InsufficientPrivilege):
            raise may_not_read(self._database, f"what it must ({_first_line(error)})") from error
        if isinstance(error, errors.CharacterNotInRepertoire | errors.UntranslatableCharacter):
            raise DatabaseReadError(
                f"The database {self._database!r} holds text that is not UTF-8 ({_first_line(error)}), which its"
                " encoding (SHOW server_encoding) lets in: find the row with these bytes in a file name or an address,"
                " and correct it."
            ) from error
        # For a broken connection psycopg2 sometimes raises only its base class.
        if not isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError) and not connection.closed:
            raise DatabaseReadError(f"Reading the database {self._database!r} failed: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
