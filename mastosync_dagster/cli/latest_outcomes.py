"""Reads the newest manifest line of every object, as a stream: 10^7 lines in the memory of a few thousand."""

from __future__ import annotations

import contextlib
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
from mastosync_dagster.records.folded import TEXTS, PublishedRun, RunsOfFile, published_text, row_groups_of
from mastosync_dagster.records.folding import newest
from mastosync_dagster.records.manifest import FOLDED, FORMAT, RUN, ManifestLine, lines_of
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.parquet import GROUP_LINES
from mastosync_dagster.records.store import ManifestNotFoundError, ManifestStoreError
from mastosync_dagster.runs.watermarks import SYNC_CHANGES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Self

    from mastosync_dagster.mastodon import IdRange
    from mastosync_dagster.ranges.partitions import FileType
    from mastosync_dagster.records.doubts import Doubt
    from mastosync_dagster.records.store import FileOf, ManifestStore, StoredManifest
    from mastosync_dagster.runs.manifests import Damaged

_RANGE = "range"
_SPOOL = TEXTS.append(pa.field(_RANGE, pa.int32()))
_RANGES_A_REPORT = 10_000
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


class Inventory:
    """The newest manifest line of every object of a file type; ``totals`` counts what has been read so far.

    It stands in the newest manifest of the object's ID range, or in a later one of a run over several tables. Such a
    run takes the attachments of a row that have changed, with all their styles: for a row's other attachments, the
    earlier lines count. Files that are no manifests are ``damaged``.
    """

    def __init__(self, store: ManifestStore, file_type: FileType, damaged: Damaged) -> None:
        self.totals = Totals()
        self._store = store
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
        # Manifests without an ID range are not this project's.
        manifests = [manifest for manifest in self._store.newest(self._file_type.value) if _ids(manifest) is not None]
        ranges = _Ranges(manifests, self._store)
        used: set[str] = set()
        with tempfile.TemporaryDirectory(prefix="mastosync-report-") as folder, contextlib.ExitStack() as stack:
            spool = self._spool(Path(folder), ranges, stack)
            file_of = stack.enter_context(self._store.ahead(manifests))
            for number in (*_REST, *(ranges.number_named(manifest) for manifest in manifests)):
                later = newest(spool.lines_of(number))
                used.update(map(str, later.column(RUN).unique().to_pylist()))
                for batch in later.to_batches(max_chunksize=GROUP_LINES):
                    yield from self._counted(batch, chosen)
                if number >= 0:
                    self.totals.manifests += 1
                    attachments = set(zip(_values(later, "row_id"), _attachments(later), strict=True))
                    for batch in self._batches(file_of, ranges.manifest(number)):
                        yield from self._counted(_without(batch, attachments), chosen)
        self.totals.manifests += len(used)

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
        """Read the lines of the file type in a manifest or fold, each with its run."""
        with file_of(manifest) as path, FOLDED.open(path) as file:
            runs = RunsOfFile.of(manifest, file)
            groups = row_groups_of(file, self._file_type.value)
            for batch in FOLDED.batches(file, path, lines=_SPOOL_LINES, row_groups=groups):
                yield runs.with_runs(self._of_type(batch))

    def _batches(self, file_of: FileOf, manifest: StoredManifest) -> Iterator[pa.RecordBatch]:
        """Read the lines of the file type in the manifest of a range."""
        with self._damaged.passed_over(manifest), file_of(manifest) as path, FORMAT.open(path) as file:
            yield from map(self._of_type, FORMAT.batches(file, path))

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
    """The ID ranges of manifests, numbered in their order."""

    def __init__(self, manifests: list[StoredManifest], store: ManifestStore) -> None:
        ordered = sorted(
            ((ids, manifest) for manifest in manifests for ids in [_ids(manifest)] if ids is not None),
            key=lambda pair: pair[0].lo,
        )
        self._los = [ids.lo for ids, _ in ordered]
        self._his = [ids.hi for ids, _ in ordered]
        self._manifests = [manifest for _, manifest in ordered]
        self._published = [published_text(manifest.written) for manifest in self._manifests]
        self._begun = lru_cache(maxsize=_RANGES_A_REPORT)(store.begun)
        self._numbers = {manifest.partition: number for number, (_, manifest) in enumerate(ordered)}

    def numbers_for(self, batch: pa.RecordBatch) -> Any:
        """Return for each line the number of the range that holds its row; null: that range's own manifest is later.

        Rows in no range have a number of `_REST`.
        """
        rows: Any = batch.column("row_id")
        rest = pc.subtract(pc.bit_wise_and(rows, pa.scalar(len(_REST) - 1)), pa.scalar(len(_REST)))
        if not self._los:
            return rest.cast(pa.int32())
        # Most rows of nights are newer than all ranges: only the others are looked up, a line at a time.
        inside = pc.and_(pc.greater_equal(rows, pa.scalar(self._los[0])), pc.less_equal(rows, pa.scalar(self._his[-1])))
        runs: list[Any] = batch.column(RUN).filter(inside).to_pylist()
        ids: list[Any] = rows.filter(inside).to_pylist()
        numbers = pa.array(list(map(self._number_for, ids, runs)), pa.int64())
        return pc.replace_with_mask(rest, inside, numbers).cast(pa.int32())

    def _number_for(self, row_id: int, run: str) -> int | None:
        before = bisect_right(self._los, row_id) - 1
        if before < 0 or row_id > self._his[before]:
            return _REST[row_id % len(_REST)]
        return before if run > self._published[before] and self._is_later(run, before) else None

    def _is_later(self, run: str, number: int) -> bool:
        """Return whether a run, published no earlier than a range's own manifest, is later."""
        manifest, published = self._manifests[number], self._published[number]
        if not run.startswith(published):
            return True
        return run > PublishedRun(manifest.written, self._begun(manifest), manifest.run_id).text

    def number_named(self, manifest: StoredManifest) -> int:
        """Return the number of a manifest's range."""
        return self._numbers[manifest.partition]

    def manifest(self, number: int) -> StoredManifest:
        """Return the manifest of a range."""
        return self._manifests[number]


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
        """Store the lines of a batch that are later than their range's own manifest."""
        numbers = ranges.numbers_for(batch)
        found = pa.record_batch([*batch.columns, numbers], schema=_SPOOL)
        if numbers.null_count:
            found = found.filter(pc.is_valid(found.column(_RANGE)))
        if found.num_rows:
            self._waiting.append(found)
            self._lines += found.num_rows
        if self._lines >= _SPOOL_LINES:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting, _SPOOL).sort_by(_RANGE).combine_chunks()
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
