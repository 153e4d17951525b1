"""The stored doubt lists of a table: which of them a run reads, and which it replaces. See `records.doubts`."""

from __future__ import annotations

import contextlib
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from mastosync_dagster.records.doubts import CONTENT, FORMAT, GROUP, Doubt, DoubtLine, read_doubts
from mastosync_dagster.records.store import ManifestNotFoundError
from mastosync_dagster.runs.manifests import columns_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from mastosync_dagster.mastodon import IdRange
    from mastosync_dagster.records.store import ManifestStore, StoredManifest
    from mastosync_dagster.runs.manifests import Damaged, ManifestOrigin

_COLUMNS = ("row_id", "part", "why", "nights")
_SCHEMA = pa.schema([FORMAT.schema().field(name) for name in _COLUMNS])
_ROWS_A_STEP = 1_000
_READINGS = 3
"""Attempts to read lists, where another run replaces one with its own meanwhile."""
_SUPPLEMENT = "."
"""Between a run's id and the number of a further list of the same run."""


class DoubtfulObject(NamedTuple):
    """An object on the list; ``nights``, by reason: how many nights have asked for it in vain."""

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
        """Collect the lines of batches."""
        table = pa.Table.from_batches(list(batches), _SCHEMA).unify_dictionaries()
        table = table.set_column(1, "part", table.column("part").cast(pa.string()))
        table = table.sort_by([("row_id", "ascending"), ("part", "ascending")])
        # An object that has failed or was missing has the ACL that it was written with.
        reasons = pa.array([why.value for why in Doubt if why not in CONTENT])
        acls = table.filter(_is_among(table.column("why"), reasons))
        return cls(table, _row_ids(table), _row_ids(acls))

    def __contains__(self, row_id: object) -> bool:
        """Return whether the ACL of an object of a row is in doubt."""
        assert isinstance(row_id, int)  # noqa: S101  (the primary key of all these tables is a bigint)
        at = bisect_left(self.acl_rows, row_id)
        return at < len(self.acl_rows) and self.acl_rows[at] == row_id

    def without_content(self, rows: Collection[int]) -> Doubts:
        """Return the list without the failed and missing objects of some rows."""
        import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run without doubts does not take)

        of_rows = pc.is_in(self.table.column("row_id"), value_set=pa.array(sorted(rows), pa.int64()))
        content = _is_among(self.table.column("why"), pa.array([why.value for why in CONTENT]))
        rest = self.table.filter(pc.invert(pc.and_(of_rows, content)))
        return Doubts(rest, _row_ids(rest), self.acl_rows)

    def steps(self) -> Iterator[list[DoubtfulObject]]:
        """Yield the objects by row and part, some rows at a time; all objects of a row together."""
        step: list[DoubtfulObject] = []
        rows = 0
        for _, of_row in groupby(self._objects(), key=lambda doubtful: doubtful.row_id):
            step += of_row
            rows += 1
            if rows == _ROWS_A_STEP:
                yield step
                step, rows = [], 0
        if step:
            yield step

    def _objects(self) -> Iterator[DoubtfulObject]:
        lines = (
            line
            for batch in self.table.to_batches(max_chunksize=4096)
            for line in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )
        for (row_id, part), same in groupby(lines, key=lambda line: line[:2]):
            nights: dict[Doubt, int] = {}
            for _, _, why, count in same:
                nights[Doubt(why)] = max(count, nights.get(Doubt(why), 0))
            yield DoubtfulObject(row_id, part, nights)


def _is_among(column: pa.ChunkedArray[Any], values: pa.Array[Any]) -> pa.BooleanArray:
    import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run without doubts does not take)

    return pc.is_in(column.cast(pa.string()), value_set=values)


def _row_ids(table: pa.Table) -> array[int]:
    """Return the row ids of a sorted table, each once."""
    ids = (row_id for chunk in table.column("row_id").chunks for row_id in chunk.to_pylist() if row_id is not None)
    return array("q", (row_id for row_id, _ in groupby(ids)))


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
        for file in files:
            with damaged.passed_over(file):
                # No list is empty: one without a batch is another destination's.
                lines = list(self._batches(file, ids))
                found += lines
                if lines:
                    whole.append(file)
        return Doubts.of(found), whole

    def lines(self, files: Iterable[StoredManifest]) -> Iterator[DoubtLine]:
        """Yield the lines of lists that `read` has read whole. If one is not found, another has replaced it."""
        for file in files:
            with contextlib.suppress(ManifestNotFoundError), self._store.file(file) as path:
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
        for file in found:
            if file in replaced:
                self._store.remove(file)


def run_of(file: StoredManifest) -> str:
    """Return the id of the run that has published a list."""
    return file.run_id.partition(_SUPPLEMENT)[0]
