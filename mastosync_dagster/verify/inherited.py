"""Checks whether objects that were at the destination before the first run are as a copy would have made them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from mastosync_dagster.plan.items import ExpectedObject
from mastosync_dagster.pool import Pool
from mastosync_dagster.records.findings import Finding
from mastosync_dagster.records.manifest import FORMAT, lines_of
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.plan import DECIDED, TO_SET_ACLS, read_plan
from mastosync_dagster.s3.storage import ListedObject
from mastosync_dagster.verify.object_checks import Comparison, ObjectCheck, ObjectChecker
from mastosync_dagster.verify.settings import AuditSettings, Depth

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from mastosync_dagster.records.manifest import ManifestLine
    from mastosync_dagster.records.plan import PlannedCopy
    from mastosync_dagster.s3.storage import Storage

_SAMPLE = 30
_THREADS = 16


@dataclass(frozen=True, slots=True)
class Inherited:
    """Result of the sample.

    Attributes:
        checked: Objects checked: two HEAD requests each, and one more for the ACL where there are ACLs.
        differ: How many of them have other headers or another ACL.
        first: Key and differences of the first of those; None: there is none.
    """

    checked: int = 0
    differ: int = 0
    first: str | None = None


def check_inherited(
    folder: Path, source: Storage, destination: Storage, *, groups: Collection[str], acl_from_source: bool
) -> Inherited:
    """Check a sample of the objects of some tables that the plan in ``folder`` calls present at both storages.

    ``acl_from_source`` is that of `AuditSettings`.

    Raises:
        NotAManifestError: The plan is damaged.
    """
    checker = ObjectChecker(source, destination, AuditSettings(acl_from_source=acl_from_source))
    acl = checker.acls is not Depth.none
    checks = []
    for line in _sample(folder, groups):
        source_key = (line.source_key or "").removeprefix(source.settings.prefix)
        key = line.key.removeprefix(destination.settings.prefix)
        checks.append(ObjectCheck(_comparison(line, source_key, key), headers=True, acl=acl, body=False))
    for planned in _sample_to_set_acls(folder, groups):
        # The run sets these ACLs in any case.
        comparison = _comparison(planned, planned.source_key, planned.key)
        checks.append(ObjectCheck(comparison, headers=True, acl=False, body=False))
    checks = random.sample(checks, min(_SAMPLE, len(checks)))
    with Pool(_THREADS) as pool:
        results = pool.map(lambda check: checker.check(check, pool.halt), checks)
    # What could not be checked does not count as different.
    found = [
        f"{destination.full_key(check.comparison.target)}: {'; '.join(text for _, text in result.differences)}"
        for check, result in zip(checks, results, strict=True)
        if any(finding is not Finding.UNKNOWN for finding, _ in result.differences)
    ]
    return Inherited(len(checks), len(found), found[0] if found else None)


def _sample(folder: Path, groups: Collection[str]) -> list[ManifestLine]:
    import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run with earlier manifests does not take)

    some: list[ManifestLine] = []
    for batch in FORMAT.read(folder / DECIDED):
        outcomes = batch.column("outcome").cast(pa.string())
        present = pc.and_(pc.equal(outcomes, pa.scalar(Outcome.PRESENT.value)), pc.is_valid(batch.column("source_key")))
        wanted = pc.is_in(batch.column("group").cast(pa.string()), value_set=pa.array(sorted(groups), pa.string()))
        found = batch.filter(pc.and_(present, wanted))
        rows = random.sample(range(found.num_rows), min(_SAMPLE, found.num_rows))
        some += [line for row in rows for line in lines_of(found.slice(row, 1))]
    return random.sample(some, min(_SAMPLE, len(some)))


def _sample_to_set_acls(folder: Path, groups: Collection[str]) -> list[PlannedCopy]:
    some: list[PlannedCopy] = []
    for lines in read_plan(folder, TO_SET_ACLS):
        found = [line for line in lines if line.group in groups and line.source_key]
        some += random.sample(found, min(_SAMPLE, len(found)))
    return random.sample(some, min(_SAMPLE, len(some)))


def _comparison(line: ManifestLine | PlannedCopy, source_key: str, key: str) -> Comparison:
    """Return an object that is equal by the listings, given its relative keys."""
    found = ListedObject(source_key, line.size or 0, line.etag)
    return Comparison(ExpectedObject(key, private=line.private), key, found, found._replace(key=key), Finding.EQUAL)
