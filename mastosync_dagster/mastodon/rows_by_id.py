"""Rows by their ids: to read them again, or with more columns; and the first and the last rows of a table."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from mastosync_dagster.mastodon.changes import without_zone
from mastosync_dagster.mastodon.connection import Reader, reading_once
from mastosync_dagster.mastodon.id_ranges import IdRange
from mastosync_dagster.mastodon.remote_rows import in_subset
from mastosync_dagster.mastodon.rows import Selection, is_private, row_columns, walk_rows
from mastosync_dagster.mastodon.tables import table_named

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from typing import Self

    from mastosync_dagster.mastodon.remote_rows import RemoteWindow
    from mastosync_dagster.mastodon.schema import Database

_RANGES_A_QUERY = 5_000


class _ById:
    """A context manager with a connection, which it closes."""

    def __init__(self, database: Database) -> None:
        self._reader = Reader(database.connect, rows=_RANGES_A_QUERY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next query opens another."""
        self._reader.close()


class Rows(_ById):
    """Reads rows of one table by their ids, with ``more_columns`` as far as the database has them."""

    def __init__(self, database: Database, table: str, *, more_columns: Sequence[str] = ()) -> None:
        super().__init__(database)
        schema = database.schema
        schema.require([table])
        facts = table_named(table)
        more = [name for name in more_columns if schema.has(table, name)]
        self._columns = list(dict.fromkeys([*row_columns(facts, schema), *more]))
        # A subquery for each range, so that each is read by the primary key whatever the statistics say.
        self._query = sql.SQL(
            """
            SELECT found.*
            FROM unnest(%(los)s::bigint[], %(his)s::bigint[]) AS wanted (lo, hi)
            CROSS JOIN LATERAL (
                SELECT {columns}, {private}
                FROM {table} looked_up
                WHERE id >= wanted.lo AND id <= wanted.hi
                ORDER BY id
                LIMIT wanted.hi - wanted.lo + 1
            ) AS found
            """
        ).format(
            columns=sql.SQL(", ").join(sql.Identifier("looked_up", name) for name in self._columns),
            private=is_private(facts, schema, "looked_up"),
            table=schema.identifier(table),
        )

    def within(self, ranges: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
        """Yield the rows with ids in these ranges (lowest, highest), each range of some hundred ids at most.

        A row comes once for each range that holds it. The columns are those of ``walk_rows``.
        """
        for start in range(0, len(ranges), _RANGES_A_QUERY):
            some = ranges[start : start + _RANGES_A_QUERY]
            parameters = {"los": [lo for lo, _ in some], "his": [hi for _, hi in some]}
            for row in self._reader.fetch(self._query, parameters):
                yield dict(zip((*self._columns, "private"), row, strict=True))

    def of(self, ids: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield the rows with these ids, as `within` does."""
        return self.within([(row_id, row_id) for row_id in ids])


class PrivateRows(_ById):
    """Finds the rows of one table that are private now."""

    def __init__(self, database: Database, table: str) -> None:
        super().__init__(database)
        self.table = table
        schema = database.schema
        schema.require([table])
        self._query = sql.SQL("SELECT id FROM {} asked WHERE id = ANY (%(ids)s::bigint[]) AND {}").format(
            schema.identifier(table), is_private(table_named(table), schema, "asked")
        )

    def among(self, ids: Collection[int]) -> set[int]:
        """Return those of some ids, a few thousand at most, whose rows are private."""
        return {row_id for (row_id,) in self._reader.fetch(self._query, {"ids": sorted(ids)})}


class LeftOutRows(_ById):
    """Finds the rows of one table that a window leaves out; None: it leaves out none, and nothing is asked."""

    def __init__(self, database: Database, table: str, window: RemoteWindow | None) -> None:
        super().__init__(database)
        schema = database.schema
        self._leaves_out = window is not None
        self._parameters = {"blank": schema.blank, "remote_after": without_zone(window.after if window else None)}
        self._query = sql.SQL("SELECT id FROM {} WHERE id = ANY (%(ids)s::bigint[]) AND NOT {}").format(
            schema.identifier(table), in_subset(table_named(table), schema, window)
        )

    def among(self, ids: Collection[int]) -> set[int]:
        """Return those of some ids, a few thousand at most, whose rows exist and are left out."""
        if not self._leaves_out or not ids:
            return set()
        found = self._reader.fetch(self._query, {**self._parameters, "ids": sorted(ids)})
        return {row_id for (row_id,) in found}


def rows_at_the_ends(database: Database, table: str, rows: int) -> list[list[Mapping[str, object]]]:
    """Return the rows with a file among the first ``rows`` of a table and among the last, in the order of their ids."""
    query = sql.SQL(
        "SELECT min(low), max(low), min(high), max(high)"
        " FROM (SELECT id AS low FROM {table} ORDER BY id LIMIT %(rows)s) AS first"
        " FULL JOIN (SELECT id AS high FROM {table} ORDER BY id DESC LIMIT %(rows)s) AS last ON low = high"
    ).format(table=database.schema.identifier(table))
    with contextlib.closing(database.connect()) as connection, reading_once(connection) as cursor:
        cursor.execute(query, {"rows": rows})
        ((lowest, low, high, highest),) = cursor.fetchall()
    if lowest is None:
        return []
    ends = [IdRange(lowest, low)] + ([IdRange(max(high, low + 1), highest)] if highest > low else [])
    return [
        [row for page in walk_rows(database, Selection(table, ids=ids), page_rows=rows) for row in page.rows]
        for ids in ends
    ]
