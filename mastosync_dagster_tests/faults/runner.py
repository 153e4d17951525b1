"""Carries a scenario out, and checks what is left of every object."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastosync_dagster.demo.comparison import compare
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster_tests.support.proxy import Kind, Proxy, Reset, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg

    from mastosync_dagster.records.manifest import ManifestLine
    from mastosync_dagster_tests.faults.scenarios import Outage, Scenario
    from mastosync_dagster_tests.faults.world import FaultyInstallation

BODIES = (Kind.GET, Kind.PUT, Kind.CREATE_UPLOAD, Kind.UPLOAD_PART, Kind.COMPLETE_UPLOAD, Kind.COPY)
_DONE = frozenset({Outcome.COPIED, Outcome.PRESENT})


@dataclass(frozen=True)
class Verdict:
    """What a scenario came to. What stands behind the seconds must be nothing.

    Attributes:
        name: The scenario's.
        objects: Objects that had to come to the destination.
        injected: Faults.
        unused: Rules of the scenario that hit no request.
        runs: Runs that it took until one succeeded and had every object.
        seconds: How long all of it took.
        lost: Objects that a run called copied or present and that were not at the destination then, byte for byte.
        not_copied: Objects that the last run does not call copied or present.
        wrong: Objects at the destination with other bytes, headers, metadata or ACL, and ones that should not be there.
        unlisted: Objects of which the last run's manifest does not say exactly one thing.
        open_uploads: Uploads in parts that were left.
        bodies: Requests with a body that a further run sent.
    """

    name: str
    objects: int
    injected: int
    unused: tuple[Rule, ...]
    runs: int
    seconds: float
    lost: tuple[str, ...]
    not_copied: tuple[str, ...]
    wrong: tuple[str, ...]
    unlisted: tuple[str, ...]
    open_uploads: tuple[str, ...]
    bodies: int

    def __str__(self) -> str:
        return (
            f"{self.name:<64} {self.objects:>6,} objects {self.injected:>5,} faults {self.runs} runs"
            f" {self.seconds:>6.1f} s  lost {len(self.lost)}  wrong {len(self.wrong)}  unlisted {len(self.unlisted)}"
            f"  not copied {len(self.not_copied)}  open uploads {len(self.open_uploads)}  bodies again {self.bodies}"
        )

    @property
    def problems(self) -> dict[str, object]:
        """What must not be, with examples."""
        found = {
            "lost": self.lost[:5],
            "not copied": self.not_copied[:5],
            "wrong": self.wrong[:5],
            "unlisted": self.unlisted[:5],
            "open uploads": self.open_uploads[:5],
            "bodies": self.bodies,
        }
        return {what: examples for what, examples in found.items() if examples}


def carry_out(scenario: Scenario, world: FaultyInstallation) -> Verdict:
    """Run all file types while the scenario's faults happen, until a run succeeds; then look, then run again."""
    started = time.monotonic()
    world.source_proxy.set_rules(*scenario.source)
    world.destination_proxy.set_rules(*scenario.destination)
    runs, lost = 0, set[str]()
    lines: list[ManifestLine] = []
    must_be = {each.key: (each.size, each.md5) for each in world.original.expected}
    with (
        _outage(scenario.source_outage, world.source_proxy),
        _outage(scenario.destination_outage, world.destination_proxy),
    ):
        done = False
        while runs < scenario.at_least or (not done and runs < scenario.runs):
            if runs == scenario.cured_after:
                world.source_proxy.set_rules()
                world.destination_proxy.set_rules()
            result = world.run()
            runs += 1
            lines = _manifest(world, result)
            done = result.success and not _not_copied(world, lines)
            there = _sizes_and_md5s(world)
            lost |= {
                line.key
                for line in lines
                if line.outcome in _DONE and (line.key not in there or there[line.key] != must_be.get(line.key))
            }
    injected = world.source_proxy.injected + world.destination_proxy.injected
    unused = (
        *(rule for rule in scenario.source if not world.source_proxy.used[rule]),
        *(rule for rule in scenario.destination if not world.destination_proxy.used[rule]),
    )
    wrong, not_copied = _wrong(world), _not_copied(world, lines)
    return Verdict(
        name=scenario.name,
        objects=len(world.original.expected),
        injected=injected,
        unused=unused,
        runs=runs,
        lost=tuple(sorted(lost)),
        not_copied=not_copied,
        wrong=wrong,
        unlisted=_unlisted(world, lines),
        open_uploads=tuple(world.open_uploads()),
        bodies=_bodies_of_a_further_run(world),
        seconds=time.monotonic() - started,
    )


