"""Where doubt lists lie, which of them a run reads, and which it replaces. See `transfer.doubts`."""

from __future__ import annotations

import contextlib
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from mastosync_dagster.records.doubts import CONTENT, FORMAT, GROUP, Doubt, DoubtLine, read_doubts
from mastosync_dagster.records.store import ManifestGoneError
from mastosync_dagster.runs.manifests import columns_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from mastosync_dagster.mastodon import IdRange
    from mastosync_dagster.records.store import ManifestStore, StoredManifest
    from mastosync_dagster.runs.manifests import Damaged, ManifestOrigin

_COLUMNS = ("row_id", "part", "why", "nights")
_SCHEMA = pa.schema([FORMAT.schema().field(name) for name in _COLUMNS])
_ROWS_A_STEP = 1_000
_READINGS = 3
"""Attempts to read lists of which one goes while it is read: another run has put its own in its place."""
_SUPPLEMENT = "."
"""Between a run's id and the number of a further file of its own."""


class Noted(NamedTuple):
    """What the list says of one object.

    Attributes:
        row_id: Its row.
        part: Which of the row's objects it is.
        nights: How many nights have asked in vain, for each reason that it is on the list.
    """

    row_id: int
    part: str
    nights: dict[Doubt, int]


@dataclass(frozen=True)
class Doubts:
    """The doubtful objects of a table, some 25 bytes each.

    Attributes:
        table: Lines without their keys, by row and part. The same object may be in it several times.
        rows: The ids of their rows, ascending, each once.
        acl_rows: Of these, the rows with an object whose ACL is in doubt.
    """

    table: pa.Table
    rows: array[int]
    acl_rows: array[int]

    @classmethod
    def of(cls, batches: Iterable[pa.RecordBatch]) -> Doubts:
        """Gather lines."""
        table = pa.Table.from_batches(list(batches), _SCHEMA).unify_dictionaries()
        table = table.set_column(1, "part", table.column("part").cast(pa.string()))
        table = table.sort_by([("row_id", "ascending"), ("part", "ascending")])
        rows = array("q", (row_id for row_id, _ in groupby(_row_ids(table))))
        # What has failed or was missing has the ACL that it was written with.
        words = pa.array([why.value for why in Doubt if why not in CONTENT])
        acls = table.filter(_is_among(table.column("why"), words))
        return cls(table, rows, array("q", (row_id for row_id, _ in groupby(_row_ids(acls)))))

    def __contains__(self, row_id: object) -> bool:
        """Tell whether the ACL of an object of a row is in doubt."""
        assert isinstance(row_id, int)  # noqa: S101  (the primary key of all these tables is a bigint)
        at = bisect_left(self.acl_rows, row_id)
        return at < len(self.acl_rows) and self.acl_rows[at] == row_id

    def steps(self) -> Iterator[list[Noted]]:
        """Yield the objects by row and part, some rows at a time; all objects of a row together."""
        step: list[Noted] = []
        rows = 0
        for _, of_row in groupby(self._objects(), key=lambda noted: noted.row_id):
            step += of_row
            rows += 1
            if rows == _ROWS_A_STEP:
                yield step
                step, rows = [], 0
        if step:
            yield step

    def _objects(self) -> Iterator[Noted]:
        lines = (
            line
            for batch in self.table.to_batches(max_chunksize=4096)
            for line in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )
        for (row_id, part), same in groupby(lines, key=lambda line: line[:2]):
            nights: dict[Doubt, int] = {}
            for _, _, why, count in same:
                nights[Doubt(why)] = max(count, nights.get(Doubt(why), 0))
            yield Noted(row_id, part, nights)


def _is_among(column: pa.ChunkedArray[Any], words: pa.Array[Any]) -> pa.BooleanArray:
    import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run without doubts does not take)

    return pc.is_in(column.cast(pa.string()), value_set=words)


def _row_ids(table: pa.Table) -> Iterator[int]:
    for chunk in table.column("row_id").chunks:
        yield from (row_id for row_id in chunk.to_pylist() if row_id is not None)


