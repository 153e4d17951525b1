"""When the objects of a row have changed, as far as the row tells."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.mastodon.objects import StoredObject, stored_objects
from mastosync_dagster.mastodon.tables import ORIGINAL, table_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mastosync_dagster.mastodon.tables import Attachment, Table

CREATED_AT = "created_at"
ROW_UPDATED_AT = "updated_at"


class ChangedObject(NamedTuple):
    """An object that may have changed.

    Attributes:
        stored: The object.
        written: What the source has under its key now was not there before this moment, by the clock of Mastodon's own
            machine: file names are random, so a new file has a new key. None: the row does not tell; a file that
            Mastodon converts keeps its key, and lay there before the moment that the row has then.
    """

    stored: StoredObject
    written: datetime | None


class FileDates(NamedTuple):
    """What a row tells of when an object was written.

    Attributes:
        written: What lies under its key now was not written before this moment; None: the row does not tell.
        changed: The row has told of no other file after this moment; None: it does not tell.
        rewritten: Mastodon writes another file under the same key when it has converted the first.
    """

    written: datetime | None
    changed: datetime | None
    rewritten: bool


def change_columns(facts: Table) -> list[str]:
    """Return the columns that `changed_objects` reads beside those of ``stored_objects``."""
    names = [CREATED_AT, *(attachment.updated_at_column for attachment in facts.attachments)]
    for attachment in facts.attachments:
        if attachment.processed_later:
            names += [ROW_UPDATED_AT, attachment.content_type_column]
    return names


def changed_objects(
    table: str, row: Mapping[str, object], since: datetime, *, all_above: int | None = None
) -> tuple[ChangedObject, ...]:
    """Return the objects of a row that may have changed after a moment.

    A row is read again as a whole when one of its attachments has changed; the objects of the others have not.

    Args:
        table: As for ``stored_objects``.
        row: Columns of ``stored_objects``, and `change_columns` as far as the database has them.
        since: The moment, with a time zone.
        all_above: Every object of a row with an id above this.

    Raises:
        ValueError: As ``stored_objects``.
    """
    facts = table_named(table)
    row_id, created = row["id"], _moment(row.get(CREATED_AT))
    whole = (isinstance(row_id, int) and all_above is not None and row_id > all_above) or _after(created, since)
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
    """Return what a row tells of when one of its objects was written.

    Args:
        table: As for ``stored_objects``.
        row: Columns of ``stored_objects``, and `change_columns` as far as the database has them.
        stored: The object.
    """
    attachment = next(each for each in table_named(table).attachments if each.name == stored.attachment)
    if not _is_processed_later(attachment, row):
        written = _moment(row.get(attachment.updated_at_column))
        return FileDates(written, written, rewritten=False)
    if stored.style != ORIGINAL:
        created = _moment(row.get(CREATED_AT))
        return FileDates(created, created, rewritten=False)
    written, saved = (_moment(row.get(name)) for name in (attachment.updated_at_column, ROW_UPDATED_AT))
    changed = max(written, saved) if written is not None and saved is not None else None
    return FileDates(written, changed, rewritten=True)


def _changed(attachment: Attachment, row: Mapping[str, object], since: datetime) -> bool:
    if _after(_moment(row.get(attachment.updated_at_column)), since):
        return True
    # Mastodon sets the attachment's moment before it converts the file, and the row's when it saves the result.
    return _is_processed_later(attachment, row) and _after(_moment(row.get(ROW_UPDATED_AT)), since)


def _written(
    attachment: Attachment, stored: StoredObject, row: Mapping[str, object], created: datetime | None
) -> datetime | None:
    if _is_processed_later(attachment, row):
        # The original is converted later and keeps its key: what the row's moment is about may lie at the destination,
        # and what was there before at the source. Its preview keeps its content too.
        return None if stored.style == ORIGINAL else created
    return _moment(row.get(attachment.updated_at_column))


def _is_processed_later(attachment: Attachment, row: Mapping[str, object]) -> bool:
    kind = row.get(attachment.content_type_column)
    return isinstance(kind, str) and kind.startswith(attachment.processed_later)


def _after(moment: datetime | None, since: datetime) -> bool:
    """Tell whether a moment lies after another; one that is not known may."""
    return moment is None or moment > since


def _moment(value: object) -> datetime | None:
    """Return a column without time zone, which is in UTC, as a moment."""
    return value.replace(tzinfo=timezone.utc) if isinstance(value, datetime) else None
