"""The plan on disk: what the copy streams, one line per object that is to be copied.

A plan is a folder. ``make_plan`` writes `TO_COPY` (read by ``copy_plan``) and `DECIDED` (manifest lines of the objects
that need no copy); ``copy_plan`` writes `COPIED` (manifest lines of the rest). Objects that need another ACL alone
stand in `TO_TURN`, and their lines in `TURNED`; where missing objects were looked for elsewhere, the lines of all
missing ones are in `REFETCHED`. A file appears under its name only when it is complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from mastosync_dagster.records.parquet import GROUP_LINES, LineWriter, Sink

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

TO_COPY = "to_copy.arrow"
TO_TURN = "to_turn.arrow"
DECIDED = "decided.parquet"
COPIED = "copied.parquet"
TURNED = "turned.parquet"
REFETCHED = "refetched.parquet"

BATCH_LINES = GROUP_LINES
"""Lines of one record batch: what reader and writer hold in memory."""


class PlannedCopy(NamedTuple):
    """One object to copy. Keys are relative to each side's key prefix.

    Attributes:
        key: Where it goes at the destination. With ``keep_found_key`` and no ``size`` (nobody has seen the object yet)
            it goes to the key under which the GET finds it.
        source_key: The key to read.
        candidates: Further source keys to try, in order, when ``source_key`` answers 404 (or 403 where the source may
            not be listed). Empty when the plan has seen the object.
        size: Bytes, as the source's listing says. None: the source could not be asked, the GET decides; an object that
            none of the keys has is then ``missing``. With a size, a 404 means ``changed_during_copy``.
        etag: The source's ETag without quotes; None where it gives none, or where ``size`` is None.
        private: Write it so that not everybody may read it.
        keep_found_key: See ``key``; already applied where ``size`` is known.
        may_be_absent: Its absence is harmless (detail of a ``missing`` line).
        group: Manifest column.
        row_id: Manifest column.
        part: Manifest column.
        remote: Manifest column.
        there_size: Bytes of what the destination has under ``key``, to be overwritten; None: nothing was seen there.
        there_etag: Its ETag without quotes; None where it gives none.
        written_after: Without a ``size``: if what the source has was not written after this moment, the destination is
            asked before it is written to. None: it is not.
        detail: In `TO_TURN`: the remark of the object's manifest line.
        undecided: In `TO_TURN`: its bytes are others than the source's, and nothing tells which are right. Who may read
            it comes first; then it has failed for that.
    """

    key: str
    source_key: str
    candidates: list[str]
    size: int | None
    etag: str | None
    private: bool
    keep_found_key: bool
    may_be_absent: bool
    group: str
    row_id: int
    part: str
    remote: bool | None = None
    there_size: int | None = None
    there_etag: str | None = None
    written_after: datetime | None = None
    detail: str | None = None
    undecided: bool = False


SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("source_key", pa.string(), nullable=False),
        pa.field("candidates", pa.list_(pa.string()), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),
        pa.field("private", pa.bool_(), nullable=False),
        pa.field("keep_found_key", pa.bool_(), nullable=False),
        pa.field("may_be_absent", pa.bool_(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("remote", pa.bool_()),
        pa.field("there_size", pa.int64()),
        pa.field("there_etag", pa.string()),
        pa.field("written_after", pa.timestamp("us", tz="UTC")),
        pa.field("detail", pa.string()),
        pa.field("undecided", pa.bool_(), nullable=False),
    ],
    metadata={"mastosync.plan": "1"},
)


class PlanWriter(LineWriter[PlannedCopy]):
    """Writes `TO_COPY` (or `TO_TURN`) into a folder, as a stream of record batches.

    A context manager: the file gets its name when the block ends well, and is removed when it does not.
    """

    def __init__(self, folder: Path, name: str = TO_COPY) -> None:
        super().__init__(folder / name, SCHEMA)

    def _open(self, stack: contextlib.ExitStack, path: str) -> Sink:
        sink = stack.enter_context(pa.OSFile(path, "wb"))
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        stream: Sink = stack.enter_context(pa.ipc.new_stream(sink, SCHEMA, options=options))
        return stream


def read_plan(folder: Path, name: str = TO_COPY) -> Iterator[list[PlannedCopy]]:
    """Read `TO_COPY` (or `TO_TURN`): lists of at most `BATCH_LINES` lines, in the order of the plan, one in memory.

    Raises:
        FileNotFoundError: No finished plan is there.
    """
    with (
        pa.OSFile(str(folder / name), "rb") as file,
        pa.ipc.open_stream(file, options=pa.ipc.IpcReadOptions(use_threads=False)) as reader,
    ):
        for batch in reader:
            columns = (column.to_pylist() for column in batch.columns)
            yield list(map(PlannedCopy._make, zip(*columns, strict=True)))
