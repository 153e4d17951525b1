"""What the newest manifests say of every object, read in a stream: 10^7 lines in the memory of a few thousand."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from mastosync_dagster.history import SYNC_CHANGES
from mastosync_dagster.partitions import InvalidRangeError, parse_range
from mastosync_dagster.transfer.lines import GROUP_LINES
from mastosync_dagster.transfer.manifest import FORMAT, ManifestLine, lines_of
from mastosync_dagster.transfer.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from mastosync_dagster.mastodon import IdRange
    from mastosync_dagster.partitions import FileType
    from mastosync_dagster.transfer.manifest_store import ManifestStore, StoredManifest


@dataclass
class Totals:
    """Counts over all objects of a file type.

    Attributes:
        manifests: How many manifests were read.
        outcomes: Objects by outcome.
        bytes: Bytes that were copied.
    """

    manifests: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    bytes: int = 0


class Inventory:
    """The newest word about every object of a file type.

    That is the newest manifest of each ID range and, of rows that lie in none of those, what the runs over several
    tables said last.

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

    def lines(self, wanted: Collection[Outcome]) -> Iterator[list[ManifestLine]]:
        """Read everything; yield the lines with some outcomes, in batches.

        Raises:
            ManifestStoreError: A manifest cannot be read.
            NotAManifestError: One is none, or of a newer version.
            StorageError: The bucket refuses.
        """
        ranges: list[IdRange] = []
        for manifest in self._store.newest(self._file_type.value):
            yield from self._read(manifest, None, wanted)
            ids = _ids(manifest)
            if ids is not None:
                ranges.append(ids)
        rest = _Rest(ranges)
        for manifest in reversed(self._store.in_order(SYNC_CHANGES)):
            yield from self._read(manifest, rest, wanted)
            rest.end_manifest()

    def _read(
        self, manifest: StoredManifest, rest: _Rest | None, wanted: Collection[Outcome]
    ) -> Iterator[list[ManifestLine]]:
        words = pa.array([outcome.value for outcome in wanted], pa.string())
        group = pa.scalar(self._file_type.value)
        lines = 0
        with self._store.file(manifest) as path, FORMAT.open(path) as file:
            for every in file.iter_batches(batch_size=GROUP_LINES, use_threads=False):
                batch = every.filter(pc.equal(every.column("group").cast(pa.string()), group))
                if rest is not None:
                    batch = rest.of(batch)
                lines += batch.num_rows
                outcomes = batch.column("outcome").cast(pa.string())
                self._count(batch, outcomes)
                found = batch.filter(pc.is_in(outcomes, value_set=words))
                if found.num_rows:
                    yield lines_of(found)
        self.totals.manifests += bool(lines) or rest is None

    def _count(self, batch: pa.RecordBatch, outcomes: pa.Array[Any]) -> None:
        self.totals.outcomes.update(Outcome(word) for word in outcomes.to_pylist())
        copied = batch.column("size").filter(pc.equal(outcomes, pa.scalar(Outcome.COPIED.value)))
        self.totals.bytes += pc.sum(copied).as_py() or 0


def _ids(manifest: StoredManifest) -> IdRange | None:
    try:
        return parse_range(manifest.partition)
    except InvalidRangeError:
        return None


class _Rest:
    """Rows that lie in none of some ranges, and that no manifest so far has spoken of. Eight bytes a row are kept."""

    def __init__(self, ranges: list[IdRange]) -> None:
        ordered = sorted(ranges, key=lambda ids: ids.lo)
        self._los = [ids.lo for ids in ordered]
        self._his = [ids.hi for ids in ordered]
        self._known: pa.Array[Any] = pa.array([], pa.int64())
        self._new: list[pa.Array[Any]] = []

    def of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return those lines of a batch that are about such rows."""
        ids = batch.column("row_id")
        outside = pa.array([row_id is not None and self._is_outside(row_id) for row_id in ids.to_pylist()], pa.bool_())
        found = batch.filter(pc.and_(outside, pc.invert(pc.is_in(ids, value_set=self._known))))
        self._new.append(found.column("row_id"))
        return found

    def _is_outside(self, row_id: int) -> bool:
        before = bisect_right(self._los, row_id) - 1
        return before < 0 or row_id > self._his[before]

    def end_manifest(self) -> None:
        """Count the rows of the manifest that was read last among those spoken of."""
        self._known = pc.unique(pa.concat_arrays([self._known, *self._new]))
        self._new = []