def _manifest(world: FaultyInstallation, result: dg.ExecuteInProcessResult) -> list[ManifestLine]:
    """Return the lines of a run's manifest; none where it ended before there was one."""
    store = manifest_store(world.dagster, S3Bucket.destination())
    found = [kept for kept in store.in_order("sync_changes") if kept.run_id == result.run_id]
    return [line for kept in found for batch in store.read(kept) for line in batch]


def _sizes_and_md5s(world: FaultyInstallation) -> dict[str, tuple[int, str]]:
    """Return what the destination itself says that it has: rclone's server reads every object for its ETag."""
    pages = world.destination.client.get_paginator("list_objects_v2").paginate(Bucket=world.destination.name)
    entries = (entry for page in pages for entry in page.get("Contents", ()))
    return {entry["Key"]: (entry["Size"], entry["ETag"].strip('"')) for entry in entries}


def _not_copied(world: FaultyInstallation, lines: list[ManifestLine]) -> tuple[str, ...]:
    done = {line.key for line in lines if line.outcome in _DONE}
    recorded = {line.key: f"{line.key}: {line.outcome.value}, {line.detail}" for line in lines}
    return tuple(recorded.get(each.key, each.key) for each in world.original.expected if each.key not in done)


def _unlisted(world: FaultyInstallation, lines: list[ManifestLine]) -> tuple[str, ...]:
    recorded = Counter(line.key for line in lines)
    wanted = world.original.lines
    return tuple(sorted(key for key in wanted | recorded.keys() if recorded[key] != 1 or key not in wanted))


def _wrong(world: FaultyInstallation) -> tuple[str, ...]:
    """Read every object whole, and look with which ACL it was written last: none, as the destination has no ACLs."""
    compared = compare(world.destination.server, world.destination.name, world.original.expected)
    acls = {
        request.key: request.headers.get("x-amz-acl")
        for request in world.destination_proxy.requests
        if request.kind in {Kind.PUT, Kind.CREATE_UPLOAD}
    }
    exposed = (
        f"{each.key}: written as {acls.get(each.key)}"
        for each in world.original.expected
        if acls.get(each.key) is not None
    )
    # What is not there is reported as lost or not copied.
    different = (line for line in compared.differences if not line.endswith(": not at the destination"))
    return (*different, *exposed)


def _bodies_of_a_further_run(world: FaultyInstallation) -> int:
    for proxy in (world.source_proxy, world.destination_proxy):
        proxy.set_rules()
        proxy.forget()
    assert world.run().success
    return sum(proxy.count(*BODIES) for proxy in (world.source_proxy, world.destination_proxy))


@contextlib.contextmanager
def _outage(outage: Outage | None, proxy: Proxy) -> Iterator[None]:
    """Take a storage away for a while, as soon as it is used."""
    if outage is None:
        yield
        return
    over = threading.Event()

    def take_away() -> None:
        while not proxy.count(outage.kind):
            if over.wait(0.005):
                return
        proxy.set_rules(Rule(Reset()))
        proxy.close_connections()
        over.wait(outage.seconds)
        proxy.set_rules()

    thread = threading.Thread(target=take_away, name="outage")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
