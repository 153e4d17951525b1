"""Reads the newest manifest line of every object at a destination, as a stream.

It takes 10^7 lines in the memory of a few thousand.
"""

from __future__ import annotations

import contextlib
import tempfile
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mastosync_dagster.ranges.partitions import InvalidRangeError, parse_range
from mastosync_dagster.records.folded import TEXTS, RunsOfFile, row_groups_of
from mastosync_dagster.records.folding import newest
from mastosync_dagster.records.manifest import FOLDED, FORMAT, RUN, ManifestLine, lines_of
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.parquet import GROUP_LINES
from mastosync_dagster.records.store import ManifestNotFoundError, ManifestStoreError
from mastosync_dagster.runs.watermarks import SYNC_CHANGES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from typing import Self

    import pyarrow.parquet as pq

    from mastosync_dagster.mastodon import IdRange
    from mastosync_dagster.ranges.partitions import FileType
    from mastosync_dagster.records.doubts import Doubt
    from mastosync_dagster.records.store import FileOf, ManifestStore, StoredManifest
    from mastosync_dagster.runs.manifests import Damaged, ManifestOrigin

_RANGE = "range"
_SPOOL = TEXTS.append(pa.field(_RANGE, pa.int32()))
_READINGS = 3
"""Attempts to read the manifests of runs over several tables, while other runs fold them."""
_REST = range(-64, 0)
"""Numbers for the rows in no ID range: so many parts of them, of which one is in memory at a time."""
_SPOOL_LINES = 4 * GROUP_LINES


@dataclass
class Totals:
    """Counts of all objects of a file type.

    Attributes:
        manifests: How many manifests had the newest line of some object.
        bytes: Bytes that were copied.
        in_doubt: Objects that are left to do or to check, by the reason.
        left_out: Objects that had failed or were missing, and that the policy leaves out by now.
    """

    manifests: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    bytes: int = 0
    in_doubt: Counter[Doubt] = field(default_factory=Counter)
    left_out: int = 0


class _Own(NamedTuple):
    """The open manifest of a range's own run; ``run`` is its text, as lines of other runs have theirs."""

    stored: StoredManifest
    path: Path
    file: pq.ParquetFile
    run: str


