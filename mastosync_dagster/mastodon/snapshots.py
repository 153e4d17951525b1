"""What a database shows when a walk over its rows begins: as of when, what is open, and whether it is the same one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from psycopg2 import sql

from mastosync_dagster.mastodon.connection import single_transaction

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812  (a class with a lower-case name)

    from mastosync_dagster.mastodon.schema import Schema

_STEPS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between two looks whether transactions have ended; the last one again and again."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the database showed at a moment.

    Attributes:
        now: Its clock.
        as_of: Every row that was committed before is there. That is now; on a standby, the moment of the last
            transaction that it has replayed. None: a standby that has replayed none since it was started, and does not
            know how far behind it is.
        next_transaction: Transactions with a lower number had begun to write. Some of them may be open: their rows, of
            moments that lie before, come later.
    """

    now: datetime
    as_of: datetime | None
    next_transaction: int


@dataclass(frozen=True, slots=True)
class NewestRow:
    """The row of a table with the highest id: as long as it is there, the table is not an earlier one.

    Attributes:
        table: The table.
        row_id: Its id.
        created_at: When it was created, in seconds since 1970; 0: the row does not tell.
    """

    table: str
    row_id: int
    created_at: float


def read_snapshot(connection: Connection) -> Snapshot:
    """Return what the database shows now. Raises as `single_transaction`.

    Args:
        connection: A connection that is in no transaction.
    """
    with single_transaction(connection) as cursor:
        # It is the primary that has written the replayed moment down, and its clock that stands in the rows. These
        # functions are allowed to every role, and have had their names since before PostgreSQL 12.
        cursor.execute(
            "SELECT now(), pg_is_in_recovery(), pg_last_xact_replay_timestamp(),"
            " txid_snapshot_xmax(txid_current_snapshot())"
        )
        ((now, in_recovery, replayed, following),) = cursor.fetchall()
    now = now.astimezone(timezone.utc)
    # A server that was a standby remembers what it replayed; once promoted, it shows all that it has.
    as_of = now if not in_recovery else replayed and min(now, replayed.astimezone(timezone.utc))
    return Snapshot(now, as_of, following)


def wait_for_open_transactions(connection: Connection, snapshot: Snapshot, seconds: float) -> bool:
    """Wait until every transaction that had begun to write before a snapshot has ended.

    PostgreSQL counts those of all databases of the server. A transaction that only reads is not waited for.

    Args:
        connection: A connection that is in no transaction.
        snapshot: The snapshot.
        seconds: How long to wait at the most.

    Returns:
        False: one is open still.
    """
    deadline, step = time.monotonic() + seconds, iter(_STEPS)
    pause = 0.0
    while True:
        with single_transaction(connection) as cursor:
            cursor.execute("SELECT txid_snapshot_xmin(txid_current_snapshot())")
            ((oldest,),) = cursor.fetchall()
        if oldest >= snapshot.next_transaction:
            return True
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        pause = next(step, pause)
        time.sleep(min(pause, left))


def newest_row_of(connection: Connection, schema: Schema, table: str) -> NewestRow | None:
    """Return the row of a table with the highest id; None: it has none.

    Args:
        connection: A connection that is in no transaction.
        schema: What the database has.
        table: One of Mastodon's tables with attachments.
    """
    return _row(connection, schema, table, sql.SQL("TRUE"))


def is_there(connection: Connection, schema: Schema, newest: NewestRow) -> bool:
    """Tell whether a row that was once the newest of its table is in the table: the same, and not another of its id.

    It may have been deleted. Or the database is a backup that was made before the row was.
    """
    return _row(connection, schema, newest.table, sql.SQL("id = {}").format(sql.Literal(newest.row_id))) == newest


def _row(connection: Connection, schema: Schema, table: str, which: sql.Composable) -> NewestRow | None:
    created = sql.Identifier("created_at") if schema.has(table, "created_at") else sql.SQL("NULL::timestamp")
    query = sql.SQL("SELECT id, {} FROM {} WHERE {} ORDER BY id DESC LIMIT 1")
    with single_transaction(connection) as cursor:
        cursor.execute(query.format(created, schema.identifier(table), which))
        found = cursor.fetchall()
    if not found:
        return None
    ((row_id, created_at),) = found
    # The column is without time zone, and in UTC.
    seconds = created_at.replace(tzinfo=timezone.utc).timestamp() if created_at is not None else 0.0
    return NewestRow(table, row_id, seconds)
