"""The first and the last rows of a table, as a sample."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from psycopg2 import sql

from mastosync_dagster.mastodon.connection import single_transaction
from mastosync_dagster.mastodon.id_ranges import IdRange
from mastosync_dagster.mastodon.rows import Selection, walk_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mastosync_dagster.mastodon.connection import Connect
    from mastosync_dagster.mastodon.schema import Schema


def rows_at_the_ends(connect: Connect, schema: Schema, table: str, rows: int) -> list[list[Mapping[str, object]]]:
    """Return the rows with a file among the first ``rows`` of a table and among the last, in the order of their ids."""
    query = sql.SQL(
        "SELECT min(low), max(low), min(high), max(high)"
        " FROM (SELECT id AS low FROM {table} ORDER BY id LIMIT %(rows)s) AS first"
        " FULL JOIN (SELECT id AS high FROM {table} ORDER BY id DESC LIMIT %(rows)s) AS last ON low = high"
    ).format(table=schema.identifier(table))
    with contextlib.closing(connect()) as connection, single_transaction(connection) as cursor:
        cursor.execute(query, {"rows": rows})
        ((lowest, low, high, highest),) = cursor.fetchall()
    if lowest is None:
        return []
    ends = [IdRange(lowest, low)] + ([IdRange(max(high, low + 1), highest)] if highest > low else [])
    return [
        [row for page in walk_rows(connect, schema, Selection(table, ids=ids), page_rows=rows) for row in page.rows]
        for ids in ends
    ]
