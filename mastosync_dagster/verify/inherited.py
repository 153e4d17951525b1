"""Objects that were at the destination before the first run: whether they are as a copy would have made them."""

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
from mastosync_dagster.records.plan import DECIDED, TO_TURN, read_plan
from mastosync_dagster.s3.storage import ListedObject
from mastosync_dagster.verify.object_checks import AuditSettings, CloserLook, Depth, Look, Sight

if TYPE_CHECKING:
    import threading
    from collections.abc import Collection
    from pathlib import Path

    from mastosync_dagster.records.manifest import ManifestLine
    from mastosync_dagster.records.plan import PlannedCopy
    from mastosync_dagster.s3.storage import Storage

_SAMPLE = 30
_THREADS = 16


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a sample of them showed.

    Attributes:
        looked: Objects looked at: two HEAD requests each, and one more for the ACL where there are ACLs.
        differ: How many of them have other headers or another ACL.
        first: Of the first of those, its key and what differs; None: there is none.
    """

    looked: int = 0
    differ: int = 0
    first: str | None = None


def look_at_inherited(
    folder: Path,
    source: Storage,
    destination: Storage,
    *,
    groups: Collection[str],
    as_source: bool,
    stop: threading.Event,
) -> Inherited:
    """Look at a sample of the objects that a plan calls present at both sides.

    Args:
        folder: Holds the plan.
        source: Where they were read from, by whoever did.
        destination: Where they are.
        groups: Only objects of these collections.
        as_source: An object must be readable by everybody iff it is at the source; else the plan says.
        stop: Set from another thread, it ends the work.

    Raises:
        NotAManifestError: The plan is damaged.
        Stopped: ``stop`` was set.
    """
    closer = CloserLook(source, destination, AuditSettings(as_source=as_source))
    acl = closer.acls is not Depth.NONE
    prefixes = (source.settings.prefix, destination.settings.prefix)
    looks = [Look(_sight(line, *prefixes), headers=True, acl=acl, body=False) for line in _sample(folder, groups)]
    # The run gives these the right ACL in any case.
    looks += [Look(_turned(line), headers=True, acl=False, body=False) for line in _sample_to_turn(folder, groups)]
    looks = random.sample(looks, min(_SAMPLE, len(looks)))
    with Pool(_THREADS, stop=stop) as pool:
        seen = pool.map(lambda look: closer.look(look, pool.halt), looks)
    # What could not be looked at says nothing.
    found = [
        f"{destination.full_key(look.sight.target)}: {'; '.join(text for _, text in each.differences)}"
        for look, each in zip(looks, seen, strict=True)
        if any(finding is not Finding.UNKNOWN for finding, _ in each.differences)
    ]
    return Inherited(len(looks), len(found), found[0] if found else None)


def _sample(folder: Path, groups: Collection[str]) -> list[ManifestLine]:
    import pyarrow.compute as pc  # noqa: PLC0415  (9 MB that a run with earlier manifests does not take)

    some: list[ManifestLine] = []
    with FORMAT.open(folder / DECIDED) as file:
        for batch in FORMAT.batches(file, folder / DECIDED):
            outcomes = batch.column("outcome").cast(pa.string())
            present = pc.and_(
                pc.equal(outcomes, pa.scalar(Outcome.PRESENT.value)), pc.is_valid(batch.column("source_key"))
            )
            wanted = pc.is_in(batch.column("group").cast(pa.string()), value_set=pa.array(sorted(groups), pa.string()))
            found = batch.filter(pc.and_(present, wanted))
            rows = random.sample(range(found.num_rows), min(_SAMPLE, found.num_rows))
            some += [line for row in rows for line in lines_of(found.slice(row, 1))]
    return random.sample(some, min(_SAMPLE, len(some)))


def _sample_to_turn(folder: Path, groups: Collection[str]) -> list[PlannedCopy]:
    some: list[PlannedCopy] = []
    for lines in read_plan(folder, TO_TURN):
        found = [line for line in lines if line.group in groups and line.source_key]
        some += random.sample(found, min(_SAMPLE, len(found)))
    return random.sample(some, min(_SAMPLE, len(some)))


def _turned(line: PlannedCopy) -> Sight:
    size = line.size or 0
    return Sight(
        ExpectedObject(line.key, private=line.private),
        line.key,
        ListedObject(line.source_key, size, line.etag),
        ListedObject(line.key, size, line.etag),
        Finding.EQUAL,
    )


def _sight(line: ManifestLine, source_prefix: str, destination_prefix: str) -> Sight:
    key, source_key = line.key.removeprefix(destination_prefix), (line.source_key or "").removeprefix(source_prefix)
    size = line.size or 0
    return Sight(
        ExpectedObject(key, private=line.private),
        key,
        ListedObject(source_key, size, line.etag),
        ListedObject(key, size, line.etag),
        Finding.EQUAL,
    )
