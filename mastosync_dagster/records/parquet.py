"""Lines about objects in Parquet files: written and read as a stream, with a version of their columns."""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from mastosync_dagster.errors import AdminError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

GROUP_LINES = 4096
"""Lines of a Parquet row group or record batch: what reader and writer hold in memory."""

WORD = pa.dictionary(pa.int32(), pa.string())
"""Type of a column with few different texts."""

_BEGUN_AT = b"mastosync.written"

_Line = TypeVar("_Line", bound="tuple[Any, ...]")


class NotAManifestError(AdminError):
    """A file is no manifest, or one that a newer version wrote."""


class NewerManifestError(NotAManifestError):
    """A newer version wrote it: it is whole, and this version must not guess what it says."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: For messages.
        key: The entry of the file's metadata that holds the version.
        version: Version of the columns. Readers accept this one and those before it.
    """

    name: str
    key: bytes
    version: int
    columns: tuple[pa.Field[Any], ...]

    def schema(self, origin: Mapping[str, str] | None = None) -> pa.Schema:
        """Return the schema of a file, with its version, origin and the time in the metadata."""
        metadata: dict[bytes | str, bytes | str] = {self.key: str(self.version)}
        metadata[_BEGUN_AT] = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        metadata.update({name.encode(): value for name, value in (origin or {}).items()})
        return pa.schema(self.columns, metadata=metadata)

    def open(self, path: Path) -> pq.ParquetFile:
        """Open a file of this kind; the caller closes it.

        Raises:
            NotAManifestError: It is none, or of a newer version.
        """
        try:
            file = pq.ParquetFile(path, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            if _is_disk_error(error):
                raise
            raise NotAManifestError(f"{path} is not a {self.name}: {_reason(error)}") from error
        version = (file.schema_arrow.metadata or {}).get(self.key, b"")
        if not version.isdigit():
            file.close()
            raise NotAManifestError(f"{path} is not a {self.name}: no version in its metadata")
        if int(version) > self.version:
            file.close()
            raise NewerManifestError(
                f"{path} was written by a newer mastosync ({self.name} version {int(version)}): update this one"
            )
        return file

    def read(self, path: Path, *, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Read a file in batches of at most `GROUP_LINES` lines, one in memory; ``columns`` None: all.

        Raises:
            NotAManifestError: It is none, damaged, or of a newer version.
        """
        with self.open(path) as file:
            yield from self.batches(file, path, columns=columns)

    def batches(
        self,
        file: pq.ParquetFile,
        path: Path,
        *,
        lines: int = GROUP_LINES,
        columns: Sequence[str] | None = None,
        row_groups: Sequence[int] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Read an open file in batches of at most ``lines`` lines. The path is for messages.

        ``columns``, ``row_groups``: only these; None: all.

        Raises:
            NotAManifestError: It is damaged.
        """
        batches = file.iter_batches(
            batch_size=lines,
            row_groups=None if row_groups is None else list(row_groups),
            columns=None if columns is None else list(columns),
            use_threads=False,
        )
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                if _is_disk_error(error):
                    raise
                raise NotAManifestError(f"{path} is a damaged {self.name}: {_reason(error)}") from error
            if batch is None:
                return
            yield batch

    def values(self, batch: pa.RecordBatch) -> dict[str, Sequence[Any]]:
        """Return the values of each column of a batch. Columns that its file did not have yet are None."""
        present = set(batch.schema.names)
        nothing: list[None] = [None] * batch.num_rows
        return {
            field.name: batch.column(field.name).to_pylist() if field.name in present else nothing
            for field in self.columns
        }


def begun_at(path: Path) -> str:
    """Return when a file was begun, as a text that sorts by time; empty: it does not say, or is none of ours."""
    try:
        return begun(pq.read_schema(path).metadata)
    except (pa.ArrowException, OSError):
        return ""


def begun(metadata: Mapping[bytes, bytes] | None) -> str:
    """Return the same from the metadata of a file."""
    return (metadata or {}).get(_BEGUN_AT, b"").decode()


def _reason(error: Exception) -> str:
    """Return what Arrow says, to be put into a sentence: its own ends with a full stop, or without one."""
    return str(error).rstrip(".")


def _is_disk_error(error: Exception) -> bool:
    """Return whether the disk failed: the file may be whole. Arrow's own `OSError` has no errno."""
    return isinstance(error, OSError) and error.errno is not None


def batch_of(lines: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    """Return lines, at least one, as a record batch."""
    columns = zip(*lines, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


class LineWriter(Generic[_Line]):
    """Writes lines, tuples in the order of the columns, into a Parquet file.

    A context manager: the file gets its name when the block ends well, and is removed when it does not. It raises
    `OSError` with the file's name where the disk is full or not writable. ``lines`` is the number of lines in the file
    so far.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.lines = 0
        self._schema = schema
        self._path = path
        self._unfinished = path.with_name(f".{path.name}")
        self._buffer: list[_Line] = []
        self._stack = contextlib.ExitStack()

    def _open(self, stack: contextlib.ExitStack, path: str) -> pq.ParquetWriter | pa.ipc.RecordBatchStreamWriter:
        return stack.enter_context(pq.ParquetWriter(path, self._schema, compression="zstd"))

    def __enter__(self) -> Self:
        with self._naming_file():
            self._sink = self._open(self._stack, str(self._unfinished))
        return self

    def write(self, line: _Line) -> None:
        """Add one line."""
        self._buffer.append(line)
        if len(self._buffer) >= GROUP_LINES:
            self._flush()

    def _flush(self) -> None:
        batch = batch_of(self._buffer, self._schema)
        with self._naming_file():
            self._sink.write_batch(batch)
        self.lines += len(self._buffer)
        self._buffer.clear()

    @contextlib.contextmanager
    def _naming_file(self) -> Iterator[None]:
        """Add the file's name to Arrow's errors."""
        try:
            yield
        except OSError as error:
            code = error.errno or errno.EIO
            raise OSError(code, os.strerror(code), str(self._path)) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._buffer:
                self._flush()
        except BaseException:
            self._give_up()
            raise
        if kind is not None:
            self._give_up()
            return
        with self._naming_file():
            self._stack.close()
            self._unfinished.replace(self._path)

    def _give_up(self) -> None:
        # An error now follows from the first one.
        with contextlib.suppress(OSError):
            self._stack.close()
        self._unfinished.unlink(missing_ok=True)
