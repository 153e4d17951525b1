"""Every reason not to delete an object."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from mastosync_dagster.expected.objects import key_ranges
from mastosync_dagster.mastodon import (
    Connect,
    Schema,
    highest_id,
    newest_row,
    owners,
    rows_as_of,
)

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812  (a class with a lower-case name)

    from mastosync_dagster.records.findings import FindingLine
    from mastosync_dagster.s3.storage import Storage

MIN_AGE = timedelta(days=1)
"""Younger objects are never deleted: a row may be about to come, or a copy under way."""

TOO_YOUNG = "written less than a day ago"
AFTER_NEWEST_ROW = "written after the newest row of the database, which looks older than the copy"
_NEVER = datetime(1970, 1, 1, tzinfo=timezone.utc)
_BUSY_TABLES = ("accounts", "media_attachments")
"""Those that get rows all day on an instance that runs, with ids that grow with time."""
_HIGHEST_ID = 2**63 - 1
_LONG_AGO = datetime(1970, 1, 2, tzinfo=timezone.utc)


def shown_at(connection: Connection) -> datetime:
    """Return the moment whose rows the database shows, or ours if that is earlier.

    A standby may lag behind by more than a day: there the rows of new objects have not come yet.
    """
    shown = rows_as_of(connection)
    # A standby that has replayed nothing since it was started does not know: nothing is old enough then.
    return _LONG_AGO if shown is None else min(shown, datetime.now(timezone.utc))


def restored_from(connect: Connect, schema: Schema, storage: Storage, read_at: datetime) -> datetime | None:
    """Return the moment of a database's newest row if it looks like a backup older than what the destination has.

    Its rows do not show what has come since, which is no reason to delete it. On an instance that runs, it takes a
    query to see that the database is none.

    Args:
        connect: Opens a connection.
        schema: What the database has.
        storage: The destination.
        read_at: See `shown_at`.

    Returns:
        None: something was written to it in the last day, or no object belongs to a row that came later. Where no
        row says when it was written, it may have been at any time: 1970.
    """
    with contextlib.closing(connect()) as connection:
        newest = newest_row(connection, schema) or _NEVER
        if newest > read_at - MIN_AGE:
            return None
        highest = {table: highest_id(connection, schema, table) for table in _BUSY_TABLES if schema.has(table, "id")}
    later = (
        entry
        for table, row_id in highest.items()
        if row_id is not None
        for keys in key_ranges(table, row_id + 1, _HIGHEST_ID)
        for page in storage.list_pages(keys)
        for entry in page
        if (owner := owners(entry.key)) is not None and owner.row_id > row_id
    )
    return newest if any(True for _ in later) else None


@dataclass
class RangeLook:
    """What was seen of a range, and whether that lets anything be deleted.

    Attributes:
        read_at: See `shown_at`; before the first row was read.
        rows: Rows with a file.
        wanted: Objects that they expect.
        there: How many of those the destination has.
        extra: Objects that no row expects.
        unknown_styles: How many of those must stay, since a newer Mastodon may have made them.
        old: How many of the others are old enough to be deleted, whatever the limit of a run.
        list_requests: ListObjectsV2 requests.
        witnesses: Ids of two rows with a file.
        restored_from: See `restored_from`.
    """

    read_at: datetime
    rows: int = 0
    wanted: int = 0
    there: int = 0
    extra: int = 0
    unknown_styles: int = 0
    old: int = 0
    list_requests: int = 0
    witnesses: list[int] = field(default_factory=list)
    restored_from: datetime | None = None

    def refusal(self, max_share: float) -> str | None:
        """Say why nothing may be deleted; None: something may."""
        if not self.wanted:
            return (
                "the database has no row with a file in this range, so nothing there shows that it is the right one:"
                " check DATABASE_URL or DB_NAME"
            )
        if 2 * self.there < self.wanted:
            return (
                f"the destination has {self.there:,} of the {self.wanted:,} objects that the rows expect, so it does"
                " not look like a copy of this instance: check DESTINATION_S3_BUCKET, DESTINATION_S3_KEY_PREFIX and"
                " DATABASE_URL, and sync the range first"
            )
        if self.old > max_share * self.wanted:
            return (
                f"{self.old:,} objects that no row expects would go, and the rows expect {self.wanted:,}: more than"
                f" max_share ({max_share:g}) of that, as if another instance's objects lay there too. Check"
                " DESTINATION_S3_BUCKET, DESTINATION_S3_KEY_PREFIX and DATABASE_URL, read the list, and give a higher"
                " max_share if all of it is this instance's"
            )
        return None


def why_young(line: FindingLine, look: RangeLook) -> str | None:
    """Say why an object may not be deleted yet; None: it is old enough."""
    if line.modified is None or line.modified > look.read_at - MIN_AGE:
        return TOO_YOUNG
    if look.restored_from is not None and line.modified > look.restored_from - MIN_AGE:
        return AFTER_NEWEST_ROW
    return None
