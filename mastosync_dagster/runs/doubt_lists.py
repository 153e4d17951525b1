"""The stored doubt lists of a table: which of them a run reads, and which it replaces. See `records.doubts`."""

from __future__ import annotations

import contextlib
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from mastosync_dagster.pool import Pool
from mastosync_dagster.records.doubts import FORMAT, GROUP, Doubt, DoubtLine, read_doubts
from mastosync_dagster.records.store import ManifestNotFoundError
from mastosync_dagster.runs.manifests import columns_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from mastosync_dagster.mastodon import IdRange
    from mastosync_dagster.records.store import FileOf, ManifestStore, StoredManifest
    from mastosync_dagster.runs.manifests import Damaged, ManifestOrigin

_COLUMNS = ("row_id", "part", "why", "nights")
_SCHEMA = pa.schema([FORMAT.schema().field(name) for name in _COLUMNS])
_ROWS_A_STEP = 1_000
_READINGS = 3
"""Attempts to read lists, where another run replaces one with its own meanwhile."""
_AT_ONCE = 8
"""Lists that are removed at once."""
_SUPPLEMENT = "."
"""Between a run's id and the number of a further list of the same run."""


class DoubtfulObject(NamedTuple):
    """An object on the list; ``nights``, by reason: how many nights have asked for it in vain."""

    row_id: int
    part: str
    nights: dict[Doubt, int]


@dataclass(frozen=True)
class RowIds:
    """Ids of rows, ascending, each once: eight bytes each."""

    ids: array[int]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.ids)

    def any_in(self, ids: IdRange) -> bool:
        """Return whether a row of a range is one of them."""
        at = bisect_left(self.ids, ids.lo)
        return at < len(self.ids) and self.ids[at] <= ids.hi

    def __contains__(self, row_id: object) -> bool:
        """Return whether a row is one of them."""
        assert isinstance(row_id, int)  # noqa: S101  (the primary key of all these tables is a bigint)
        at = bisect_left(self.ids, row_id)
        return at < len(self.ids) and self.ids[at] == row_id


@dataclass(frozen=True)
class Doubts:
    """The doubtful objects of a table, some 25 bytes each.

    ``table`` has their lines without keys, by row and part. The same object may be in it several times.
    """

    table: pa.Table

    @classmethod
    def of(cls, batches: Iterable[pa.RecordBatch]) -> Doubts:
        """Collect the lines of batches."""
        table = pa.Table.from_batches(list(batches), _SCHEMA).unify_dictionaries()
        table = table.set_column(1, "part", table.column("part").cast(pa.string()))
        return cls(table.sort_by([(name, "ascending") for name in ("row_id", "part", "nights")]))

    def rows(self, reasons: Collection[Doubt] = tuple(Doubt)) -> RowIds:
        """Return the rows that have an object on the list for one of some reasons."""
        if not self.table.num_rows:
            return RowIds(array("q"))
        ids = self.table.filter(self._is_for(reasons)).column("row_id")
        found = (row_id for chunk in ids.chunks for row_id in chunk.to_pylist() if row_id is not None)
        return RowIds(array("q", (row_id for row_id, _ in groupby(found))))

    def only(self, why: Doubt) -> RowIds:
        """Return the rows that have objects on the list for this reason alone."""
        others = self.rows(set(Doubt) - {why})
        return RowIds(array("q", (row_id for row_id in self.rows([why]).ids if row_id not in others)))

    def without(self, rows: Collection[int], reasons: Collection[Doubt]) -> Doubts:
        """Return the list without the objects of some rows that are on it for these reasons."""
        import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run without doubts does not take)

        of_rows = pc.is_in(self.table.column("row_id"), value_set=pa.array(sorted(rows), pa.int64()))
        return Doubts(self.table.filter(pc.invert(pc.and_(of_rows, self._is_for(reasons)))))

    def _is_for(self, reasons: Collection[Doubt]) -> pa.BooleanArray:
        import pyarrow.compute as pc  # noqa: PLC0415  (as above)

        wanted = pa.array([why.value for why in reasons], pa.string())
        return pc.is_in(self.table.column("why").cast(pa.string()), value_set=wanted)

    def steps(self) -> Iterator[list[DoubtfulObject]]:
        """Yield the objects by row and part, some rows at a time; all objects of a row together."""
        lines = (
            line
            for batch in self.table.to_batches(max_chunksize=4096)
            for line in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )
        rows = groupby(lines, key=itemgetter(0))
        while step := [
            # Of several lines for one reason the last counts: it has the most nights.
            DoubtfulObject(row_id, part, {Doubt(why): nights for _, _, why, nights in same})
            for row_id, of_row in islice(rows, _ROWS_A_STEP)
            for part, same in groupby(of_row, key=itemgetter(1))
        ]:
            yield step


