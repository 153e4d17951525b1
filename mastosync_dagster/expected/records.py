"""Reads rows and manifests about objects that differ at source and destination. Used only for such objects."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa

from mastosync_dagster.mastodon import TABLES, Rows, change_columns, file_dates, stored_objects
from mastosync_dagster.plan.decisions import Known, Record, Row
from mastosync_dagster.ranges.partitions import InvalidRangeError, parse_range
from mastosync_dagster.records.folded import RunsOfFile, published_at, published_text
from mastosync_dagster.records.manifest import FOLDED, RUN
from mastosync_dagster.records.parquet import GROUP_LINES, NewerManifestError, NotAManifestError
from mastosync_dagster.records.store import ManifestStoreError
from mastosync_dagster.runs.manifests import ManifestOrigin, RunTimes
from mastosync_dagster.runs.watermarks import SYNC_CHANGES
from mastosync_dagster.s3.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mastosync_dagster.mastodon import Database
    from mastosync_dagster.plan.differing import Differing
    from mastosync_dagster.records.store import FileOf, ManifestStore, StoredManifest
    from mastosync_dagster.runs.context import RunContext

_COLUMNS = ("key", "source_key", "outcome", "size", "etag")
_BATCH_LINES = 16 * GROUP_LINES


@dataclass
class Records:
    """Finds the current rows of objects, and the newest manifest lines on which source and destination agreed.

    Rows are read again after both storages were listed, since a file may have been converted meanwhile. ``origin`` and
    ``prefix`` are the destination's: manifests of other destinations do not count. ``warn`` gets a message for each
    manifest that cannot be read.
    """

    database: Database
    store: ManifestStore
    origin: ManifestOrigin
    prefix: str
    warn: Callable[[str], object]
    _warned: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, run: RunContext, database: Database) -> Records:
        """Return the records of a run's destination."""
        prefix, warn = run.destination.settings.prefix, run.log.warning
        return cls(database, store=run.store, origin=run.origin, prefix=prefix, warn=warn)

    def known(self, objects: Sequence[Differing]) -> list[Known]:
        """Return what is known of objects (some ten thousand at the most), in their order.

        Raises:
            DatabaseReadError: The rows could not be read, after all retries.
            NotMastodonError: A table or column does not exist.
            NewerManifestError: A manifest is of a newer version.
        """
        known: dict[int, Known] = {}
        numbered = sorted(enumerate(objects), key=lambda each: each[1].item.group)
        for table, group in groupby(numbered, key=lambda each: each[1].item.group):
            of_table = list(group)
            rows = self._rows(table, [each for _, each in of_table])
            records = self._records(table, [each for _, each in of_table])
            for number, each in of_table:
                row = rows.get((each.item.row_id, each.item.key), Row(not_found=True))
                known[number] = Known(row, records.get(self.prefix + each.target))
        return [known[number] for number in range(len(objects))]

    def recorded(self, table: str, partition: str, keys: Iterable[str]) -> set[str]:
        """Return those of some full keys of an ID range under which a run has seen the same bytes at both storages.

        Raises NewerManifestError.
        """
        left, found = set(keys), set[str]()
        try:
            # Most lines are in the range's own manifests.
            manifests = [*self.store.files(table, partition), *self.store.files(SYNC_CHANGES)]
            with self.store.ahead(manifests) as file_of:
                for manifest in manifests:
                    if not left:
                        break
                    found |= self._agreed(file_of, manifest, left).keys()
                    left -= found
        except (ManifestStoreError, StorageError) as error:
            self._warn_once(str(error), f"manifests are done without: {error}")
        return found

    def _rows(self, table: str, objects: Sequence[Differing]) -> dict[tuple[int, str], Row]:
        """Return what the rows say, by id and relative key."""
        found: dict[tuple[int, str], Row] = {}
        ids_and_keys = {(each.item.row_id, each.item.key) for each in objects}
        more = change_columns(TABLES[table])
        with Rows(self.database, table, more_columns=more) as rows:
            for row in rows.of(sorted({row_id for row_id, _ in ids_and_keys})):
                for stored in stored_objects(table, row):
                    if (row["id"], stored.key) in ids_and_keys:
                        dates = file_dates(table, row, stored)
                        found[row["id"], stored.key] = Row(stored.size, *dates, unfinished=stored.unfinished)
        return found

    def _records(self, table: str, objects: Sequence[Differing]) -> dict[str, Record]:
        """Return the newest records of objects, by full key. Reads no older manifests than needed."""
        found: dict[str, tuple[str, Record]] = {}
        left = {self.prefix + each.target for each in objects}
        ids = sorted({each.item.row_id for each in objects})
        try:
            manifests = self._manifests(table, ids)
            with self.store.ahead(manifests) as file_of:
                for manifest in manifests:
                    # What a file holds is no newer than the file.
                    published = published_text(manifest.written)
                    left -= {key for key, (run, _) in found.items() if run[: len(published)] > published}
                    if not left:
                        break
                    for key, run_and_record in self._agreed(file_of, manifest, left).items():
                        found[key] = max(found.get(key, run_and_record), run_and_record, key=_run)
        except (ManifestStoreError, StorageError) as error:
            self._warn_once(str(error), f"manifests are done without: {error}")
        return {key: record for key, (_, record) in found.items()}

    def _manifests(self, table: str, ids: Sequence[int]) -> list[StoredManifest]:
        """Return the manifests that may have lines of rows of a table, newest first."""
        own = (manifest for manifest in self.store.files(table) if _holds_any(manifest, ids))
        found = [*own, *self.store.files(SYNC_CHANGES)]
        return sorted(found, key=lambda manifest: manifest.written, reverse=True)

    def _agreed(self, file_of: FileOf, manifest: StoredManifest, keys: Iterable[str]) -> dict[str, tuple[str, Record]]:
        """Return a manifest's records of keys whose objects were copied or found equal, each with its run."""
        import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run without such objects saves)

        from mastosync_dagster.records.folding import agrees  # noqa: PLC0415  (it needs the same)

        found: dict[str, tuple[str, Record]] = {}
        key_set = pa.array(list(keys), pa.string())
        try:
            with file_of(manifest) as path, FOLDED.open(path) as file:
                runs = RunsOfFile.of(manifest, file)
                readings = {run: self._reading(run, metadata) for run, metadata in runs.metadata.items()}
                if not any(readings.values()):
                    return {}
                columns = [*_COLUMNS, RUN] if runs.is_fold else _COLUMNS
                for batch in FOLDED.batches(file, path, lines=_BATCH_LINES, columns=columns):
                    chosen = pc.and_(agrees(batch), pc.is_in(batch.column("key"), value_set=key_set))
                    for line in runs.with_runs(batch.filter(chosen)).to_pylist():
                        run, reading = line[RUN], readings[line[RUN]]
                        if reading is not None and line["size"]:
                            record = Record(
                                line["size"], line["etag"], reading.read_at, reading.read_until, reading.begun
                            )
                            found[line["key"]] = max(found.get(line["key"], (run, record)), (run, record), key=_run)
        except NewerManifestError:
            raise
        except NotAManifestError as error:
            self._warn_once(manifest.name, f"the manifest {manifest.name} is passed over: {error}")
        return found

    def _reading(self, run: str, metadata: Mapping[bytes, bytes]) -> RunTimes | None:
        """Return when a run has read; None: it had another destination."""
        if not self.origin.matches(metadata, any_acls=True):
            return None
        return RunTimes.of(metadata, published_at(run))

    def _warn_once(self, about: str, text: str) -> None:
        """Warn, but once about each subject."""
        if about not in self._warned:
            self._warned.add(about)
            self.warn(text)


def _run(found: tuple[str, Record]) -> str:
    return found[0]


def _holds_any(manifest: StoredManifest, ids: Sequence[int]) -> bool:
    """Return whether a manifest's ID range holds any of some sorted ids."""
    try:
        found = parse_range(manifest.partition)
    except InvalidRangeError:
        return False
    index = bisect_left(ids, found.lo)
    return index < len(ids) and ids[index] <= found.hi
