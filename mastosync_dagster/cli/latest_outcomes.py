"""What the newest manifests say of every object, read in a stream: 10^7 lines in the memory of a few thousand."""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
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
    from collections.abc import Collection, Iterator

    from typing_extensions import Self

    from mastosync_dagster.mastodon import IdRange
    from mastosync_dagster.ranges.partitions import FileType
    from mastosync_dagster.records.doubts import Doubt
    from mastosync_dagster.records.store import ManifestStore, StoredManifest

_PLACE, _AGE = "place", "age"
_SHELF = pa.schema(
    [
        *((column.name, pa.string() if column.type == WORD else column.type) for column in FORMAT.columns),
        (_PLACE, pa.int32()),
        (_AGE, pa.int32()),
    ]
)
_SHELF_LINES = 4 * GROUP_LINES


@dataclass
class Totals:
    """Counts over all objects of a file type.

    Attributes:
        manifests: How many manifests had the newest word about some object.
        outcomes: Objects by outcome.
        bytes: Bytes that were copied.
        in_doubt: Objects that the nights ask for, by why they do.
    """

    manifests: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    bytes: int = 0
    in_doubt: Counter[Doubt] = field(default_factory=Counter)


class Inventory:
    """The newest word about every object of a file type.

    That is what the newest manifest of its ID range says, or a later one of a run over several tables. Such a run takes
    those attachments of a row that have changed, with all their styles: of a row's other attachments the word before
    counts.

    Args:
        store: Where the manifests are.
        file_type: The file type.

    Attributes:
        totals: Of what has been read so far.
    """

    def __init__(self, store: ManifestStore, file_type: FileType) -> None:
        self.totals = Totals()
        self._store = store
        self._file_type = file_type

    def lines(self, wanted: Collection[Outcome], remarks: Collection[str] = ()) -> Iterator[list[ManifestLine]]:
        """Read everything; yield the lines with some outcomes, in batches.

        Args:
            wanted: The outcomes.
            remarks: Lines with one of these details too, whatever their outcome.

        Raises:
            ManifestStoreError: A manifest cannot be read, or there is no room for temporary files.
            NotAManifestError: One is none, or of a newer version.
            StorageError: The bucket refuses.
        """
        words = (pa.array([outcome.value for outcome in wanted], pa.string()), pa.array(list(remarks), pa.string()))
        # What is of no ID range is not ours.
        manifests = [manifest for manifest in self._store.newest(self._file_type.value) if _ids(manifest) is not None]
        ranges = _Ranges(manifests)
        told: set[int] = set()
        with tempfile.TemporaryDirectory(prefix="mastosync-report-") as folder, _Shelf(Path(folder)) as shelf:
            rest = _Rest()
            for age, manifest in enumerate(reversed(self._store.in_order(SYNC_CHANGES))):
                for batch in self._batches(manifest):
                    places = [ranges.place_of(row_id) for row_id in _values(batch, "row_id")]
                    shelf.add(batch, [ranges.if_older(place, manifest) for place in places], age)
                    found = rest.of(batch.filter(pa.array([place is None for place in places], pa.bool_())))
                    if found.num_rows:
                        told.add(age)
                        yield from self._counted(found, words)
                rest.end_manifest()
            shelf.close()
            for manifest in manifests:
                self.totals.manifests += 1
                later = _Later()
                for batch in shelf.at(ranges.place_named(manifest)):
                    found = later.newest_of(batch)
                    told.update(_values(found, _AGE))
                    yield from self._counted(found, words)
                for batch in self._batches(manifest):
                    yield from self._counted(later.rest_of(batch), words)
        self.totals.manifests += len(told)

    def _batches(self, manifest: StoredManifest) -> Iterator[pa.RecordBatch]:
        """Read a manifest's lines about the file type."""
        group = pa.scalar(self._file_type.value)
        with self._store.file(manifest) as path, FORMAT.open(path) as file:
            for batch in FORMAT.batches(file, path):
                yield batch.filter(pc.equal(batch.column("group").cast(pa.string()), group))

    def _counted(
        self, batch: pa.RecordBatch, words: tuple[pa.Array[Any], pa.Array[Any]]
    ) -> Iterator[list[ManifestLine]]:
        """Count lines; yield those with the wanted outcomes or details."""
        outcomes = batch.column("outcome").cast(pa.string())
        self.totals.outcomes.update(Outcome(word) for word in outcomes.to_pylist())
        copied = batch.column("size").filter(pc.equal(outcomes, pa.scalar(Outcome.COPIED.value)))
        self.totals.bytes += pc.sum(copied).as_py() or 0
        details = batch.column("detail").cast(pa.string())
        found = batch.filter(pc.or_(pc.is_in(outcomes, value_set=words[0]), pc.is_in(details, value_set=words[1])))
        if found.num_rows:
            yield lines_of(found)


def _ids(manifest: StoredManifest) -> IdRange | None:
    try:
        return parse_range(manifest.partition)
    except InvalidRangeError:
        return None


def _values(batch: pa.RecordBatch, column: str) -> list[Any]:
    return batch.column(column).to_pylist()


def _attachments(batch: pa.RecordBatch) -> list[str]:
    return [part.partition("/")[0] for part in _values(batch, "part")]


