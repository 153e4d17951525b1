"""The metrics for Prometheus: age of the last good night, what is done and left, running runs, retries by storage.

A scrape gets the last reading: a reading queries Mastodon's database, and a scrape comes every few seconds.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, TypeVar

import dagster as dg
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mastosync_dagster.errors import AdminError
from mastosync_dagster.expected.policy import instance_policy
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.doubts import Doubt
from mastosync_dagster.records.summaries import with_counters
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.run_lock import IN_PROGRESS
from mastosync_dagster.runs.watermarks import DESTINATION, REPLICA, Wanted, last_good
from mastosync_dagster.status.counts import statuses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import Metric

    from mastosync_dagster.status.counts import Status

_Labels = TypeVar("_Labels", bound=tuple[str, ...])
_STORAGES = ("source", "destination")
_QUEUED = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED]
_BY_FILE_TYPE: Mapping[str, tuple[str, Callable[[Status], float]]] = {
    "objects_done": ("Objects at the destination.", lambda each: each.objects_done),
    "objects_left": (
        "Objects that no run has taken, that failed, or that wait for their ACL or a decision.",
        lambda each: each.left.objects,
    ),
    "objects_missing": ("Objects that the source has lost.", lambda each: each.objects_missing),
    "objects_failed": (
        "Objects that failed, and that nights retry; private ones that wait for a decision among them.",
        lambda each: each.in_doubt.get(Doubt.FAILED, 0) + each.in_doubt.get(Doubt.SKIPPED, 0),
    ),
    "bytes_done": ("Bytes of the originals done, by the database.", lambda each: each.bytes_done),
    "bytes_left": ("Bytes of the originals left, by the database.", lambda each: each.left.bytes),
}
_STATES: Mapping[str, Callable[[Status], int]] = {
    "materialized": lambda each: each.materialized,
    "failed": lambda each: each.failed,
    "running": lambda each: each.running,
    "not_run": lambda each: each.not_run,
}


@dataclass(frozen=True)
class Reading:
    """What was read at a time.

    Attributes:
        nights: Until when each file type's last good night has read the rows, in seconds since 1970.
        repeated: Requests that were repeated, by asset, storage and whether that had throttled them.
    """

    at: float
    statuses: tuple[Status, ...]
    nights: Mapping[str, float]
    running: int
    queued: int
    repeated: Mapping[tuple[str, str, bool], float]


def read(instance: dg.DagsterInstance) -> Reading:
    """Read Dagster's history and Mastodon's database. Raises an `AdminError`."""
    destination = S3Bucket.destination()
    policy, now = instance_policy(), datetime.now(timezone.utc)
    found = statuses(instance, MastodonDatabase(), destination, list(FileType), policy)
    identity = destination.settings().identity
    nights = {
        each.value: last_good(instance, each, identity, Wanted(policy.rule(each.value), now)) for each in FileType
    }
    return Reading(
        at=now.timestamp(),
        statuses=tuple(found),
        nights={name: night.timestamp() for name, night in nights.items() if night},
        running=instance.get_runs_count(dg.RunsFilter(statuses=IN_PROGRESS)),
        queued=instance.get_runs_count(dg.RunsFilter(statuses=_QUEUED)),
        repeated=_repeated(instance, found, identity),
    )


def _repeated(
    instance: dg.DagsterInstance, found: list[Status], destination_id: str
) -> dict[tuple[str, str, bool], float]:
    numbers = {each.file_type.value: [read.numbers for read in each.reads.values()] for each in found}
    event = instance.get_latest_materialization_event(dg.AssetKey(REPLICA))
    night = event.asset_materialization if event else None
    values = with_counters({name: value.value for name, value in night.metadata.items()}) if night else {}
    if values.get(DESTINATION) == destination_id:
        numbers[REPLICA] = [{name: value for name, value in values.items() if isinstance(value, int | float)}]
    return {
        (asset, storage, throttled): sum(
            each.get(f"{storage}_retries_throttled" if throttled else f"{storage}_retries", 0) for each in runs
        )
        for asset, runs in numbers.items()
        for storage in _STORAGES
        for throttled in (False, True)
    }


class MastosyncCollector(Collector):
    """Gives Prometheus the last reading, and reads again in a thread of its own."""

    def __init__(self, instance: dg.DagsterInstance, say: Callable[[str], object]) -> None:
        self._instance = instance
        self._say = say
        self._reading: Reading | None = None
        self._problem = ""

    def refresh(self) -> None:
        """Read again. An error is shown once, and the last reading stays."""
        try:
            self._reading = read(self._instance)
            self._problem = ""
        except AdminError as error:
            self._note(error.in_full())
        except Exception as error:  # noqa: BLE001  (the thread must outlive whatever a history or a database can raise)
            # Without its text, which may name more than an admin wants in a log.
            self._note(f"The metrics cannot be read ({type(error).__name__}): does Dagster's history answer?")

    def _note(self, problem: str) -> None:
        if problem != self._problem:
            self._say(problem)
        self._problem = problem

    def refresh_every(self, seconds: float) -> None:
        """Read again every so many seconds, as long as the process lives."""

        def work() -> None:
            while True:
                time.sleep(seconds)
                self.refresh()

        threading.Thread(target=work, name="metrics", daemon=True).start()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; none but ``mastosync_up`` as long as nothing could be read."""
        found = self._reading
        succeeded = found is not None and not self._problem
        yield _gauge("up", "1: the last reading of database and history succeeded.", {(): float(succeeded)})
        if found is None:
            return
        yield _gauge("read_timestamp_seconds", "When the other metrics were read.", {(): found.at})
        yield _gauge(
            "last_good_night_timestamp_seconds",
            "When the last good night read the rows.",
            {(name,): at for name, at in found.nights.items()},
            "file_type",
        )
        for name, (text, number) in _BY_FILE_TYPE.items():
            yield _gauge(name, text, {(each.file_type.value,): number(each) for each in found.statuses}, "file_type")
        ranges = {
            (each.file_type.value, state): float(number(each))
            for each in found.statuses
            for state, number in _STATES.items()
        }
        yield _gauge("id_ranges", "Registered ID ranges by the state of their last run.", ranges, "file_type", "state")
        runs = {("running",): float(found.running), ("queued",): float(found.queued)}
        yield _gauge("runs", "Runs of all jobs that are running or queued.", runs, "state")
        retries, throttles = (
            {
                (asset, storage): number
                for (asset, storage, throttled), number in found.repeated.items()
                if throttled is only
            }
            for only in (False, True)
        )
        about = "in the latest run of each ID range; asset replica: in the last good night."
        yield _gauge("retries", f"Requests that were repeated {about}", retries, "asset", "side")
        yield _gauge("throttles", f"Requests that a storage throttled {about}", throttles, "asset", "side")


def _gauge(name: str, text: str, values: Mapping[_Labels, float], *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"mastosync_{name}", text, labels=labels)
    for names, value in values.items():
        family.add_metric(names, value)
    return family
