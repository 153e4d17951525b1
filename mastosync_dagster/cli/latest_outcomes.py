"""Reads the newest manifest line of every object, as a stream: 10^7 lines in the memory of a few thousand."""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from mastosync_dagster.ranges.partitions import InvalidRangeError, parse_range
from mastosync_dagster.records.manifest import FORMAT, ManifestLine, lines_of
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.parquet import GROUP_LINES, WORD
from mastosync_dagster.records.store import ManifestStoreError
from mastosync_dagster.runs.history import SYNC_CHANGES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from typing_extensions import Self

    from mastosync_dagster.mastodon import IdRange
    from mastosync_dagster.ranges.partitions import FileType
    from mastosync_dagster.records.doubts import Doubt
    from mastosync_dagster.records.store import ManifestStore, StoredManifest

_RANGE, _AGE = "range", "age"
_LINES = pa.schema([*FORMAT.columns, pa.field(_RANGE, pa.int32()), pa.field(_AGE, pa.int32())])
_SPOOL = pa.schema([(column.name, pa.string() if column.type == WORD else column.type) for column in _LINES])
_RANGES_A_MANIFEST = 10_000
_REST = range(-64, 0)
"""Numbers for the rows in no ID range: so many parts of them, of which one is in memory at a time."""
_SPOOL_LINES = 4 * GROUP_LINES


@dataclass
class Totals:
    """Counts of all objects of a file type.

    Attributes:
        manifests: How many manifests had the newest line of some object.
        bytes: Bytes that were copied.
        in_doubt: Objects that incremental runs retry, by the reason.
        left_out: Objects that had failed or were missing, and that the policy leaves out by now.
    """

    manifests: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    bytes: int = 0
    in_doubt: Counter[Doubt] = field(default_factory=Counter)
    left_out: int = 0


class Inventory:
    """The newest manifest line of every object of a file type; ``totals`` counts what has been read so far.

    It stands in the newest manifest of the object's ID range, or in a later one of a run over several tables. Such a
    run takes the attachments of a row that have changed, with all their styles: for a row's other attachments, the
    earlier lines count.
    """

    def __init__(self, store: ManifestStore, file_type: FileType) -> None:
        self.totals = Totals()
        self._store = store
        self._file_type = file_type

    def lines(self, outcomes: Collection[Outcome], details: Collection[str] = ()) -> Iterator[list[ManifestLine]]:
        """Read everything; yield the lines with one of these outcomes or details, in batches.

        Raises:
            ManifestStoreError: A manifest cannot be read, or there is no room for temporary files.
            NotAManifestError: A file is no manifest, or of a newer version.
            StorageError: The bucket refuses.
        """
        chosen = (pa.array([outcome.value for outcome in outcomes], pa.string()), pa.array(list(details), pa.string()))
        # Manifests without an ID range are not this project's.
        manifests = [manifest for manifest in self._store.newest(self._file_type.value) if _ids(manifest) is not None]
        ranges = _Ranges(manifests, self._store.is_later)
        used: set[int] = set()
        with tempfile.TemporaryDirectory(prefix="mastosync-report-") as folder, _Spool(Path(folder)) as spool:
            for age, manifest in enumerate(reversed(self._store.in_order(SYNC_CHANGES))):
                for batch in self._batches(manifest):
                    spool.add(batch, [ranges.number_for(row_id, manifest) for row_id in _values(batch, "row_id")], age)
            spool.close()
            for number in (*_REST, *(ranges.number_named(manifest) for manifest in manifests)):
                later = _Later()
                for batch in spool.lines_of(number):
                    found = later.newest_of(batch)
                    used.update(_values(found, _AGE))
                    yield from self._counted(found, chosen)
                if number >= 0:
                    self.totals.manifests += 1
                    for batch in self._batches(ranges.manifest(number)):
                        yield from self._counted(later.rest_of(batch), chosen)
        self.totals.manifests += len(used)

    def _batches(self, manifest: StoredManifest) -> Iterator[pa.RecordBatch]:
        """Read a manifest's lines of the file type."""
        group = pa.scalar(self._file_type.value)
        with self._store.file(manifest) as path, FORMAT.open(path) as file:
            for batch in FORMAT.batches(file, path):
                yield batch.filter(pc.equal(batch.column("group").cast(pa.string()), group))

    def _counted(
        self, batch: pa.RecordBatch, chosen: tuple[pa.Array[Any], pa.Array[Any]]
    ) -> Iterator[list[ManifestLine]]:
        """Count all lines; yield those with the chosen outcomes or details."""
        outcomes = batch.column("outcome").cast(pa.string())
        self.totals.outcomes.update(Outcome(word) for word in outcomes.to_pylist())
        copied = batch.column("size").filter(pc.equal(outcomes, pa.scalar(Outcome.COPIED.value)))
        self.totals.bytes += pc.sum(copied).as_py() or 0
        details = batch.column("detail").cast(pa.string())
        found = batch.filter(pc.or_(pc.is_in(outcomes, value_set=chosen[0]), pc.is_in(details, value_set=chosen[1])))
        if found.num_rows:
            yield lines_of(found)


def _ids(manifest: StoredManifest) -> IdRange | None:
    try:
        return parse_range(manifest.partition)
    except InvalidRangeError:
        return None


def _values(batch: pa.RecordBatch, column: str) -> list[Any]:
    return batch.column(column).to_pylist()


