"""Single rows by their ids: to ask again, or to ask for more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from mastosync_dagster.mastodon.connection import RETRY_DELAYS, Reader
from mastosync_dagster.mastodon.rows import is_private, row_columns
from mastosync_dagster.mastodon.tables import table_named

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from typing_extensions import Self

    from mastosync_dagster.mastodon.connection import Connect
    from mastosync_dagster.mastodon.schema import Schema

_RANGES_A_QUERY = 5_000


class Rows:
    """Reads rows of one table by their ids. A context manager: it closes its connection.

    Args:
        connect: Opens a connection.
        schema: What the database has.
        table: One of Mastodon's tables with attachments.
        more_columns: Further columns to read, as far as the database has them.
        retry_delays: Seconds to wait before each repetition of a query that failed for a reason that passes.

    Raises:
        NotMastodonError: The table, or a column that is needed, is absent.
        ValueError: Mastodon has no such table.
    """

    def __init__(
        self,
        connect: Connect,
        schema: Schema,
        table: str,
        *,
        more_columns: Sequence[str] = (),
        retry_delays: Sequence[float] = RETRY_DELAYS,
    ) -> None:
        schema.require([table])
        facts = table_named(table)
        more = [name for name in more_columns if schema.has(table, name)]
        self._columns = list(dict.fromkeys([*row_columns(facts, schema), *more]))
        self._reader = Reader(connect, rows=_RANGES_A_QUERY, retry_delays=retry_delays)
        # A subquery for each range, so that each is looked up in the primary key whatever the statistics say.
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next query opens another."""
        self._reader.close()

    def within(self, ranges: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
        """Yield the rows with these ids, once for each range that holds them: columns as ``walk_rows`` has them.

        Args:
            ranges: Lowest and highest id of each; some hundred ids at most in any of them.

        Raises:
            NotMastodonError: A table or column does not exist.
            DatabaseReadError: They could not be read, after all retries.
        """
        for start in range(0, len(ranges), _RANGES_A_QUERY):
            some = ranges[start : start + _RANGES_A_QUERY]
            parameters = {"los": [lo for lo, _ in some], "his": [hi for _, hi in some]}
            for row in self._reader.fetch(self._query, parameters):
                yield dict(zip((*self._columns, "private"), row, strict=True))

    def of(self, ids: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield the rows with these ids, as `within` does."""
        return self.within([(row_id, row_id) for row_id in ids])


class PrivateRows:
    """Tells which rows of one table are private now. A context manager: it closes its connection.

    Args:
        connect: Opens a connection.
        schema: What the database has.
        table: One of Mastodon's tables with attachments.

    Attributes:
        table: The table.
    """

    def __init__(self, connect: Connect, schema: Schema, table: str) -> None:
        facts = table_named(table)
        self.table = table
        self._reader = Reader(connect, rows=_RANGES_A_QUERY)
        self._query = sql.SQL("SELECT id FROM {} asked WHERE id = ANY (%(ids)s::bigint[]) AND {}").format(
            schema.identifier(table), is_private(facts, schema, "asked")
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def among(self, ids: Collection[int]) -> set[int]:
        """Return those of some ids, some thousand at most, whose rows are private.

        Raises:
            NotMastodonError: A table or column does not exist any more.
            DatabaseReadError: They could not be read, after all retries.
        """
        return {row_id for (row_id,) in self._reader.fetch(self._query, {"ids": sorted(ids)})}