class DoubtList:
    """The doubt lists of one table and one destination; lists of other destinations say nothing about it."""

    def __init__(self, store: ManifestStore, origin: ManifestOrigin, table: str) -> None:
        self._store = store
        self._origin = origin
        self._group = GROUP.format(table=table)

    def files(self, partitions: Sequence[str] = ()) -> list[StoredManifest]:
        """Return the lists of some partitions' runs; of all runs, if no partition is named."""
        if not partitions:
            return list(self._store.files(self._group))
        return [file for partition in partitions for file in self._store.files(self._group, partition)]

    def read(
        self, damaged: Damaged, partitions: Sequence[str] = (), ids: IdRange | None = None
    ) -> tuple[Doubts, list[StoredManifest]]:
        """Read lists, except damaged ones and those of other destinations; also return which were read whole.

        Partitions as in `files`; ``ids``: only the objects of these rows. A list of a newer version is an error.
        """
        for _ in range(_READINGS):
            with contextlib.suppress(ManifestNotFoundError):
                return self._read(self.files(partitions), damaged, ids)
        return self._read(self.files(partitions), damaged, ids)

    def _read(
        self, files: Sequence[StoredManifest], damaged: Damaged, ids: IdRange | None
    ) -> tuple[Doubts, list[StoredManifest]]:
        found: list[pa.RecordBatch] = []
        whole: list[StoredManifest] = []
        with self._store.ahead(files) as file_of:
            for file in files:
                with damaged.passed_over(file):
                    # No list is empty: one without a batch is another destination's.
                    lines = list(self._batches(file_of, file, ids))
                    found += lines
                    if lines:
                        whole.append(file)
        return Doubts.of(found), whole

    def lines(self, files: Sequence[StoredManifest]) -> Iterator[DoubtLine]:
        """Yield the lines of lists that `read` has read whole. If one is not found, another has replaced it."""
        with self._store.ahead(files) as file_of:
            for file in files:
                with contextlib.suppress(ManifestNotFoundError), file_of(file) as path:
                    for lines in read_doubts(path):
                        yield from lines

    def _batches(self, file_of: FileOf, file: StoredManifest, ids: IdRange | None) -> Iterator[pa.RecordBatch]:
        import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run without doubts does not take)

        for batch in columns_of(file_of, file, FORMAT, self._origin, _COLUMNS, any_acls=True):
            found = batch.replace_schema_metadata(None)
            if ids is not None:
                rows = found.column("row_id")
                found = found.filter(
                    pc.and_(pc.greater_equal(rows, pa.scalar(ids.lo)), pc.less_equal(rows, pa.scalar(ids.hi)))
                )
            yield found

    def publish(self, file: Path, partition: str, run_id: str, supplement: int = 0) -> None:
        """Publish a run's list, which replaces the one that it has published before. Raises as `ManifestStore.write`.

        The local file stays. A ``supplement`` above 0 is one further list of the run, beside its first.
        """
        name = f"{run_id}{_SUPPLEMENT}{supplement}" if supplement else run_id
        self._store.write(file, self._group, partition, name)

    def remove(self, files: Iterable[StoredManifest]) -> None:
        """Remove lists whose lines stand in a list published since. Raises as `publish`.

        A list that was published anew since it was read stays.
        """
        replaced = set(files)
        found = self.files(sorted({file.partition for file in replaced})) if replaced else []
        with Pool(_AT_ONCE) as pool:
            pool.map(self._store.remove, [file for file in found if file in replaced])


def run_of(file: StoredManifest) -> str:
    """Return the id of the run that has published a list."""
    return file.run_id.partition(_SUPPLEMENT)[0]