def _of_type(column: pa.Array[Any], kind: pa.DataType) -> pa.Array[Any]:
    """Return a column with its type of today: earlier versions had other ones."""
    return column if column.type == kind else column.cast(kind)


def _attachments(batch: pa.RecordBatch) -> list[str]:
    return [part.partition("/")[0] for part in _values(batch, "part")]


class _Ranges:
    """The ID ranges of manifests, numbered in their order."""

    def __init__(
        self, manifests: list[StoredManifest], is_later: Callable[[StoredManifest, StoredManifest], bool]
    ) -> None:
        ordered = sorted(
            ((ids, manifest) for manifest in manifests for ids in [_ids(manifest)] if ids is not None),
            key=lambda pair: pair[0].lo,
        )
        self._los = [ids.lo for ids, _ in ordered]
        self._his = [ids.hi for ids, _ in ordered]
        self._manifests = [manifest for _, manifest in ordered]
        self._is_later = lru_cache(maxsize=_RANGES_A_MANIFEST)(is_later)
        self._numbers = {manifest.partition: number for number, (_, manifest) in enumerate(ordered)}

    def number_for(self, row_id: int, manifest: StoredManifest) -> int | None:
        """Return the number of the range that holds a row; None: that range's own manifest is the later one.

        Rows in no range have a number of `_REST`.
        """
        before = bisect_right(self._los, row_id) - 1
        if before < 0 or row_id > self._his[before]:
            return _REST[row_id % len(_REST)]
        return before if self._is_later(manifest, self._manifests[before]) else None

    def number_named(self, manifest: StoredManifest) -> int:
        """Return the number of a manifest's range."""
        return self._numbers[manifest.partition]

    def manifest(self, number: int) -> StoredManifest:
        """Return the manifest of a range."""
        return self._manifests[number]


class _Spool:
    """A file in a folder for the lines of later runs, until their range is read.

    A context manager: it closes its file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "later.arrow"
        self._writer = pa.ipc.new_file(str(self._path), _SPOOL)
        self._waiting: list[pa.RecordBatch] = []
        self._lines = self._written = 0
        self._batches: defaultdict[int, list[int]] = defaultdict(list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, batch: pa.RecordBatch, ranges: list[int | None], age: int) -> None:
        """Store the lines of a batch that have a range number. Later runs come first: ``age`` counts up."""
        named = set(batch.schema.names)
        columns = [
            _of_type(batch.column(column.name), column.type)
            if column.name in named
            else pa.nulls(batch.num_rows, column.type)
            for column in FORMAT.columns
        ]
        columns += [pa.array(ranges, pa.int32()), pa.array([age] * batch.num_rows, pa.int32())]
        found = pa.record_batch(columns, schema=_LINES)
        if None in ranges:
            found = found.filter(pc.is_valid(found.column(_RANGE)))
        if found.num_rows:
            self._waiting.append(found)
            self._lines += found.num_rows
        if self._lines >= _SPOOL_LINES:
            self._flush()

    def _flush(self) -> None:
        # Texts of many files at once: a night's file is small, and each call costs more than its lines.
        table = pa.Table.from_batches(self._waiting, _LINES).cast(_SPOOL)
        order = pc.sort_indices(table, sort_keys=[(_RANGE, "ascending"), (_AGE, "ascending")])
        table = table.take(order).combine_chunks()
        start = 0
        # A Counter keeps the order of first occurrence.
        numbers: list[int] = table.column(_RANGE).to_pylist()  # type: ignore[assignment]  # those without were left out
        for number, lines in Counter(numbers).items():
            for batch in table.slice(start, lines).to_batches():
                self._write(batch)
                self._batches[number].append(self._written)
                self._written += 1
            start += lines
        self._waiting, self._lines = [], 0

    def _write(self, batch: pa.RecordBatch) -> None:
        try:
            self._writer.write_batch(batch)
        except OSError as error:
            raise ManifestStoreError(f"no room for the report in {self._path.parent}: {error.strerror}") from error

    def close(self) -> None:
        """End the file: nothing more is added."""
        if self._waiting:
            self._flush()
        self._writer.close()

    def lines_of(self, number: int) -> Iterator[pa.RecordBatch]:
        """Yield the lines of a range, the latest run's first."""
        indexes = self._batches.get(number)
        if not indexes:
            return
        with pa.OSFile(str(self._path), mode="rb") as file, pa.ipc.open_file(file) as reader:
            for index in indexes:
                yield reader.get_batch(index)


class _Later:
    """The attachments of one ID range's rows that later runs have lines of."""

    def __init__(self) -> None:
        self._ages: dict[tuple[int, str], int] = {}  # by row and attachment

    def newest_of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the lines of a batch whose attachment no later run has; batches of the latest run come first."""
        named = zip(_values(batch, "row_id"), _attachments(batch), strict=True)
        ages = zip(named, _values(batch, _AGE), strict=True)
        return batch.filter(pa.array([self._ages.setdefault(name, age) == age for name, age in ages], pa.bool_()))

    def rest_of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the lines of the range's own manifest whose attachment no later run has."""
        if not self._ages:
            return batch
        named = zip(_values(batch, "row_id"), _attachments(batch), strict=True)
        return batch.filter(pa.array([name not in self._ages for name in named], pa.bool_()))
