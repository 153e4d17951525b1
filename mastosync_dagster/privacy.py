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
import pyarrow.compute as pc

from mastosync_dagster.history import SYNC_CHANGES
from mastosync_dagster.manifests import About, columns_of
from mastosync_dagster.mastodon import TABLES
from mastosync_dagster.transfer.manifest import FORMAT
from mastosync_dagster.transfer.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from mastosync_dagster.transfer.manifest_store import ManifestStore

# What is missing is nowhere for anybody to read.
_SETTLED = pa.array([Outcome.COPIED.value, Outcome.PRESENT.value, Outcome.MISSING.value])


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
        again: Keys of objects to be copied again, for a closer look has found them damaged.
        turn: Keys of objects that a closer look has found readable by the wrong people.
    """

    privacy: Privacy = Privacy.MASTODON
    known_private: Mapping[str, AbstractSet[int]] = field(default_factory=dict)
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


def private_rows(store: ManifestStore, place: str, table: str, partition: str | None = None) -> set[int]:
    """Return the rows of a table whose objects are private at the destination, as the manifests have it.

    Args:
        store: Where the manifests are.
        place: The destination; manifests of others say nothing about it.
        table: The table.
        partition: Only this partition's manifests, beside those of runs over several tables; None: every partition's.

    Raises:
        ManifestStoreError: They cannot be read.
        NotAManifestError: One is none, or of a newer version.
        StorageError: The bucket refuses.
    """
    if not (can_turn(table) or TABLES[table].private):
        return set()
    own = store.newest(table) if partition is None else filter(None, [store.newest_of(table, partition)])
    rows: set[int] = set()
    for manifest in sorted([*own, *store.in_order(SYNC_CHANGES)], key=lambda found: found.written):
        known = pa.array(list(rows), pa.int64())
        for batch in columns_of(
            store, manifest, FORMAT, About(place, acls=True), ("group", "row_id", "outcome", "private")
        ):
            here = pc.and_(
                pc.equal(batch.column("group").cast(pa.string()), pa.scalar(table)),
                pc.is_in(batch.column("outcome").cast(pa.string()), value_set=_SETTLED),
            )
            ids, private = batch.column("row_id"), batch.column("private")
            rows.update(row_id for row_id in ids.filter(pc.and_(here, private)).to_pylist() if row_id is not None)
            public = ids.filter(pc.and_(here, pc.invert(private)))
            rows.difference_update(public.filter(pc.is_in(public, value_set=known)).to_pylist())
    return rows
