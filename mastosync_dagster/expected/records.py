"""What rows and manifests know of objects whose two sides differ. Asked for only where there are such objects."""

from __future__ import annotations

from bisect import bisect_left
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mastosync_dagster.mastodon import TABLES, Rows, change_columns, file_dates, stored_objects
from mastosync_dagster.plan.decisions import Known, Record, Row
from mastosync_dagster.ranges.partitions import InvalidRangeError, parse_range
from mastosync_dagster.records.manifest import FORMAT
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.parquet import GROUP_LINES, NewerManifestError, NotAManifestError
from mastosync_dagster.records.store import ManifestStoreError
from mastosync_dagster.runs.history import SYNC_CHANGES
from mastosync_dagster.runs.manifests import ManifestOrigin, RunTimes
from mastosync_dagster.s3.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mastosync_dagster.mastodon import Connect, Schema
    from mastosync_dagster.plan.differing import Differing
    from mastosync_dagster.records.store import ManifestStore, StoredManifest

_COLUMNS = ("key", "source_key", "outcome", "size", "etag")
_BATCH_LINES = 16 * GROUP_LINES
_HAVE_BYTES = pa.array([Outcome.COPIED.value, Outcome.PRESENT.value])


class Records:
    """Knows of objects what their rows say now, and what the newest line about them says that both sides agreed on.

    Rows are read again, after both sides were looked at: a file that was converted in between is the row's by now.

    Args:
        connect: Opens a connection.
        schema: What the database has.
        store: Where the manifests are.
        origin: The destination; manifests of others say nothing about it.
        prefix: The destination's key prefix.
        warn: Takes a warning: manifests that cannot be read are done without.
    """

    def __init__(
        self,
        connect: Connect,
        schema: Schema,
        *,
        store: ManifestStore,
        origin: ManifestOrigin,
        prefix: str,
        warn: Callable[[str], object],
    ) -> None:
        self._connect = connect
        self._schema = schema
        self._store = store
        self._origin = origin
        self._prefix = prefix
        self._warn = warn
        self._told: set[str] = set()

    def known(self, objects: Sequence[Differing]) -> list[Known]:
        """Return what is known of objects, in their order.

        Args:
            objects: Some ten thousand at the most.

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
                row = rows.get((each.item.row_id, each.item.key), Row(gone=True))
                known[number] = Known(row, records.get(self._prefix + each.target))
        return [known[number] for number in range(len(objects))]

    def _rows(self, table: str, objects: Sequence[Differing]) -> dict[tuple[int, str], Row]:
        """Return what the rows say, by id and key."""
        found: dict[tuple[int, str], Row] = {}
        wanted = {(each.item.row_id, each.item.key) for each in objects}
        more = change_columns(TABLES[table])
        with Rows(self._connect, self._schema, table, more_columns=more) as rows:
            for row in rows.of(sorted({row_id for row_id, _ in wanted})):
                for stored in stored_objects(table, row):
                    if (row["id"], stored.key) in wanted:
                        dates = file_dates(table, row, stored)
                        found[row["id"], stored.key] = Row(stored.size, *dates, unfinished=stored.unfinished)
        return found

    def _records(self, table: str, objects: Sequence[Differing]) -> dict[str, Record]:
        """Return the newest records of objects, by full key. Reads the newest manifests first, and no further."""
        found: dict[str, Record] = {}
        left = {self._prefix + each.target for each in objects}
        try:
            for manifest in self._manifests(table, sorted({each.item.row_id for each in objects})):
                newest = self._settled(manifest, left)
                found.update(newest)
                left -= newest.keys()
                if not left:
                    break
        except (ManifestStoreError, StorageError) as error:
            self._say(str(error), f"manifests are done without: {error}")
        return found

    def _manifests(self, table: str, ids: Sequence[int]) -> list[StoredManifest]:
        """Return the manifests that may tell of rows of a table, newest first."""
        own = [manifest for manifest in self._store.in_order(table) if _holds_any(manifest, ids)]
        return sorted([*own, *self._store.in_order(SYNC_CHANGES)], key=lambda found: found.written, reverse=True)

    def _settled(self, manifest: StoredManifest, keys: Iterable[str]) -> dict[str, Record]:
        """Return what a manifest says of some keys on which both sides agreed: copied, or found equal."""
        import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run without such objects does not take)

        found: dict[str, Record] = {}
        wanted = pa.array(list(keys), pa.string())
        try:
            with self._store.file(manifest) as path, FORMAT.open(path) as file:
                metadata: Mapping[bytes, bytes] = file.schema_arrow.metadata or {}
                if not self._origin.is_place_of(metadata):
                    return {}
                reading = RunTimes.of(metadata, manifest.written)
                for batch in FORMAT.batches(file, path, lines=_BATCH_LINES, columns=_COLUMNS):
                    outcomes = batch.column("outcome").cast(pa.string())
                    # Without a key at the source it is what the destination alone had, or kept against the source's.
                    agreed = pc.and_(pc.is_in(outcomes, value_set=_HAVE_BYTES), pc.is_valid(batch.column("source_key")))
                    told = pc.and_(agreed, pc.is_in(batch.column("key"), value_set=wanted))
                    found.update(_record(line, reading) for line in batch.filter(told).to_pylist() if line["size"])
        except NewerManifestError:
            raise
        except NotAManifestError as error:
            self._say(manifest.name, f"the manifest {manifest.name} is passed over: {error}")
        return found

    def _say(self, about: str, text: str) -> None:
        """Warn, once about each thing."""
        if about not in self._told:
            self._told.add(about)
            self._warn(text)


def _record(line: Mapping[str, Any], reading: RunTimes) -> tuple[str, Record]:
    return line["key"], Record(line["size"], line["etag"], reading.read_at, reading.read_until, reading.begun)


def _holds_any(manifest: StoredManifest, ids: Sequence[int]) -> bool:
    """Tell whether a manifest's ID range holds any of some ids, which are in order."""
    try:
        found = parse_range(manifest.partition)
    except InvalidRangeError:
        return False
    place = bisect_left(ids, found.lo)
    return place < len(ids) and ids[place] <= found.hi
