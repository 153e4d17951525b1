"""The plan on disk: files in a folder. A file appears under its name only when it is complete.

``make_plan`` writes `TO_COPY`, `TO_SET_ACLS` (objects that only get an ACL) and `DECIDED` (manifest lines of the other
objects). Carrying it out writes manifest lines: `COPIED`, `ACLS_SET`, and, if missing objects are fetched from other
servers, `REFETCHED` with the lines of all missing ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from mastosync_dagster.records.parquet import LineWriter

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

TO_COPY = "to_copy.arrow"
TO_SET_ACLS = "to_set_acls.arrow"
DECIDED = "decided.parquet"
COPIED = "copied.parquet"
ACLS_SET = "acls_set.parquet"
REFETCHED = "refetched.parquet"


class PlannedCopy(NamedTuple):
    """One object to copy. Keys are relative to each storage's key prefix.

    ``group``, ``row_id``, ``part`` and ``remote`` are manifest columns.

    Attributes:
        key: Where it goes. With ``keep_found_key`` and no ``size``, it goes to the key under which the GET finds it.
        candidates: Further source keys to try, in order, when ``source_key`` answers 404 (or 403 where the source may
            not be listed). Empty when the size is known.
        size: Bytes, by the source's listing. None: the source could not be asked, the GET decides; an object that is
            under none of the keys is then ``missing``. With a size, a 404 means ``changed_during_copy``.
        etag: The source's ETag without quotes; None where it gives none, or where ``size`` is None.
        private: Write it so that not everybody may read it.
        keep_found_key: See ``key``; already applied where ``size`` is known.
        may_be_absent: Its absence is harmless (detail of a ``missing`` line).
        there_size: Bytes of the object at the destination, to be overwritten; None: none was found.
        there_etag: Its ETag without quotes; None where it gives none.
        written_after: Without a ``size``: if the source's was not written after this time, the destination is asked
            before it is written to. None: it is not.
        content_type: What the database says of it, for a source that keeps none; None: nothing.
        detail: In `TO_SET_ACLS`: the remark of the manifest line.
        undecided: In `TO_SET_ACLS`: the storages have different bytes, and nothing tells which are right. After its ACL
            is set, the object has failed for that.
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
    content_type: str | None = None
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
        pa.field("content_type", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("undecided", pa.bool_(), nullable=False),
    ],
    metadata={"mastosync.plan": "1"},
)


class PlanWriter(LineWriter[PlannedCopy]):
    """Writes `TO_COPY` (or `TO_SET_ACLS`) into a folder, as a stream of record batches: see `LineWriter`."""

    def __init__(self, folder: Path, name: str = TO_COPY) -> None:
        super().__init__(folder / name, SCHEMA)

    def _open(self, stack: contextlib.ExitStack, path: str) -> pa.ipc.RecordBatchStreamWriter:
        sink = stack.enter_context(pa.OSFile(path, "wb"))
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        return stack.enter_context(pa.ipc.new_stream(sink, SCHEMA, options=options))


def read_plan(folder: Path, name: str = TO_COPY) -> Iterator[list[PlannedCopy]]:
    """Read `TO_COPY` (or `TO_SET_ACLS`): lists of at most `GROUP_LINES` lines, in the order of the plan, one in memory.

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