class _Ranges:
    """The ID ranges that manifests are about. The place of one is its number among them."""

    def __init__(self, manifests: list[StoredManifest]) -> None:
        ordered = sorted(
            ((ids, manifest) for manifest in manifests for ids in [_ids(manifest)] if ids is not None),
            key=lambda pair: pair[0].lo,
        )
        self._los = [ids.lo for ids, _ in ordered]
        self._his = [ids.hi for ids, _ in ordered]
        self._written = [manifest.written for _, manifest in ordered]
        self._places = {manifest.partition: place for place, (_, manifest) in enumerate(ordered)}

    def place_of(self, row_id: int) -> int | None:
        """Return the place of the range that holds a row; None: none does."""
        before = bisect_right(self._los, row_id) - 1
        return None if before < 0 or row_id > self._his[before] else before

    def place_named(self, manifest: StoredManifest) -> int | None:
        """Return the place of the range that a manifest is about; None: it is about none."""
        return self._places.get(manifest.partition)

    def if_older(self, place: int | None, manifest: StoredManifest) -> int | None:
        """Return a place again if the manifest of its range is older than another one."""
        return place if place is not None and self._written[place] < manifest.written else None


class _Shelf:
    """Lines of later runs about rows of ID ranges, put by in a file until the turn of their range comes.

    A context manager: it closes its file.

    Args:
        folder: Where the file goes.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "later.arrow"
        self._writer = pa.ipc.new_file(str(self._path), _SHELF)
        self._waiting: list[pa.RecordBatch] = []
        self._lines = self._written = 0
        self._at: defaultdict[int | None, list[int]] = defaultdict(list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, batch: pa.RecordBatch, places: list[int | None], age: int) -> None:
        """Put by those lines of a batch that have a place. Later runs' come first: ``age`` counts up."""
        named = set(batch.schema.names)
        columns = [
            batch.column(column.name).cast(column.type)
            if column.name in named
            else pa.nulls(batch.num_rows, column.type)
            for column in list(_SHELF)[: len(FORMAT.columns)]
        ]
        columns += [pa.array(places, pa.int32()), pa.array([age] * batch.num_rows, pa.int32())]
        whole = pa.record_batch(columns, schema=_SHELF)
        found = whole.filter(pc.is_valid(whole.column(_PLACE)))
        if found.num_rows:
            self._waiting.append(found)
            self._lines += found.num_rows
        if self._lines >= _SHELF_LINES:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting, _SHELF)
        order = pc.sort_indices(table, sort_keys=[(_PLACE, "ascending"), (_AGE, "ascending")])
        table = table.take(order).combine_chunks()
        start = 0
        # A counter keeps the order in which it meets them.
        for place, lines in Counter(table.column(_PLACE).to_pylist()).items():
            for batch in table.slice(start, lines).to_batches():
                self._write(batch)
                self._at[place].append(self._written)
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

    def at(self, place: int | None) -> Iterator[pa.RecordBatch]:
        """Yield the lines of a place, the latest run's first."""
        numbers = self._at.get(place)
        if not numbers:
            return
        with pa.OSFile(str(self._path), mode="rb") as file, pa.ipc.open_file(file) as reader:
            for number in numbers:
                yield reader.get_batch(number)


class _Later:
    """What later runs have said of the rows of one ID range. Holds the attachments of those rows that they name."""

    def __init__(self) -> None:
        # By row and attachment.
        self._ages: dict[tuple[int, str], int] = {}

    def newest_of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return those lines of a batch about whose attachment no later run has spoken; the latest come first."""
        named = zip(_values(batch, "row_id"), _attachments(batch), strict=True)
        ages = zip(named, _values(batch, _AGE), strict=True)
        return batch.filter(pa.array([self._ages.setdefault(name, age) == age for name, age in ages], pa.bool_()))

    def rest_of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return those lines of the range's own manifest about whose attachment no later run has spoken."""
        if not self._ages:
            return batch
        named = zip(_values(batch, "row_id"), _attachments(batch), strict=True)
        return batch.filter(pa.array([name not in self._ages for name in named], pa.bool_()))


class _Rest:
    """Rows that lie in no ID range: lines about attachments that no later manifest has spoken of.

    Eight bytes are kept for each attachment of a row.
    """

    def __init__(self) -> None:
        self._known: defaultdict[str, pa.Array[Any]] = defaultdict(lambda: pa.array([], pa.int64()))
        self._new: defaultdict[str, list[pa.Array[Any]]] = defaultdict(list)

    def of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return those lines of a batch that are the newest about their attachment."""
        names, ids = _attachments(batch), batch.column("row_id")
        newest = pa.array([False] * batch.num_rows, pa.bool_())
        for attachment in set(names):
            origin = pa.array([name == attachment for name in names], pa.bool_())
            origin = pc.and_(origin, pc.invert(pc.is_in(ids, value_set=self._known[attachment])))
            self._new[attachment].append(ids.filter(origin))
            newest = pc.or_(newest, origin)
        return batch.filter(newest)

    def end_manifest(self) -> None:
        """Count the rows of the manifest that was read last among those spoken of."""
        for attachment, ids in self._new.items():
            self._known[attachment] = pc.unique(pa.concat_arrays([self._known[attachment], *ids]))
        self._new.clear()
