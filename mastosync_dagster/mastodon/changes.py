"""When the objects of a row have changed, according to the row's timestamps."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.mastodon.keys import may_change
from mastosync_dagster.mastodon.objects import StoredObject, stored_objects
from mastosync_dagster.mastodon.tables import ORIGINAL, table_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mastosync_dagster.mastodon.remote_rows import RemoteWindow
    from mastosync_dagster.mastodon.tables import Attachment, Table

CREATED_AT = "created_at"
ROW_UPDATED_AT = "updated_at"


class ChangedObject(NamedTuple):
    """An object that may have changed.

    ``written``: the source had no such content under the key before this time, by the clock of Mastodon's machine: file
    names are random. None: unknown, since a file that Mastodon converts keeps its key.
    """

    stored: StoredObject
    written: datetime | None


class FileDates(NamedTuple):
    """When an object was written, according to its row; None: the row does not say.

    Attributes:
        written: The content under its key was not written before this time.
        changed: The row has had no other file since this time.
        rewritten: Mastodon may write another file under the same key: see `may_change`.
    """

    written: datetime | None
    changed: datetime | None
    rewritten: bool


def with_zone(value: object) -> datetime | None:
    """Return the value of a timestamp column of Mastodon's, which is in UTC without time zone, with its time zone."""
    return value.replace(tzinfo=timezone.utc) if isinstance(value, datetime) else None


def without_zone(time: datetime | None) -> datetime | None:
    """Return a time as Mastodon's timestamp columns hold it: in UTC, without time zone."""
    return None if time is None else time.astimezone(timezone.utc).replace(tzinfo=None)


def change_columns(facts: Table) -> list[str]:
    """Return the columns that `changed_objects` reads beside those of ``stored_objects``."""
    names = [CREATED_AT, *(attachment.updated_at_column for attachment in facts.attachments)]
    if facts.age_column is not None:
        names.append(facts.age_column)
    for attachment in facts.attachments:
        if attachment.processed_later:
            names += [ROW_UPDATED_AT, attachment.content_type_column]
    return names


def changed_objects(
    table: str,
    row: Mapping[str, object],
    since: datetime,
    *,
    all_above: int | None = None,
    window: RemoteWindow | None = None,
) -> tuple[ChangedObject, ...]:
    """Return the objects of a row that may have changed after a time with a time zone.

    The row has the columns of ``stored_objects``, and `change_columns` as far as the database has them. Of a row with
    an id above ``all_above`` all objects are returned; of others, those of the attachments that have changed. Of a row
    that may have come into a ``window`` since, all are returned too.
    """
    facts = table_named(table)
    row_id, created = row["id"], with_zone(row.get(CREATED_AT))
    whole = (isinstance(row_id, int) and all_above is not None and row_id > all_above) or _after(created, since)
    if window is not None and window.after is not None and facts.age_column is not None:
        # Mastodon renews the time of a card whenever it crawls the page, and keeps its picture.
        whole = whole or _after(with_zone(row.get(facts.age_column)), since)
    attachments = {
        attachment.name: attachment for attachment in facts.attachments if whole or _changed(attachment, row, since)
    }
    return tuple(
        ChangedObject(stored, _written(attachment, stored, row, created))
        for stored in stored_objects(table, row)
        for attachment in (attachments.get(stored.attachment),)
        if attachment is not None
    )


def file_dates(table: str, row: Mapping[str, object], stored: StoredObject) -> FileDates:
    """Return when an object of a row was written. The row has the same columns as for `changed_objects`."""
    attachment = next(each for each in table_named(table).attachments if each.name == stored.attachment)
    if not _is_processed_later(attachment, row):
        written = with_zone(row.get(attachment.updated_at_column))
        return FileDates(written, written, rewritten=may_change(stored.key))
    if stored.style != ORIGINAL:
        created = with_zone(row.get(CREATED_AT))
        return FileDates(created, created, rewritten=False)
    written, saved = (with_zone(row.get(name)) for name in (attachment.updated_at_column, ROW_UPDATED_AT))
    changed = max(written, saved) if written is not None and saved is not None else None
    return FileDates(written, changed, rewritten=True)


def _changed(attachment: Attachment, row: Mapping[str, object], since: datetime) -> bool:
    if _after(with_zone(row.get(attachment.updated_at_column)), since):
        return True
    # Mastodon sets the attachment's timestamp before it converts the file, and the row's when it saves the result.
    return _is_processed_later(attachment, row) and _after(with_zone(row.get(ROW_UPDATED_AT)), since)


def _written(
    attachment: Attachment, stored: StoredObject, row: Mapping[str, object], created: datetime | None
) -> datetime | None:
    if _is_processed_later(attachment, row):
        # The original is converted later and keeps its key: the destination may have the file of the row's timestamp
        # while the source still has the earlier one. Its preview keeps its content.
        return None if stored.style == ORIGINAL else created
    return with_zone(row.get(attachment.updated_at_column))


def _is_processed_later(attachment: Attachment, row: Mapping[str, object]) -> bool:
    kind = row.get(attachment.content_type_column)
    return isinstance(kind, str) and kind.startswith(attachment.processed_later)


def _after(time: datetime | None, since: datetime) -> bool:
    # An unknown time counts as later: nothing that may have changed is skipped.
    return time is None or time > since
