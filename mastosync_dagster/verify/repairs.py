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
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from mastosync_dagster.ranges.partitions import FileType
    from mastosync_dagster.records.parquet import Format
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

    After a sync, the objects are left that it failed to put right or did not attempt, and those that it left out.
    Verifications of other destinations than ``origin`` do not count. Unreadable files are passed to ``damaged``: what a
    sync has put right is then put right again.

    Raises:
        ManifestStoreError: They cannot be read.
        NewerManifestError: One is of a newer version.
        StorageError: The bucket refuses.
    """
    verified = _newest(store, origin, store.in_order(verification_of(file_type), partition), FORMAT, damaged)
    if verified is None:
        return Repairs()
    import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run without earlier findings does not take)

    again: set[str] = set()
    set_acl: set[str] = set()
    with damaged.passed_over(verified):
        for batch in columns_of(store.file, verified, FORMAT, origin, ("key", "finding")):
            findings = batch.column("finding").cast(pa.string())
            for keys, wanted in ((again, _DAMAGED), (set_acl, {Finding.ACL_DIFFERS})):
                found = pc.is_in(findings, value_set=pa.array([finding.value for finding in wanted]))
                keys.update(key.removeprefix(prefix) for key in batch.column("key").filter(found).to_pylist() if key)
    if not again and not set_acl:
        return Repairs()
    synced = _newest(store, origin, store.in_order(file_type.value, partition), MANIFEST_FORMAT, damaged)
    if synced is not None and store.is_later(synced, verified):
        with damaged.passed_over(synced):
            done = _done(store, origin, synced, prefix, again | set_acl)
            again, set_acl = again - done, set_acl - done
    return Repairs(frozenset(again), frozenset(set_acl))


def _newest(
    store: ManifestStore, origin: ManifestOrigin, files: Sequence[StoredManifest], kind: Format, damaged: Damaged
) -> StoredManifest | None:
    """Return the newest of some files, the oldest of which comes first, that `ManifestOrigin.matches`; None: none."""
    for file in reversed(files):
        with damaged.passed_over(file), store.file(file) as path, kind.open(path) as opened:
            if origin.matches(opened.schema_arrow.metadata):
                return file
    return None


def _done(
    store: ManifestStore, origin: ManifestOrigin, synced: StoredManifest, prefix: str, wanted: AbstractSet[str]
) -> set[str]:
    """Return which of some relative keys a sync has dealt with: of what it leaves out it says nothing."""
    done: set[str] = set()
    for batch in columns_of(store.file, synced, MANIFEST_FORMAT, origin, ("key", "outcome")):
        settled = with_outcome(batch, Outcome.FAILED, keep=False).column("key").to_pylist()
        done.update(key for key in (full.removeprefix(prefix) for full in settled if full) if key in wanted)
    return done
