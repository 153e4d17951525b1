"""What the last verification of an ID range found that a sync cannot see in listings, and is to put right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from mastosync_dagster.records.findings import FORMAT, Finding
from mastosync_dagster.records.manifest import FORMAT as MANIFEST_FORMAT
from mastosync_dagster.records.manifest import with_outcome
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.runs.manifests import Damaged, ManifestOrigin, columns_of

if TYPE_CHECKING:
    from mastosync_dagster.ranges.partitions import FileType
    from mastosync_dagster.records.store import ManifestStore, StoredManifest

_DAMAGED = frozenset({Finding.CONTENT_DIFFERS, Finding.SIZE_DIFFERS, Finding.HEADERS_DIFFER})


def verification_of(file_type: FileType) -> str:
    """Return the group in which the findings of a file type's verifications are kept."""
    return f"verify_{file_type.value}"


@dataclass(frozen=True, slots=True)
class Repairs:
    """Objects to put right, by their keys relative to the key prefix.

    Attributes:
        again: To be copied again.
        turn: To get their ACL set.
    """

    again: frozenset[str] = frozenset()
    turn: frozenset[str] = frozenset()


def repairs(
    store: ManifestStore, origin: ManifestOrigin, prefix: str, file_type: FileType, partition: str, *, damaged: Damaged
) -> Repairs:
    """Return what the last verification of an ID range found and no sync of the range has put right since.

    Of what a sync has planned only the objects that failed are left, those included whose turn did not come.

    Args:
        store: Where manifests are.
        origin: The destination; verifications of others say nothing about it.
        prefix: The destination's key prefix.
        file_type: The file type.
        partition: The range's key.
        damaged: Passes over those that cannot be read; what a sync has put right is then put right again.

    Raises:
        ManifestStoreError: They cannot be read.
        NewerManifestError: One is of a newer version.
        StorageError: The bucket refuses.
    """
    verified = store.newest_of(verification_of(file_type), partition)
    synced = store.newest_of(file_type.value, partition)
    if verified is None:
        return Repairs()
    left: set[str] | None = None
    if synced is not None and synced.written > verified.written:
        with damaged.passed_over(synced):
            left = _failed(store, origin, synced, prefix)
    if left is not None and not left:
        return Repairs()
    import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run without earlier findings does not take)

    again: list[str] = []
    turn: list[str] = []
    with damaged.passed_over(verified):
        for batch in columns_of(store, verified, FORMAT, origin, ("key", "finding")):
            findings = batch.column("finding").cast(pa.string())
            for keys, wanted in ((again, _DAMAGED), (turn, {Finding.ACL_DIFFERS})):
                found = pc.is_in(findings, value_set=pa.array([finding.value for finding in wanted]))
                keys += [key.removeprefix(prefix) for key in batch.column("key").filter(found).to_pylist() if key]
    if left is not None:
        again, turn = [key for key in again if key in left], [key for key in turn if key in left]
    return Repairs(frozenset(again), frozenset(turn))


def _failed(store: ManifestStore, origin: ManifestOrigin, synced: StoredManifest, prefix: str) -> set[str]:
    """Return the keys, relative to the key prefix, of the objects that a sync has not got done."""
    keys: set[str] = set()
    for batch in columns_of(store, synced, MANIFEST_FORMAT, origin, ("key", "outcome")):
        failed = with_outcome(batch, Outcome.FAILED).column("key").to_pylist()
        keys.update(key.removeprefix(prefix) for key in failed if key)
    return keys
