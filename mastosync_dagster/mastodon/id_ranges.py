"""Ranges of ids, and the boundaries that divide a table into ranges."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from psycopg2 import sql

from mastosync_dagster.mastodon.connection import Reader, reading_once
from mastosync_dagster.mastodon.keys import SNOWFLAKES
from mastosync_dagster.mastodon.tables import table_named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.mastodon.connection import Connect
    from mastosync_dagster.mastodon.schema import Schema

LOWEST_ID, HIGHEST_ID = -(2**63), 2**63 - 1
"""Bounds of PostgreSQL's bigint. Mastodon's ids begin with -99, the instance's own account."""

_SEQUENCE_BITS = 16
"""Of an id, below its milliseconds."""

_STEP_ROWS = 100_000
"""Rows that one query for boundaries may count: some tens of milliseconds from the index."""


@dataclass(frozen=True, slots=True)
class IdRange:
    """Ids from ``lo`` to ``hi``, both included."""

    lo: int
    hi: int

    def __post_init__(self) -> None:
        if self.hi < self.lo:
            raise ValueError(f"ids from {self.lo} to {self.hi} are no range")


@dataclass(frozen=True, slots=True)
class Boundary:
    """A range of ids, and how many rows of the table it held when it was made."""

    ids: IdRange
    rows: int


def created_at(row_id: int) -> datetime | None:
    """Return when Mastodon has generated an id (its ``Mastodon::Snowflake``); None: it is a serial number."""
    if not SNOWFLAKES[0] <= row_id < SNOWFLAKES[1]:
        return None
    return datetime.fromtimestamp((row_id >> _SEQUENCE_BITS) / 1000, timezone.utc)


def id_boundaries(connect: Connect, table: str, *, after: int | None, rows_per_range: int) -> Iterator[Boundary]:
    """Divide a table into ranges of ids with equally many rows, in one pass over the primary key.

    The ranges are contiguous and begin after the id ``after`` (None: with the lowest id that exists). The last one ends
    with the highest id that exists, and may hold fewer rows.
    """
    table_named(table)
    if rows_per_range < 1:
        raise ValueError(f"a range must hold at least one row, not {rows_per_range}")
    return _boundaries(Reader(connect, rows=_STEP_ROWS), table, after, rows_per_range)


def _boundaries(reader: Reader, table: str, after: int | None, rows_per_range: int) -> Iterator[Boundary]:
    query = sql.SQL(
        """
        SELECT min(id), max(id), count(*), count(*) = LEAST(%(rows)s, %(missing)s)
        FROM (SELECT id FROM {} WHERE id >= %(first)s ORDER BY id LIMIT LEAST(%(rows)s, %(missing)s)) AS step
        """
    ).format(sql.Identifier(table))
    start = None if after is None else after + 1
    first, missing = LOWEST_ID if start is None else start, rows_per_range
    more = True
    try:
        while more and first <= HIGHEST_ID:
            ((lowest, highest, count, more),) = reader.fetch(query, {"first": first, "missing": missing})
            if count:
                start = lowest if start is None else start
                first, missing = highest + 1, missing - count
            # A range is complete when it is full, or when it holds the last rows of the table.
            if start is not None and (not missing or (not more and missing < rows_per_range)):
                yield Boundary(IdRange(start, first - 1), rows_per_range - missing)
                start, missing = first, rows_per_range
    finally:
        reader.close()


def highest_id(connection: Connection, schema: Schema, table: str) -> int | None:
    """Return the highest id of a table; None: it has no row."""
    with reading_once(connection) as cursor:
        cursor.execute(sql.SQL("SELECT max(id) FROM {}").format(schema.identifier(table)))
        highest: int | None = cursor.fetchall()[0][0]
    return highest
