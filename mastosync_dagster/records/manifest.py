"""The manifest: a Parquet file with one line per object and its outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.parquet import WORD, Format, LineWriter, batch_of
from mastosync_dagster.records.plan import ACLS_SET, COPIED, DECIDED, REFETCHED, TO_COPY, TO_SET_ACLS, read_plan
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mastosync_dagster.records.plan import PlannedCopy

MANIFEST = "manifest.parquet"

NOT_WRITTEN_DOWN = "the run's record of this object could not be written; a further run checks it"

_CARRIED_OUT = {COPIED: TO_COPY, ACLS_SET: TO_SET_ACLS}
"""The plan behind each part of the manifest."""

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

RUN = "run"

FOLDED = Format(
    name="manifest",
    key=FORMAT.key,
    # 3: the run of each line. An earlier version must not take all of them for lines of one run.
    version=3,
    columns=(*FORMAT.columns, pa.field(RUN, WORD)),
)
"""The columns of the manifests of many runs in one file (`records.folding`). Its reader reads a run's own as well."""


class ManifestLine(NamedTuple):
    """What became of one object.

    Attributes:
        group: The table.
        part: Which of the row's objects it is (``file/original``).
        key: Full key at the destination.
        source_key: Full key at the source; None where the source has none.
        reason: Why it failed; None for other outcomes.
        detail: A remark for people.
        size: Bytes; None: unknown.
        etag: MD5 of the body in hex; None: unknown.
        private: It is not readable by everybody where the destination has ACLs.
        remote: It is a copy of another server's; None: unknown.
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
    """Writes manifest lines into a Parquet file: see `LineWriter`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, FORMAT.schema())


def read_manifest(path: Path) -> Iterator[list[ManifestLine]]:
    """Read a manifest, or a fold of several: lists of at most `GROUP_LINES` lines, in the file's order, one in memory.

    Columns that the file's version did not have yet are None (``refetched``: False).

    Raises:
        NotAManifestError: The file is none, damaged, or of a newer version.
    """
    yield from map(lines_of, FOLDED.read(path))


def lines_of(batch: pa.RecordBatch) -> list[ManifestLine]:
    """Return the lines of a batch of a manifest of any version."""
    values = FORMAT.values(batch)
    values["outcome"] = [Outcome(word) for word in values["outcome"]]
    values["reason"] = [None if word is None else Reason(word) for word in values["reason"]]
    values["refetched"] = [bool(value) for value in values["refetched"]]
    return list(map(ManifestLine._make, zip(*values.values(), strict=True)))


def line_of(
    line: PlannedCopy,
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
    owner = (line.group, line.row_id, line.part)
    # By position: this is done for each object.
    return ManifestLine(*owner, key, source_key, outcome, reason, detail, size, etag, line.private, line.remote)


def merge(
    folder: Path, origin: Mapping[str, str] | None = None, *, source_prefix: str = "", destination_prefix: str = ""
) -> Path:
    """Merge the parts that plan, copy and refetch have written into one file, `MANIFEST`, and return its path.

    The parts stay; ``origin`` goes into the file's metadata. If missing objects were refetched, their lines are those
    of that part. If a part could not be written, because the disk was full or the run was stopped before it began, each
    object of its plan is failed with `Reason.NOT_ATTEMPTED`: some may be at the destination, but no part records it,
    and a manifest without their lines would look complete.
    """
    merged = folder / MANIFEST
    unfinished = merged.with_name(f".{MANIFEST}")
    schema = FORMAT.schema(origin)
    refetched = (folder / REFETCHED).exists()
    with pq.ParquetWriter(str(unfinished), schema, compression="zstd") as writer:
        for name in (DECIDED, COPIED, ACLS_SET, REFETCHED):
            for batch in _part(folder, name, source_prefix, destination_prefix):
                if refetched and name != REFETCHED:
                    batch = with_outcome(batch, Outcome.MISSING, keep=False)  # noqa: PLW2901  (fetched meanwhile: not missing)
                writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    unfinished.replace(merged)
    return merged


def _part(folder: Path, name: str, source_prefix: str, destination_prefix: str) -> Iterator[pa.RecordBatch]:
    """Yield the lines of a part, or those that replace it."""
    if (folder / name).exists():
        yield from FORMAT.read(folder / name)
        return
    plan = _CARRIED_OUT.get(name)
    if plan is None or not (folder / plan).exists():
        # There was nothing to do.
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
