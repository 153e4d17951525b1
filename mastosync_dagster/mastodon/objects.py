"""Which objects a row of Mastodon's database has in the storage, and under which keys."""

from __future__ import annotations

from datetime import MAXYEAR, datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.errors import AdminError
from mastosync_dagster.mastodon.keys import CACHE, earlier_id_partition, id_partition, is_blank, prefixed, split_name
from mastosync_dagster.mastodon.tables import BLANK, ORIGINAL, PROCESSING, UNFINISHED, Remote, table_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mastosync_dagster.mastodon.tables import Attachment, Style, Table


# Prefixes of a row's keys, in the order to try. An interrupted `tootctl upgrade storage-schema` leaves files under the
# second one.
_LOCAL: tuple[str, ...] = ("",)
_CACHED: tuple[str, ...] = (CACHE, "")
_NOT_CACHED: tuple[str, ...] = ("", CACHE)


class RowError(AdminError, ValueError):
    """A row has a value that Mastodon does not write. The message names table, id, column and type."""


class StoredObject(NamedTuple):
    """One object that a row says exists. A tuple, since creating a dataclass takes twice as long.

    Attributes:
        key: The key that Mastodon itself uses for the row.
        candidates: Other keys it may have, in the order to try; none equal to ``key``.
        attachment: Name of its attachment, such as ``avatar``.
        style: Name of its style, such as ``original``.
        size: Bytes, from ``<attachment>_file_size``; None if unknown, and for all styles but originals.
        may_be_absent: Its absence is known to be harmless.
        unfinished: The original of media whose processing is not complete, or failed: its name and content may change.
        content_type: That of the row, which describes the original; None for all other styles (the small picture of a
            video is no video), and while the file may still change.
    """

    key: str
    candidates: tuple[str, ...]
    attachment: str
    style: str
    size: int | None
    may_be_absent: bool
    unfinished: bool
    content_type: str | None = None


def stored_objects(table: str, row: Mapping[str, object], key_prefix: str = "") -> tuple[StoredObject, ...]:
    """Return the objects of a row, attachment by attachment, each one's original first.

    Args:
        table: A name in `TABLES`; another raises ValueError.
        row: Column to value, as psycopg2 gives them. Columns that a version of Mastodon lacks may be absent. A missing
            id, or a value of a wrong type, raises RowError.
        key_prefix: ``S3_KEY_PREFIX``, verbatim.
    """
    facts = table_named(table)
    row_id = _integer(facts, row, "id")
    if row_id is None:
        raise RowError(f"a row of {table} without an id")
    remote = is_remote(table, row)
    before = prefixed(key_prefix, "")
    partitions = [id_partition(row_id)]
    earlier = earlier_id_partition(row_id)
    if earlier is not None:
        partitions.append(earlier)
    objects: list[StoredObject] = []
    for attachment in facts.attachments:
        name = _text(facts, row, attachment.file_name_column)
        # Only the file name says whether there are files: Mastodon's clean-up keeps the other columns.
        if name is None or is_blank(name):
            continue
        caches = _LOCAL
        if remote:
            version = _integer(facts, row, attachment.storage_schema_version_column)
            caches = _NOT_CACHED if version is None or version < 1 else _CACHED
        folders = [
            f"{before}{cache}{table}/{attachment.folder}/{partition}/" for partition in partitions for cache in caches
        ]
        unfinished = bool(attachment.renamed_to) and _integer(facts, row, PROCESSING) in UNFINISHED
        if unfinished:
            names = _names_until_finished(facts, row, attachment, name)
            keys = [f"{folder}original/{each}" for each in names for folder in folders]
        else:
            keys = [f"{folder}original/{name}" for folder in folders]
        size = _integer(facts, row, attachment.file_size_column)
        kind = None if unfinished else _text(facts, row, attachment.content_type_column)
        objects.append(StoredObject(keys[0], tuple(keys[1:]), attachment.name, ORIGINAL, size, False, unfinished, kind))
        decided_by = attachment.styles_by
        styles = attachment.styles.get(None if decided_by is None else _text(facts, row, decided_by))
        if styles is None:
            continue
        base, extension = split_name(name)
        for style in styles:
            names = _style_names(style, name, base, extension)
            keys = [f"{folder}{style.name}/{each}" for each in names for folder in folders]
            absent = style.may_be_absent or (
                style.may_be_absent_before is not None and _year(facts, row, attachment) < style.may_be_absent_before
            )
            objects.append(StoredObject(keys[0], tuple(keys[1:]), attachment.name, style.name, None, absent, False))
    return tuple(objects)


def is_remote(table: str, row: Mapping[str, object]) -> bool:
    """Return whether a row's files are copies of another server's (in ``cache/`` if they are new enough)."""
    facts = table_named(table)
    if facts.remote_column is None:
        return facts.remote is Remote.ALWAYS
    value = _text(facts, row, facts.remote_column)
    return value is not None and (facts.remote is Remote.IF_NOT_NULL or not is_blank(value))


def _names_until_finished(
    facts: Table, row: Mapping[str, object], attachment: Attachment, name: str
) -> tuple[str, ...]:
    """Return the names that an unfinished row's original may have: the present one, and the one after processing."""
    content_type = _text(facts, row, attachment.content_type_column) or ""
    for beginning, extension in attachment.renamed_to:
        if content_type.startswith(beginning):
            renamed = _joined(split_name(name)[0], extension)
            return (name,) if renamed == name else (name, renamed)
    return (name,)


def _style_names(style: Style, name: str, base: str, extension: str) -> tuple[str, ...]:
    today = _joined(base, style.format or extension)
    if style.once_named_like is None or name == today or not name.lower().endswith(style.once_named_like):
        return (today,)
    return (today, name)


def _joined(base: str, extension: str) -> str:
    # Mastodon's interpolation of :filename drops blank parts.
    if extension.strip(BLANK) and base.strip(BLANK):
        return f"{base}.{extension}"
    return base if is_blank(extension) else extension


def _year(facts: Table, row: Mapping[str, object], attachment: Attachment) -> int:
    """Return the year in which the attachment was last written; MAXYEAR if unknown."""
    value = row.get(attachment.updated_at_column)
    if value is None:
        return MAXYEAR
    if isinstance(value, str):
        # Text from JSON: in the default formats of PostgreSQL and Rails it begins with the year.
        value = value[:4]
        if value.isdecimal():
            return int(value)
    elif isinstance(value, datetime):
        return (value if value.tzinfo is None else value.astimezone(timezone.utc)).year
    raise _wrong(facts, row, attachment.updated_at_column, "a point in time")


def _text(facts: Table, row: Mapping[str, object], column: str) -> str | None:
    value = row.get(column)
    if value is None or isinstance(value, str):
        return value
    raise _wrong(facts, row, column, "text")


def _integer(facts: Table, row: Mapping[str, object], column: str) -> int | None:
    value = row.get(column)
    if value is None or type(value) is int:  # True is an int to isinstance
        return value
    raise _wrong(facts, row, column, "an integer")


def _wrong(facts: Table, row: Mapping[str, object], column: str, wanted: str) -> RowError:
    return RowError(
        f"{facts.name} row {row.get('id')!r}: {column} is {type(row.get(column)).__name__}, not {wanted}; "
        "is this a row of Mastodon's database?"
    )
