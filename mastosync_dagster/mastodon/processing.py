"""Uploads that Mastodon has yet to convert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg2 import sql

from mastosync_dagster.mastodon.changes import CREATED_AT
from mastosync_dagster.mastodon.connection import Reader
from mastosync_dagster.mastodon.id_ranges import HIGHEST_ID, LOWEST_ID
from mastosync_dagster.mastodon.tables import PROCESSING

if TYPE_CHECKING:
    from mastosync_dagster.mastodon.schema import Database

_TABLE, _REMOTE = "media_attachments", "remote_url"
_PAGE_ROWS = 100_000
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Processing:
    """Uploads of this instance that wait for their conversion, or are in it.

    Attributes:
        stuck: Of these, how many came more than a day ago: no job of Sidekiq waits for them any more.
        examples: The highest ids.
    """

    count: int = 0
    stuck: int = 0
    examples: tuple[int, ...] = ()


def media_in_processing(database: Database) -> Processing:
    """Count the uploads in processing, page by page of the primary key. See `Reader` for the errors."""
    schema = database.schema
    if not schema.has(_TABLE, PROCESSING, _REMOTE, CREATED_AT):
        return Processing()
    # There is no index on the column.
    query = sql.SQL(
        """
        WITH scanned AS (
            SELECT id, {created} < now() AT TIME ZONE 'UTC' - interval '1 day' AS old,
                btrim(COALESCE({remote}, ''), %(blank)s) = '' AND {processing} IN (0, 1) AS wanted
            FROM {table} WHERE id > %(after)s ORDER BY id LIMIT %(rows)s
        )
        SELECT max(id), count(*) FILTER (WHERE wanted), count(*) FILTER (WHERE wanted AND old),
            (array_agg(id ORDER BY id DESC) FILTER (WHERE wanted))[:3]
        FROM scanned
        """
    ).format(
        created=sql.Identifier(CREATED_AT),
        remote=sql.Identifier(_REMOTE),
        processing=sql.Identifier(PROCESSING),
        table=schema.identifier(_TABLE),
    )
    reader = Reader(database.connect, rows=_PAGE_ROWS)
    found, after = Processing(), LOWEST_ID
    try:
        while after < HIGHEST_ID:
            ((last, count, stuck, ids),) = reader.fetch(query, {"after": after, "blank": schema.blank})
            if last is None:
                break
            examples = (*(ids or ()), *found.examples)[:_EXAMPLES]
            found, after = Processing(found.count + count, found.stuck + stuck, examples), last
    finally:
        reader.close()
    return found
