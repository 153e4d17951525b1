"""The state of a database when a walk over its rows begins: its clock, open transactions, and its newest rows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from psycopg2 import sql

from mastosync_dagster.mastodon.changes import CREATED_AT, ROW_UPDATED_AT, with_zone
from mastosync_dagster.mastodon.connection import reading_once
from mastosync_dagster.mastodon.tables import TABLES_READ

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.mastodon.schema import Schema

_STEPS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between two checks whether transactions have ended; the last one repeats."""

_WRITTEN = (ROW_UPDATED_AT, CREATED_AT)
"""Timestamps that Mastodon itself sets when it writes a row, except these:"""
_SET_BY_OTHERS = frozenset({("accounts", CREATED_AT), ("statuses", CREATED_AT)})
"""Set by other servers for their posts and accounts: 2199, or 2009."""
_NEWEST_ROWS = 100
"""How many rows of each table to read: the newest may be from an hour in which a clock was wrong."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a database at one time.

    Attributes:
        now: Its clock.
        as_of: All rows that were committed before this time are visible. On a primary that is now; on a standby it is
            the time of the last replayed transaction. None: a standby that has replayed none since its start, and does
            not know its lag; or a database that is ``subscribed``.
        subscribed: Tables are fed by a subscription (logical replication), from a server whose clock and transactions
            nothing here shows: what it wrote may come at any time.
        next_transaction: Transactions with a lower number had begun to write. Some may be open: their rows, with
            earlier timestamps, appear later.
    """

    now: datetime
    as_of: datetime | None
    subscribed: bool
    next_transaction: int


@dataclass(frozen=True, slots=True)
class NewestRow:
    """The row of a table with the highest id. A database without it may be an earlier backup.

    ``created_at`` is in seconds since 1970; 0: the row has no such time.
    """

    table: str
    row_id: int
    created_at: float


def read_snapshot(connection: Connection) -> Snapshot:
    """Return the present state of the database."""
    with reading_once(connection) as cursor:
        # The replayed timestamp and those of the rows come from one clock, the primary's. Every role may call these
        # functions, and read pg_subscription_rel, of a subscription that is disabled too; PostgreSQL 10 has them all.
        cursor.execute(
            "SELECT now(), pg_is_in_recovery(), pg_last_xact_replay_timestamp(), EXISTS (SELECT FROM"
            " pg_subscription_rel JOIN pg_class ON pg_class.oid = srrelid WHERE relname::text = ANY (%s)),"
            " txid_snapshot_xmax(txid_current_snapshot())",
            (sorted(TABLES_READ),),
        )
        ((now, in_recovery, replayed, subscribed, following),) = cursor.fetchall()
    now = now.astimezone(timezone.utc)
    # A promoted standby still reports its last replayed transaction, but all its rows are visible.
    as_of = now if not in_recovery else replayed and min(now, replayed.astimezone(timezone.utc))
    return Snapshot(now, None if subscribed else as_of, subscribed, following)


def database_now(connection: Connection) -> datetime:
    """Return the time of the database's clock."""
    return read_snapshot(connection).now


def rows_as_of(connection: Connection) -> datetime | None:
    """Return `Snapshot.as_of`: all rows that were committed before this time are visible."""
    return read_snapshot(connection).as_of


def wait_for_open_transactions(connection: Connection, snapshot: Snapshot, seconds: float) -> bool:
    """Wait until every transaction that had begun to write before a snapshot has ended.

    PostgreSQL counts those of all databases of the server, but not transactions that only read. The result is False if
    one is still open after ``seconds``.
    """
    deadline, step = time.monotonic() + seconds, iter(_STEPS)
    pause = 0.0
    while True:
        with reading_once(connection) as cursor:
            cursor.execute("SELECT txid_snapshot_xmin(txid_current_snapshot())")
            ((oldest,),) = cursor.fetchall()
        if oldest >= snapshot.next_transaction:
            return True
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        pause = next(step, pause)
        time.sleep(min(pause, left))


def newest_row(connection: Connection, schema: Schema) -> datetime | None:
    """Return when the newest row of all tables was written; later times than the database's clock do not count.

    On a running instance that is just now. In a restored backup it is the time of the backup, whatever the clock says.
    None: there is no row, or all were written in the future.
    """
    newest = [
        sql.SQL(
            "(SELECT max(written) FROM (SELECT ARRAY[{}] AS times FROM {} ORDER BY id DESC LIMIT {}) newest,"
            " unnest(newest.times) written WHERE written <= now() AT TIME ZONE 'UTC')"
        ).format(sql.SQL(", ").join(map(sql.Identifier, names)), schema.identifier(table), sql.Literal(_NEWEST_ROWS))
        for table in schema.columns
        for names in [
            [name for name in _WRITTEN if schema.has(table, "id", name) and (table, name) not in _SET_BY_OTHERS]
        ]
        if names
    ]
    if not newest:
        return None
    with reading_once(connection) as cursor:
        cursor.execute(sql.SQL("SELECT GREATEST({})").format(sql.SQL(", ").join(newest)))
        ((found,),) = cursor.fetchall()
    return with_zone(found)


def newest_row_of(connection: Connection, schema: Schema, table: str) -> NewestRow | None:
    """Return the row of a table with the highest id; None: it has no row."""
    return _row(connection, schema, table, sql.SQL("TRUE"))


def is_there(connection: Connection, schema: Schema, newest: NewestRow) -> bool:
    """Return whether the row that was once the newest is in its table: the same one, not another with its id.

    If not, it was deleted, or the database is a backup from before the row.
    """
    return _row(connection, schema, newest.table, sql.SQL("id = {}").format(sql.Literal(newest.row_id))) == newest


def _row(connection: Connection, schema: Schema, table: str, which: sql.Composable) -> NewestRow | None:
    column = sql.Identifier(CREATED_AT) if schema.has(table, CREATED_AT) else sql.SQL("NULL::timestamp")
    query = sql.SQL("SELECT id, {} FROM {} WHERE {} ORDER BY id DESC LIMIT 1")
    with reading_once(connection) as cursor:
        cursor.execute(query.format(column, schema.identifier(table), which))
        found = cursor.fetchall()
    if not found:
        return None
    ((row_id, created_at),) = found
    created = with_zone(created_at)
    return NewestRow(table, row_id, created.timestamp() if created is not None else 0.0)
