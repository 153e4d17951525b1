"""The doubt list: objects whose state at the destination is not settled, written down before anything is done to them.

A file per table and run, beside the manifests. A line is added before an object is written private, gets another ACL or
is skipped as private, and when it failed or was missing. It is removed only after a later run has asked the destination
and found what must be. A line that stays too long costs a request; one that is removed too early would cost an exposed
picture.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from mastosync_dagster.records.manifest import FORMAT as MANIFEST_FORMAT
from mastosync_dagster.records.manifest import lines_of
from mastosync_dagster.records.outcomes import HARMLESS, Outcome
from mastosync_dagster.records.parquet import WORD, Format, LineWriter
from mastosync_dagster.records.plan import DECIDED, TO_COPY, TO_SET_ACLS, read_plan
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from mastosync_dagster.records.manifest import ManifestLine

_COLUMNS = ("group", "row_id", "part", "key", "outcome", "reason", "detail", "private")

GROUP = "doubts_{table}"
"""The group of a table's files in the manifest store."""


class Doubt(str, Enum):
    """Why an object is on the list. Scripts may read the files: add values, never rename one."""

    PRIVATE = "private"
    """It was private when it was last written or asked for: it must become public when its row does."""
    ACL = "acl"
    """Its ACL was about to be set, or the object to be written private; whether that was done is not known."""
    EXPOSED = "exposed"
    """Its row is private, and it was already at the destination, which has no ACLs."""
    SKIPPED = "skipped"
    """It was skipped as private, where the destination has no ACLs."""
    FAILED = "failed"
    """It failed, or was not attempted."""
    MISSING = "missing"
    """The source did not have it."""


OPEN = (Doubt.ACL, Doubt.EXPOSED, Doubt.FAILED, Doubt.MISSING)
"""What is left to do or to check, the gravest first. Of the others the destination has what it must have, as far as is
known."""

CONTENT = frozenset({Doubt.FAILED, Doubt.MISSING})
"""Reasons that say nothing about who may read an object."""


class DoubtLine(NamedTuple):
    """One object on the list.

    Attributes:
        part: Which of the row's objects it is (``file/original``).
        nights: How many nights have asked for it in vain (`Doubt.FAILED`, `Doubt.MISSING`).
        key: Full key at the destination, for people.
    """

    row_id: int
    part: str
    why: Doubt
    nights: int
    key: str


FORMAT = Format(
    name="doubt list",
    key=b"mastosync.doubts",
    version=1,
    columns=(
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("part", WORD, nullable=False),
        pa.field("why", WORD, nullable=False),
        pa.field("nights", pa.int32(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
    ),
)


class DoubtWriter(LineWriter[DoubtLine]):
    """Writes doubt lines into a Parquet file: see `LineWriter`."""

    def __init__(self, path: Path, origin: Mapping[str, str]) -> None:
        super().__init__(path, FORMAT.schema(origin))


def read_doubts(path: Path) -> Iterator[list[DoubtLine]]:
    """Read a doubt list as `read_manifest` does."""
    for values in map(FORMAT.values, FORMAT.read(path)):
        values["why"] = [Doubt(word) for word in values["why"]]
        yield list(map(DoubtLine._make, zip(*values.values(), strict=True)))


def planned_doubts(folder: Path, table: str, destination_prefix: str, *, has_acls: bool) -> Iterator[DoubtLine]:
    """Yield the objects of a table that carrying out a plan makes doubtful: to be written down before it begins.

    Without ACLs at the destination, only what is skipped can be in doubt.
    """
    for name in (TO_COPY, TO_SET_ACLS) if has_acls else ():
        for lines in read_plan(folder, name):
            for line in lines:
                # What is written public and fails is in the manifest; if the run is killed, it is planned anew.
                if line.group == table and (line.private or name == TO_SET_ACLS):
                    yield DoubtLine(line.row_id, line.part, Doubt.ACL, 0, destination_prefix + line.key)
    for found in _lines(folder / DECIDED, table, _is_open_or_private):
        if found.reason is Reason.PRIVATE_NOT_COPIED:
            yield DoubtLine(found.row_id, found.part, Doubt.SKIPPED, 0, found.key)
        elif has_acls and found.private and found.outcome is Outcome.MISSING:
            # It may be fetched from another server, and is then written private.
            yield DoubtLine(found.row_id, found.part, Doubt.ACL, 0, found.key)


def _lines(manifest: Path, table: str, wanted: Callable[[pa.RecordBatch], pa.BooleanArray]) -> Iterator[ManifestLine]:
    """Yield the wanted lines of a table in a manifest, or a part of one, with `_COLUMNS` only."""
    import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run which needs none of this does not take)

    for batch in MANIFEST_FORMAT.read(manifest, columns=_COLUMNS):
        here = pc.equal(batch.column("group").cast(pa.string()), pa.scalar(table))
        yield from lines_of(batch.filter(pc.and_(here, wanted(batch))))


def _is_open_or_private(batch: pa.RecordBatch) -> pa.BooleanArray:
    import pyarrow.compute as pc  # noqa: PLC0415  (as above)

    wrong = pa.array([Outcome.FAILED.value, Outcome.MISSING.value])
    private: pa.BooleanArray = batch.column("private")  # type: ignore[assignment]  # the stubs know no column's type
    return pc.or_(pc.is_in(batch.column("outcome").cast(pa.string()), value_set=wrong), private)


def outcomes_of(manifest: Path, table: str, rows: Collection[int]) -> dict[tuple[int, str], Outcome]:
    """Return the outcomes of the objects of some rows, by row and part."""
    if not rows:
        return {}
    import pyarrow.compute as pc  # noqa: PLC0415  (as above)

    ids = pa.array(sorted(rows), pa.int64())
    lines = _lines(manifest, table, lambda batch: pc.is_in(batch.column("row_id"), value_set=ids))
    return {(line.row_id, line.part): line.outcome for line in lines}


def left_doubts(
    manifest: Path, table: str, nights: Mapping[tuple[int, str], int], *, has_acls: bool
) -> Iterator[DoubtLine]:
    """Yield the objects of a table that a run leaves doubtful, according to its whole manifest.

    ``nights``: how many nights have asked in vain for objects that were on the list, by row and part.
    """
    for line in _lines(manifest, table, _is_open_or_private):
        count = nights.get((line.row_id, line.part), 0)
        if line.reason is Reason.NOT_ATTEMPTED:
            # This night has not asked.
            count = max(count - 1, 0)
        if line.reason is Reason.PRIVATE_NOT_COPIED:
            yield DoubtLine(line.row_id, line.part, Doubt.SKIPPED, 0, line.key)
            continue
        if line.outcome is Outcome.FAILED:
            yield DoubtLine(line.row_id, line.part, Doubt.FAILED, count, line.key)
        elif line.outcome is Outcome.MISSING and line.detail != HARMLESS:
            yield DoubtLine(line.row_id, line.part, Doubt.MISSING, count, line.key)
        if has_acls and line.private and line.outcome is not Outcome.MISSING:
            # Also of what has failed: the body may have arrived, and its answer was lost.
            yield DoubtLine(line.row_id, line.part, Doubt.PRIVATE, 0, line.key)