class Inventory:
    """The newest manifest line of every object of a file type at a destination.

    It stands in the newest manifest of the object's ID range, or in a later one of a run over several tables. Such a
    run takes the attachments of a row that have changed, with all their styles: for a row's other attachments, the
    earlier lines count. Runs into other destinations than ``origin`` do not count. Files that are no manifests are
    ``damaged``. ``totals`` counts what has been read so far.
    """

    def __init__(self, store: ManifestStore, origin: ManifestOrigin, file_type: FileType, damaged: Damaged) -> None:
        self.totals = Totals()
        self._store = store
        self._origin = origin
        self._file_type = file_type
        self._damaged = damaged

    def lines(self, outcomes: Collection[Outcome], details: Collection[str] = ()) -> Iterator[list[ManifestLine]]:
        """Read everything; yield the lines with one of these outcomes or details, in batches.

        Raises:
            ManifestStoreError: A manifest cannot be read, or there is no room for temporary files.
            NewerManifestError: A file is of a newer version.
            StorageError: The bucket refuses.
        """
        chosen = (pa.array([outcome.value for outcome in outcomes], pa.string()), pa.array(list(details), pa.string()))
        ranges = _Ranges(self._store.by_partition(self._file_type.value))
        used: set[str] = set()
        with tempfile.TemporaryDirectory(prefix="mastosync-report-") as folder, contextlib.ExitStack() as stack:
            spool = self._spool(Path(folder), ranges, stack)
            file_of = stack.enter_context(self._store.ahead([latest for latest, *_ in ranges.manifests]))
            for number in range(_REST.start, len(ranges.manifests)):
                with contextlib.ExitStack() as opened:
                    own = self._own(file_of, ranges.manifests[number], opened) if number >= 0 else None
                    later = newest(_later(spool.lines_of(number), own))
                    used.update(map(str, later.column(RUN).unique().to_pylist()))
                    for batch in later.to_batches(max_chunksize=GROUP_LINES):
                        yield from self._counted(batch, chosen)
                    if own is not None:
                        used.add(own.run)
                        attachments = set(zip(_values(later, "row_id"), _attachments(later), strict=True))
                        for batch in self._batches(own):
                            yield from self._counted(_without(batch, attachments), chosen)
        self.totals.manifests += len(used)

    def _own(self, file_of: FileOf, manifests: Sequence[StoredManifest], opened: contextlib.ExitStack) -> _Own | None:
        """Open the newest of a range's manifests, newest first, that says something of the destination; None: none."""
        for give, manifest in zip(chain([file_of], repeat(self._store.file)), manifests, strict=False):
            with self._damaged.passed_over(manifest), contextlib.ExitStack() as stack:
                path = stack.enter_context(give(manifest))
                file = stack.enter_context(FORMAT.open(path))
                ((run, metadata),) = RunsOfFile.of(manifest, file).metadata.items()
                if not self._origin.is_elsewhere(metadata):
                    opened.enter_context(stack.pop_all())
                    return _Own(manifest, path, file, run)
        return None

    def _spool(self, folder: Path, ranges: _Ranges, stack: contextlib.ExitStack) -> _Spool:
        """Read the manifests of all runs over several tables; again, if another run folds them meanwhile."""
        for _ in range(_READINGS):
            spool = stack.enter_context(_Spool(folder))
            try:
                manifests = list(self._store.files(SYNC_CHANGES))
                with self._store.ahead(manifests) as file_of:
                    for manifest in manifests:
                        with self._damaged.passed_over(manifest):
                            for batch in self._of_runs(file_of, manifest):
                                spool.add(batch, ranges)
            except ManifestNotFoundError as error:
                replaced = error
                continue
            spool.close()
            return spool
        raise replaced

    def _of_runs(self, file_of: FileOf, manifest: StoredManifest) -> Iterator[pa.RecordBatch]:
        """Read the lines of the file type and the destination in a manifest or fold, each with its run."""
        with file_of(manifest) as path, FOLDED.open(path) as file:
            runs = RunsOfFile.of(manifest, file)
            here = [run for run, metadata in runs.metadata.items() if not self._origin.is_elsewhere(metadata)]
            groups = row_groups_of(file, self._file_type.value) if here else []
            for batch in FOLDED.batches(file, path, lines=_SPOOL_LINES, row_groups=groups):
                lines = runs.with_runs(self._of_type(batch))
                yield lines.filter(pc.is_in(lines.column(RUN), value_set=pa.array(here, pa.string())))

    def _batches(self, own: _Own) -> Iterator[pa.RecordBatch]:
        """Read the lines of the file type in the manifest of a range."""
        with self._damaged.passed_over(own.stored):
            yield from map(self._of_type, FORMAT.batches(own.file, own.path))

    def _of_type(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.filter(pc.equal(batch.column("group").cast(pa.string()), pa.scalar(self._file_type.value)))

    def _counted(
        self, batch: pa.RecordBatch, chosen: tuple[pa.Array[Any], pa.Array[Any]]
    ) -> Iterator[list[ManifestLine]]:
        """Count all lines; yield those with the chosen outcomes or details."""
        outcomes: Any = batch.column("outcome").cast(pa.string())
        for each in outcomes.value_counts().to_pylist():
            self.totals.outcomes[Outcome(each["values"])] += each["counts"]
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


def _later(lines: pa.Table, own: _Own | None) -> pa.Table:
    """Return the lines of runs that were published after a range's own manifest; without one, all."""
    return lines if own is None else lines.filter(pc.greater(lines.column(RUN), pa.scalar(own.run)))


def _values(batch: pa.RecordBatch | pa.Table, column: str) -> list[Any]:
    return batch.column(column).to_pylist()


def _attachments(lines: pa.RecordBatch | pa.Table) -> list[str]:
    return [part.partition("/")[0] for part in _values(lines, "part")]


def _without(batch: pa.RecordBatch, attachments: set[tuple[int, str]]) -> pa.RecordBatch:
    """Return the lines of a range's own manifest without those of some rows' attachments."""
    if not attachments:
        return batch
    named = zip(_values(batch, "row_id"), _attachments(batch), strict=True)
    return batch.filter(pa.array([name not in attachments for name in named], pa.bool_()))


class _Ranges:
    """The ID ranges of manifests by their ids; a range's place is its number. Others are not this project's.

    ``manifests`` has those of each range, newest first.
    """

    def __init__(self, by_partition: Iterable[Sequence[StoredManifest]]) -> None:
        found = [(ids, manifests) for manifests in by_partition if (ids := _ids(manifests[0])) is not None]
        found.sort(key=lambda pair: pair[0].lo)
        self.manifests = [manifests for _, manifests in found]
        self._los = [ids.lo for ids, _ in found]
        self._his = [ids.hi for ids, _ in found]

    def numbers_for(self, batch: pa.RecordBatch) -> Any:
        """Return for each line the number of the range that holds its row; those in no range have one of `_REST`."""
        rows: Any = batch.column("row_id")
        rest = pc.subtract(pc.bit_wise_and(rows, pa.scalar(len(_REST) - 1)), pa.scalar(len(_REST)))
        if not self._los:
            return rest.cast(pa.int32())
        # Most rows of nights are newer than all ranges: only the others are looked up, a line at a time.
        inside = pc.and_(pc.greater_equal(rows, pa.scalar(self._los[0])), pc.less_equal(rows, pa.scalar(self._his[-1])))
        numbers = pa.array(list(map(self._number_for, rows.filter(inside).to_pylist())), pa.int64())
        return pc.replace_with_mask(rest, inside, numbers).cast(pa.int32())

    def _number_for(self, row_id: int) -> int:
        before = bisect_right(self._los, row_id) - 1
        return before if before >= 0 and row_id <= self._his[before] else _REST[row_id % len(_REST)]


class _Spool:
    """A file in a folder for the lines of runs over several tables, until their range is read.

    A context manager: it closes its file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "later.arrow"
        self._writer = pa.ipc.new_file(str(self._path), _SPOOL)
        self._open = contextlib.ExitStack()
        self._open.callback(self._writer.close)
        self._waiting: list[pa.RecordBatch] = []
        self._lines = self._written = 0
        self._batches: defaultdict[int, list[int]] = defaultdict(list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, batch: pa.RecordBatch, ranges: _Ranges) -> None:
        """Store the lines of a batch."""
        if batch.num_rows:
            self._waiting.append(pa.record_batch([*batch.columns, ranges.numbers_for(batch)], schema=_SPOOL))
            self._lines += batch.num_rows
        if self._lines >= _SPOOL_LINES:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting, _SPOOL).sort_by(_RANGE).combine_chunks()
        start = 0
        # A Counter keeps the order of first occurrence.
        numbers: list[int] = table.column(_RANGE).to_pylist()  # type: ignore[assignment]  # each line has one
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
        """End the file: nothing more is added, and the lines can be read."""
        if self._waiting:
            self._flush()
        self._writer.close()
        self._reader = self._open.enter_context(
            pa.ipc.open_file(self._open.enter_context(pa.OSFile(str(self._path), mode="rb")))
        )

    def lines_of(self, number: int) -> pa.Table:
        """Return the lines of a range."""
        batches = [self._reader.get_batch(index) for index in self._batches.get(number, ())]
        return pa.Table.from_batches(batches, _SPOOL).drop_columns([_RANGE])