class DoubtList:
    """The doubt lists of one table and one destination.

    Args:
        store: Where they are.
        origin: The destination; lists of others say nothing about it.
        table: The table.
    """

    def __init__(self, store: ManifestStore, origin: ManifestOrigin, table: str) -> None:
        self._store = store
        self._origin = origin
        self._group = GROUP.format(table=table)

    def files(self, partitions: Sequence[str] = ()) -> list[StoredManifest]:
        """Return the lists that runs of some partitions have left; of all, if none is named."""
        if not partitions:
            return self._store.in_order(self._group)
        return [file for partition in partitions for file in self._store.of_partition(self._group, partition)]

    def read(
        self, damaged: Damaged, partitions: Sequence[str] = (), ids: IdRange | None = None
    ) -> tuple[Doubts, list[StoredManifest]]:
        """Read lists; those of other destinations, and damaged ones, say nothing.

        Args:
            damaged: Passes over those that cannot be read.
            partitions: Of which partitions; empty: of all.
            ids: Only the objects of these rows; None: all.

        Returns:
            The objects, and the lists that were read whole.

        Raises:
            ManifestStoreError: They cannot be read.
            NewerManifestError: One is of a newer version.
            StorageError: The bucket refuses.
        """
        for _ in range(_READINGS):
            with contextlib.suppress(ManifestGoneError):
                return self._read(self.files(partitions), damaged, ids)
        return self._read(self.files(partitions), damaged, ids)

    def _read(
        self, files: Sequence[StoredManifest], damaged: Damaged, ids: IdRange | None
    ) -> tuple[Doubts, list[StoredManifest]]:
        found: list[pa.RecordBatch] = []
        whole: list[StoredManifest] = []
        for file in files:
            with damaged.passed_over(file):
                # None is empty: one without a batch is another destination's.
                lines = list(self._batches(file, ids))
                found += lines
                if lines:
                    whole.append(file)
        return Doubts.of(found), whole

    def lines(self, files: Iterable[StoredManifest]) -> Iterator[DoubtLine]:
        """Yield the lines of lists that `read` has read whole. Of one that is gone meanwhile others have the lines."""
        for file in files:
            with contextlib.suppress(ManifestGoneError), self._store.file(file) as path:
                for lines in read_doubts(path):
                    yield from lines

    def _batches(self, file: StoredManifest, ids: IdRange | None) -> Iterator[pa.RecordBatch]:
        import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run without doubts does not take)

        for batch in columns_of(self._store, file, FORMAT, self._origin, _COLUMNS, any_acls=True):
            found = batch.replace_schema_metadata(None)
            if ids is not None:
                rows = found.column("row_id")
                found = found.filter(
                    pc.and_(pc.greater_equal(rows, pa.scalar(ids.lo)), pc.less_equal(rows, pa.scalar(ids.hi)))
                )
            yield found

    def publish(self, file: Path, partition: str, run_id: str, supplement: int = 0) -> None:
        """Publish a run's list, in the place of the one that it has published before.

        Args:
            file: The finished local file; it stays.
            partition: The partition's key, or the word that stands for a run over several tables.
            run_id: The run.
            supplement: Above 0, one further list of the run, beside its first.

        Raises:
            ManifestStoreError: It could not be written.
            StorageError: The bucket refuses.
        """
        name = f"{run_id}{_SUPPLEMENT}{supplement}" if supplement else run_id
        self._store.write(file, self._group, partition, name)

    def remove(self, files: Iterable[StoredManifest]) -> None:
        """Remove lists whose lines stand in one that was published since. Raises as `publish`.

        One that was published anew since it was read stays: a run that could not publish it is made up for by others.
        """
        wanted = set(files)
        there = self.files(sorted({file.partition for file in wanted})) if wanted else []
        for file in there:
            if file in wanted:
                self._store.remove(file)


def run_of(file: StoredManifest) -> str:
    """Return the run that a list is of."""
    return file.run_id.partition(_SUPPLEMENT)[0]
