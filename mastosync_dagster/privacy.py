"""Who may read an object: what Mastodon's rows say, what the source shows, or nothing of the kind.

Mastodon makes the media of suspended accounts and of posts removed by moderation private, and public again when that is
taken back. No column of the media tells when: the rows that are private now are held against those that were private
when they were last written or turned, as the manifests have it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import pyarrow as pa

from mastosync_dagster.history import SYNC_CHANGES
from mastosync_dagster.manifests import columns_of
from mastosync_dagster.mastodon import TABLES
from mastosync_dagster.transfer.manifest import FORMAT
from mastosync_dagster.transfer.outcomes import Outcome, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from mastosync_dagster.manifests import About, Damaged
    from mastosync_dagster.transfer.manifest_store import ManifestStore, StoredManifest

# What is missing is nowhere for anybody to read.
_SETTLED = pa.array([Outcome.COPIED.value, Outcome.PRESENT.value, Outcome.MISSING.value])
_LEFT_OUT = pa.array([Reason.PRIVATE_NOT_COPIED.value])


class Privacy(str, Enum):
    """Which objects are written private where the destination has ACLs."""

    MASTODON = "mastodon"
    """Those that are private in Mastodon: by its rows."""
    SOURCE = "source"
    """Those that are private at the source: by their ACLs there."""
    NONE = "none"
    """None: every object gets the permission."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What is known of rows and objects beyond what the rows say of themselves.

    Attributes:
        privacy: Who says what is private.
        known_private: Rows whose objects are private at the destination, by table, as far as the manifests know.
        left_out: Rows with objects that earlier runs have left out for being private, and that are wanted now.
        again: Keys of objects to be copied again, for a closer look has found them damaged.
        turn: Keys of objects that a closer look has found readable by the wrong people.
    """

    privacy: Privacy = Privacy.MASTODON
    known_private: Mapping[str, AbstractSet[int]] = field(default_factory=dict)
    left_out: Mapping[str, AbstractSet[int]] = field(default_factory=dict)
    again: AbstractSet[str] = frozenset()
    turn: AbstractSet[str] = frozenset()

    def is_private(self, row: Mapping[str, object]) -> bool:
        """Tell whether a row's objects are to be written private."""
        return self.privacy is Privacy.MASTODON and bool(row["private"])

    def has_turned(self, table: str, row_id: int, *, private: bool) -> bool:
        """Tell whether a row's objects may be at the destination with another ACL than they are to have."""
        return self.privacy is Privacy.MASTODON and private != (row_id in self.known_private.get(table, ()))


def can_turn(table: str) -> bool:
    """Tell whether rows of a table become private or public while they live."""
    return bool(TABLES[table].owners)


def private_rows(
    store: ManifestStore,
    about: About,
    table: str,
    damaged: Damaged,
    *,
    trusted: Callable[[StoredManifest], bool],
    partition: str | None = None,
) -> set[int]:
    """Return the rows of a table whose objects are private at the destination, as the manifests have it.

    Args:
        store: Where the manifests are.
        about: The destination; manifests of others say nothing about it.
        table: The table.
        damaged: Passes over those that cannot be read.
        trusted: Tells whether what a manifest calls private is still private: False where a later run without a
            manifest may have made it public. What it calls public counts in any case.
        partition: Only this partition's manifests, beside those of runs over several tables; None: every partition's.

    Raises:
        ManifestStoreError: They cannot be read.
        NewerManifestError: One is of a newer version.
        StorageError: The bucket refuses.
    """
    if not _has_private(table):
        return set()
    rows: set[int] = set()
    for manifest in _manifests(store, table, partition):
        import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run without earlier manifests does not take)

        known, counts, whole = pa.array(list(rows), pa.int64()), trusted(manifest), False
        with damaged.passed_over(manifest):
            for batch in columns_of(store, manifest, FORMAT, about, ("group", "row_id", "outcome", "private")):
                here = pc.equal(batch.column("group").cast(pa.string()), pa.scalar(table))
                settled = pc.is_in(batch.column("outcome").cast(pa.string()), value_set=_SETTLED)
                ids, private = batch.column("row_id"), batch.column("private")
                if counts:
                    found = ids.filter(pc.and_(pc.and_(here, settled), private)).to_pylist()
                    rows.update(row_id for row_id in found if row_id is not None)
                # Also of what has failed: a body may have arrived whose answer was lost.
                public = ids.filter(pc.and_(here, pc.invert(private)))
                rows.difference_update(public.filter(pc.is_in(public, value_set=known)).to_pylist())
            whole = True
        if not whole:
            # It may have said of any of them that they are public.
            rows.clear()
    return rows


def left_out_rows(store: ManifestStore, about: About, table: str, damaged: Damaged) -> set[int]:
    """Return the rows of a table with objects that were left out for being private. Arguments as `private_rows`."""
    if not _has_private(table):
        return set()
    rows: set[int] = set()
    for manifest in _manifests(store, table, None):
        import pyarrow.compute as pc  # noqa: PLC0415  (as above)

        known, left, settled = pa.array(list(rows), pa.int64()), set[int](), set[int]()
        with damaged.passed_over(manifest):
            for batch in columns_of(store, manifest, FORMAT, about, ("group", "row_id", "outcome", "reason")):
                ids, here = batch.column("row_id"), pc.equal(batch.column("group").cast(pa.string()), pa.scalar(table))
                reasons = batch.column("reason").cast(pa.string())
                out = pc.and_(here, pc.is_in(reasons, value_set=_LEFT_OUT))
                left.update(row_id for row_id in ids.filter(out).to_pylist() if row_id is not None)
                done = pc.is_in(batch.column("outcome").cast(pa.string()), value_set=_SETTLED)
                asked = pc.and_(here, pc.and_(done, pc.is_in(ids, value_set=known)))
                settled.update(row_id for row_id in ids.filter(asked).to_pylist() if row_id is not None)
        # A row may have an object that was left out beside others that were not.
        rows = (rows - settled) | left
    return rows


def _has_private(table: str) -> bool:
    return can_turn(table) or TABLES[table].private


def _manifests(store: ManifestStore, table: str, partition: str | None) -> list[StoredManifest]:
    """Return the manifests that say something about a table's rows as they are now, oldest first."""
    own = store.newest(table) if partition is None else filter(None, [store.newest_of(table, partition)])
    return sorted([*own, *store.in_order(SYNC_CHANGES)], key=lambda found: found.written)
