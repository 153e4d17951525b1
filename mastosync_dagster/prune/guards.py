"""The reasons not to delete an object."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from mastosync_dagster.expected.objects import key_ranges
from mastosync_dagster.mastodon import Database, highest_id, newest_row, owners, rows_as_of
from mastosync_dagster.prune.config import UNCONFIRMED

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.records.findings import FindingLine
    from mastosync_dagster.s3.storage import Storage

MIN_AGE = timedelta(days=1)
"""Younger objects are never deleted: their row may be about to be added, or a copy is under way."""

TOO_YOUNG = "written less than a day ago"
AFTER_NEWEST_ROW = "written after the newest row of the database, which looks older than the copy"
_NEVER = datetime(1970, 1, 1, tzinfo=timezone.utc)
_BUSY_TABLES = ("accounts", "media_attachments")
"""Tables that get rows all day on a running instance, with ids that grow with time."""
_HIGHEST_ID = 2**63 - 1
_LONG_AGO = datetime(1970, 1, 2, tzinfo=timezone.utc)


def shown_at(connection: Connection) -> datetime:
    """Return the time whose rows the database shows, or this machine's if that is earlier.

    A standby, or a database with a subscription, may lag behind by more than a day, and lack the rows of new objects.
    """
    shown = rows_as_of(connection)
    # The time may be unknown (`Snapshot.as_of`): nothing is old enough then.
    return _LONG_AGO if shown is None else min(shown, datetime.now(timezone.utc))


def restored_from(database: Database, storage: Storage, read_at: datetime) -> datetime | None:
    """Return the time of the newest row, if the database looks like a restored backup older than the destination.

    Such a database lacks the rows of newer objects, which must not be deleted for that. None: the database was written
    to in the day before ``read_at`` (see `shown_at`), or the destination has no object of a later row. Without any
    timestamp in the rows it is 1970.
    """
    schema = database.schema
    with contextlib.closing(database.connect()) as connection:
        newest = newest_row(connection, schema) or _NEVER
        # On a running instance one query suffices.
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
class RangeStats:
    """Counts of a range, and whether they allow any deletion.

    Attributes:
        read_at: See `shown_at`; before the first row was read.
        rows: Rows with a file, without those that the policy leaves out.
        expected: Objects of these rows.
        left_out: Objects of rows that the policy leaves out: they stay if they are there.
        there: How many of those the destination has.
        orphans: Objects at the destination that no row expects.
        unknown_styles: Orphans that must stay, since a newer Mastodon may have made them.
        old: Other orphans that are old enough to be deleted, whatever ``max_delete``.
        unrecorded: Of these, the ones that no run has copied here.
        witnesses: Ids of two rows with a file.
        restored_from: See `restored_from`.
    """

    read_at: datetime
    rows: int = 0
    expected: int = 0
    there: int = 0
    left_out: int = 0
    orphans: int = 0
    unknown_styles: int = 0
    old: int = 0
    unrecorded: int = 0
    list_requests: int = 0
    witnesses: list[int] = field(default_factory=list)
    restored_from: datetime | None = None

    def refusal(self, max_share: float, max_delete: int | None) -> str | None:
        """Return why nothing may be deleted; None: something may."""
        if not self.expected and self.left_out:
            return (
                "the policy leaves out every row with a file in this range, so nothing there shows that the destination"
                " is a copy of this instance"
            )
        if not self.expected:
            return (
                "the database has no row with a file in this range, so nothing there shows that it is the right one:"
                " check DATABASE_URL or DB_NAME"
            )
        if 2 * self.there < self.expected:
            return (
                f"the destination has {self.there:,} of the {self.expected:,} objects that the rows expect, so it does"
                " not look like a copy of this instance: check DESTINATION_S3_BUCKET, DESTINATION_S3_KEY_PREFIX and"
                " DATABASE_URL, and sync the range first"
            )
        if self.old > max_share * self.expected:
            return (
                f"{self.old:,} objects that no row expects would go, and the rows expect {self.expected:,}: more than"
                f" max_share ({max_share:g}) of that, as if another instance's objects lay there too. Check"
                " DESTINATION_S3_BUCKET, DESTINATION_S3_KEY_PREFIX and DATABASE_URL, read the list, and give a higher"
                " max_share if all of it is this instance's"
            )
        if max_delete is None and self.old > UNCONFIRMED:
            return (
                f"{self.old:,} objects that no row expects would go, more than {UNCONFIRMED}: read the list, and say by"
                " max_delete how many may go, if all of it is this instance's and no other one's in the same bucket"
            )
        return None


def why_young(line: FindingLine, stats: RangeStats) -> str | None:
    """Return why an object may not be deleted yet; None: it is old enough."""
    if line.modified is None or line.modified > stats.read_at - MIN_AGE:
        return TOO_YOUNG
    if stats.restored_from is not None and line.modified > stats.restored_from - MIN_AGE:
        return AFTER_NEWEST_ROW
    return None
