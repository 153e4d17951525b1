"""What a verification found: a file like the manifest, with a line per object and one finding each."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from mastosync_dagster.records.parquet import WORD, Format, LineWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

FINDINGS = "findings.parquet"


class Finding(str, Enum):
    """What was found about an object. Scripts depend on the values: add, never rename."""

    EQUAL = "equal"
    """At the destination as it must be, as far as was compared."""
    MISSING = "missing"
    """The source does not have it, nor does the destination."""
    ABSENT = "absent"
    """The source has it, the destination does not."""
    SIZE_DIFFERS = "size_differs"
    """Another length than at the source."""
    CONTENT_DIFFERS = "content_differs"
    """The same length and other bytes."""
    HEADERS_DIFFER = "headers_differ"
    """The same bytes, and another Content-Type, Cache-Control, … or other metadata."""
    ACL_DIFFERS = "acl_differs"
    """Everybody may read it and must not, or the other way round."""
    UNDECIDED = "undecided"
    """Both storages have it with different bytes, and nothing tells which are right: no sync overwrites it."""
    SOURCE_DIFFERS = "source_differs"
    """At the destination as it was copied; the source has other bytes since, though its row has not changed."""
    DESTINATION_NEWER = "destination_newer"
    """Written at the destination later than what the source has: it is as it must be."""
    UNKNOWN = "unknown"
    """It could not be checked; the detail says why."""
    EXTRA = "extra"
    """At the destination, in one of Mastodon's folders, and no row expects it."""
    FOREIGN = "foreign"
    """At the destination, in no folder that is copied: never touched."""
    FOREIGN_AT_SOURCE = "foreign_at_source"
    """At the source, in no folder that is copied: lost when the old bucket is deleted."""
    DELETED = "deleted"
    """Was extra, and has been deleted."""


DIFFERENCES = (
    Finding.ABSENT,
    Finding.SIZE_DIFFERS,
    Finding.CONTENT_DIFFERS,
    Finding.HEADERS_DIFFER,
    Finding.ACL_DIFFERS,
    Finding.UNDECIDED,
    Finding.UNKNOWN,
)
"""Findings about an object that a row expects and that is not, or not known to be, as it must be."""

FORMAT = Format(
    name="list of findings",
    key=b"mastosync.findings",
    version=1,
    columns=(
        pa.field("group", WORD),
        pa.field("row_id", pa.int64()),
        pa.field("part", WORD),
        pa.field("key", pa.string(), nullable=False),
        pa.field("source_key", pa.string()),
        pa.field("finding", WORD, nullable=False),
        pa.field("detail", WORD),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),
        pa.field("private", pa.bool_()),
        pa.field("modified", pa.timestamp("s", tz="UTC")),
    ),
)


class FindingLine(NamedTuple):
    """What was found about one object. ``group``, ``row_id``, ``part`` and ``private`` are None if no row expects it.

    Attributes:
        group: The table.
        part: Which of the row's objects it is (``file/original``).
        key: Full key at the destination; of what is foreign at the source, there.
        source_key: Full key at the source; None where the source has none, or was not asked.
        detail: A remark for people.
        size: Bytes of the object under ``key``; None where it is not there.
        etag: Its ETag, without quotes.
        private: It must not be readable by everybody.
        modified: When it was last written, by that storage's clock; None where that was not asked for.
    """

    group: str | None
    row_id: int | None
    part: str | None
    key: str
    source_key: str | None
    finding: Finding
    detail: str | None
    size: int | None
    etag: str | None
    private: bool | None
    modified: datetime | None


class FindingWriter(LineWriter[FindingLine]):
    """Writes findings into a Parquet file: see `LineWriter`."""

    def __init__(self, path: Path, origin: Mapping[str, str] | None = None) -> None:
        super().__init__(path, FORMAT.schema(origin))


def read_findings(path: Path) -> Iterator[list[FindingLine]]:
    """Read findings as `read_manifest` does."""
    for values in map(FORMAT.values, FORMAT.read(path)):
        values["finding"] = [Finding(word) for word in values["finding"]]
        yield list(map(FindingLine._make, zip(*values.values(), strict=True)))
