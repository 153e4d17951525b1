"""The manifest: a Parquet file with one line per object and its outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.parquet import WORD, Format, LineWriter, NotAManifestError, batch_of
from mastosync_dagster.records.plan import COPIED, DECIDED, REFETCHED, TO_COPY, TO_TURN, TURNED, read_plan
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mastosync_dagster.records.plan import PlannedCopy

__all__ = [
    "MANIFEST",
    "ManifestLine",
    "ManifestWriter",
    "NotAManifestError",
    "line_of",
    "lines_of",
    "merge",
    "read_manifest",
]

MANIFEST = "manifest.parquet"

NOT_WRITTEN_DOWN = "the run's notes of this object could not be written; a further run looks at it"

_CARRIED_OUT = {COPIED: TO_COPY, TURNED: TO_TURN}
"""The plan of each part that says how a plan was carried out."""

FORMAT = Format(
    name="manifest",
    key=b"mastosync.manifest",
    # 2: remote, refetched.
    version=2,
    columns=(
        pa.field("group", WORD, nullable=False),
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("part", WORD, nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("source_key", pa.string()),
        pa.field("outcome", WORD, nullable=False),
        pa.field("reason", WORD),
        pa.field("detail", WORD),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),
        pa.field("private", pa.bool_(), nullable=False),
        pa.field("remote", pa.bool_()),
        pa.field("refetched", pa.bool_()),
    ),
)


class ManifestLine(NamedTuple):
    """What became of one object.

    Attributes:
        group: Which collection it belongs to (a table).
        row_id: Number of its owner within the group.
        part: Which part of its owner it is (``file/original``).
        key: Full key at the destination, key prefix included.
        source_key: Full key that was read or seen at the source; None where the source has none.
        outcome: The one thing said of it.
        reason: Why it failed; None for other outcomes.
        detail: A remark for people; None: nothing to say.
        size: Bytes; None where unknown.
        etag: MD5 of the body in hex, where known; None else.
        private: It is not readable by everybody where the destination has ACLs.
        remote: It is a copy of another server's; None: not known.
        refetched: The source did not have it: it came from the server that it is a copy of.
    """

    group: str
    row_id: int
    part: str
    key: str
    source_key: str | None
    outcome: Outcome
    reason: Reason | None
    detail: str | None
    size: int | None
    etag: str | None
    private: bool
    remote: bool | None = None
    refetched: bool = False


class ManifestWriter(LineWriter[ManifestLine]):
    """Writes manifest lines into a Parquet file.

    A context manager: the file gets its name when the block ends well, and is removed when it does not.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, FORMAT.schema())


def read_manifest(path: Path) -> Iterator[list[ManifestLine]]:
    """Read a manifest: lists of at most `GROUP_LINES` lines, in the file's order, one in memory.

    What the file's version did not say yet is None (``refetched``: False).

    Raises:
        NotAManifestError: The file is none, damaged, or of a newer version.
    """
    with FORMAT.open(path) as file:
        for batch in FORMAT.batches(file, path):
            yield lines_of(batch)


def lines_of(batch: pa.RecordBatch) -> list[ManifestLine]:
    """Return the lines of a batch of a manifest of any version."""
    values = FORMAT.values(batch)
    values["outcome"] = [Outcome(word) for word in values["outcome"]]
    values["reason"] = [None if word is None else Reason(word) for word in values["reason"]]
    values["refetched"] = [bool(value) for value in values["refetched"]]
    return list(map(ManifestLine._make, zip(*values.values(), strict=True)))


def line_of(
    planned: PlannedCopy,
    outcome: Outcome,
    key: str,
    source_key: str | None = None,
    *,
    reason: Reason | None = None,
    detail: str | None = None,
    size: int | None = None,
    etag: str | None = None,
) -> ManifestLine:
    """Return the manifest line of a planned object, given its full keys."""
    # By position: this is done for each object.
    return ManifestLine(
        planned.group,
        planned.row_id,
        planned.part,
        key,
        source_key,
        outcome,
        reason,
        detail,
        size,
        etag,
        planned.private,
        planned.remote,
    )


def merge(
    folder: Path, origin: Mapping[str, str] | None = None, *, source_prefix: str = "", destination_prefix: str = ""
) -> Path:
    """Put what plan and copy said, and what came after them, into one file, `MANIFEST`.

    The parts stay. Where missing objects were looked for elsewhere, the lines of all of them are those that were
    written then. Where a part could not be written, because the disk was full or because the run was stopped before it
    began, each object of its plan is failed with `Reason.NOT_ATTEMPTED`: some may be at the destination, but nobody has
    put it on record, and a manifest that is silent about them would look whole.

    Args:
        folder: Holds the parts, gets the file.
        origin: What the file's metadata is to say about the run.
        source_prefix: The source's key prefix.
        destination_prefix: The destination's key prefix.

    Returns:
        The file.
    """
    merged = folder / MANIFEST
    unfinished = merged.with_name(f".{MANIFEST}")
    schema = FORMAT.schema(origin)
    looked_elsewhere = (folder / REFETCHED).exists()
    with pq.ParquetWriter(str(unfinished), schema, compression="zstd") as writer:
        for name in (DECIDED, COPIED, TURNED, REFETCHED):
            for batch in _part(folder, name, source_prefix, destination_prefix):
                lines = (
                    with_outcome(batch, Outcome.MISSING, keep=False)
                    if looked_elsewhere and name != REFETCHED
                    else batch
                )
                writer.write_batch(lines.replace_schema_metadata(schema.metadata))
    unfinished.replace(merged)
    return merged


def _part(folder: Path, name: str, source_prefix: str, destination_prefix: str) -> Iterator[pa.RecordBatch]:
    """Yield what a part says, or what is to be said in its stead."""
    if (folder / name).exists():
        with FORMAT.open(folder / name) as part:
            yield from FORMAT.batches(part, folder / name)
        return
    plan = _CARRIED_OUT.get(name)
    if plan is None or not (folder / plan).exists():
        return
    for planned in read_plan(folder, plan):
        lines = [
            line_of(
                line,
                Outcome.FAILED,
                destination_prefix + line.key,
                source_prefix + line.source_key if line.source_key else None,
                reason=Reason.NOT_ATTEMPTED,
                detail=NOT_WRITTEN_DOWN,
                size=line.size,
            )
            for line in planned
        ]
        yield batch_of(lines, FORMAT.schema())


def with_outcome(batch: pa.RecordBatch, outcome: Outcome, *, keep: bool = True) -> pa.RecordBatch:
    """Return the lines with an outcome, or all others."""
    import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run which needs none of this does not take)

    compare = pc.equal if keep else pc.not_equal
    return batch.filter(compare(batch.column("outcome").cast(pa.string()), pa.scalar(outcome.value)))
