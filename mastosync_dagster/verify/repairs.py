"""Findings of the last verification that a sync cannot see in listings, and must put right."""

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
    """Relative keys of objects to be copied ``again``, and of those whose ACL is to be set."""

    again: frozenset[str] = frozenset()
    set_acl: frozenset[str] = frozenset()


def repairs(
    store: ManifestStore, origin: ManifestOrigin, prefix: str, file_type: FileType, partition: str, *, damaged: Damaged
) -> Repairs:
    """Return what the last verification of an ID range found and no sync of the range has put right since.

    After a sync, only the objects that it failed to put right are left, those included that it did not attempt.
    Verifications of other destinations than ``origin`` do not count. Unreadable files are passed to ``damaged``: what a
    sync has put right is then put right again.

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
    if synced is not None and store.is_later(synced, verified):
        with damaged.passed_over(synced):
            left = _failed(store, origin, synced, prefix)
    if left is not None and not left:
        # Nothing failed: all is put right.
        return Repairs()
    import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run without earlier findings does not take)

    again: list[str] = []
    set_acl: list[str] = []
    with damaged.passed_over(verified):
        for batch in columns_of(store, verified, FORMAT, origin, ("key", "finding")):
            findings = batch.column("finding").cast(pa.string())
            for keys, wanted in ((again, _DAMAGED), (set_acl, {Finding.ACL_DIFFERS})):
                found = pc.is_in(findings, value_set=pa.array([finding.value for finding in wanted]))
                keys += [key.removeprefix(prefix) for key in batch.column("key").filter(found).to_pylist() if key]
    if left is not None:
        again, set_acl = [key for key in again if key in left], [key for key in set_acl if key in left]
    return Repairs(frozenset(again), frozenset(set_acl))


def _failed(store: ManifestStore, origin: ManifestOrigin, synced: StoredManifest, prefix: str) -> set[str]:
    """Return the relative keys of the objects that failed in a sync."""
    keys: set[str] = set()
    for batch in columns_of(store, synced, MANIFEST_FORMAT, origin, ("key", "outcome")):
        failed = with_outcome(batch, Outcome.FAILED).column("key").to_pylist()
        keys.update(key.removeprefix(prefix) for key in failed if key)
    return keys
