"""The manifest: a Parquet file with one line per object and its outcome."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mastosync_dagster.transfer.outcomes import Outcome, Reason
from mastosync_dagster.transfer.planfile import COPIED, DECIDED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

MANIFEST = "manifest.parquet"
VERSION = 1
"""Version of the columns. Readers accept this one and those before it."""

GROUP_LINES = 4096
"""Lines of one Parquet row group: what reader and writer hold in memory."""

_VERSION_KEY = b"mastosync.manifest"
_WORD = pa.dictionary(pa.int32(), pa.string())

SCHEMA = pa.schema(
    [
        pa.field("group", _WORD, nullable=False),
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("part", _WORD, nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("source_key", pa.string()),
        pa.field("outcome", _WORD, nullable=False),
        pa.field("reason", _WORD),
        pa.field("detail", _WORD),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),
        pa.field("private", pa.bool_(), nullable=False),
    ],
    metadata={_VERSION_KEY: str(VERSION).encode()},
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
        private: The database says it must not be readable by everybody.
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


class ManifestWriter:
    """Writes manifest lines into a Parquet file.

    A context manager: the file gets its name when the block ends well, and is removed when it does not.
    """

    def __init__(self, path: Path) -> None:
        self.lines = 0
        self._path = path
        self._unfinished = path.with_name(f".{path.name}")
        self._buffer: list[ManifestLine] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._writer = self._stack.enter_context(pq.ParquetWriter(str(self._unfinished), SCHEMA, compression="zstd"))
        return self

    def write(self, line: ManifestLine) -> None:
        """Add one line."""
        self._buffer.append(line)
        if len(self._buffer) >= GROUP_LINES:
            self._flush()

    def _flush(self) -> None:
        columns = zip(*self._buffer, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
        self.lines += len(self._buffer)
        self._buffer.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.close()
            self._unfinished.unlink(missing_ok=True)
            return
        if self._buffer:
            self._flush()
        self._stack.close()
        self._unfinished.replace(self._path)


class NotAManifestError(Exception):
    """A file is no manifest, or one that a newer version wrote."""


def read_manifest(path: Path) -> Iterator[list[ManifestLine]]:
    """Read a manifest: lists of at most `GROUP_LINES` lines, in the file's order, one in memory.

    Columns that the file's version did not have yet are None.

    Raises:
        NotAManifestError: The file is none, or of a newer version.
    """
    with _open(path) as file:
        present = [name for name in SCHEMA.names if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=GROUP_LINES, columns=present, use_threads=False):
            columns = {name: batch.column(name).to_pylist() for name in present}
            nothing: list[str | None] = [None] * batch.num_rows
            values = {name: columns.get(name, nothing) for name in SCHEMA.names}
            values["outcome"] = [Outcome(word) for word in values["outcome"]]
            values["reason"] = [None if word is None else Reason(word) for word in values["reason"]]
            yield list(map(ManifestLine._make, zip(*values.values(), strict=True)))


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise NotAManifestError(f"{path} is not a manifest: {error}") from error
    version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY, b"")
    if not version.isdigit():
        file.close()
        raise NotAManifestError(f"{path} is not a manifest: no version in its metadata")
    if int(version) > VERSION:
        file.close()
        raise NotAManifestError(f"{path} was written by a newer mastosync (manifest version {int(version)})")
    return file


def merge(folder: Path) -> Path:
    """Put what the plan decided and what the copy did into one file, `MANIFEST`.

    A part that a stopped run did not come to write is left out. The parts stay.

    Returns:
        The file.
    """
    merged = folder / MANIFEST
    unfinished = merged.with_name(f".{MANIFEST}")
    with pq.ParquetWriter(str(unfinished), SCHEMA, compression="zstd") as writer:
        for name in (DECIDED, COPIED):
            if not (folder / name).exists():
                continue
            with _open(folder / name) as part:
                for batch in part.iter_batches(batch_size=GROUP_LINES, use_threads=False):
                    writer.write_batch(batch)
    unfinished.replace(merged)
    return merged
