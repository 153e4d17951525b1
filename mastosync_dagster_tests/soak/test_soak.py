"""Hours of nights with faults, in processes as in production: neither memory nor descriptors grow."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus

from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.soak.growth import Growth, part_seconds
from mastosync_dagster_tests.soak.life import soaked_life
from mastosync_dagster_tests.soak.units import CODE_SERVER, production
from mastosync_dagster_tests.soak.watch import MIB, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server
    from mastosync_dagster_tests.soak.life import SoakedLife
    from mastosync_dagster_tests.soak.units import Production
    from mastosync_dagster_tests.support.graphql import Run

HOURS = float(os.environ.get("HOURS", "2"))
MINUTE = 60.0
_BACKFILL_MINUTES, _DAY_MINUTES = 7, 10
"""Every so many minutes somebody backfills a range; every so many the history becomes a day older."""
_KEEP_DAYS = 2
_LATE_RECORDS = 5
"""So many may wait for their deletion, which waits itself while a night goes on."""
_ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
_NIGHT = "sync_changes"
_NIGHT_SECONDS = 600.0
_DAY_LATER = (
    "UPDATE runs SET update_timestamp = datetime(update_timestamp, '-1 day'),"
    " create_timestamp = datetime(create_timestamp, '-1 day') WHERE status IN ('SUCCESS', 'FAILURE', 'CANCELED')"
)


@dataclass
class Soak:
    """What happens, and what is written down about it.

    Attributes:
        runs: Every run that was seen, as it was last seen.
        seen: When each was first seen, by `time.monotonic`.
        kept: Time, runs in the history, those of them that are older than what is kept, and MiB of the home.
    """

    production: Production
    life: SoakedLife
    watch: Watch
    report: Callable[[object], None]
    runs: dict[str, Run] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    kept: list[tuple[float, int, int, float]] = field(default_factory=list)

    def look(self) -> None:
        """See which runs there are."""
        self.production.check()
        self.runs |= {run.run_id: run for run in self.production.webserver.newest_runs(40)}
        for run_id in self.runs:
            self.seen.setdefault(run_id, time.monotonic())

    def unfinished(self) -> list[Run]:
        """Return the runs that go on."""
        return [run for run in self.runs.values() if run.status not in _ENDED]

    def wait_for_runs(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the runs holds."""
        deadline = time.monotonic() + _NIGHT_SECONDS
        self.look()
        while not condition():
            assert time.monotonic() < deadline, self.unfinished()
            time.sleep(1)
            self.look()

    def ranges(self, file_type: FileType) -> list[str]:
        """Return the registered ID ranges."""
        with dg.DagsterInstance.from_config(str(self.production.home)) as instance:
            return list(instance.get_dynamic_partitions(file_type.partitions_name))

    def first_copy(self) -> None:
        """Copy everything by backfills, as an admin begins."""
        self.production.command("mastosync", "ranges")
        launched = {
            file_type: self.production.webserver.launch_backfill(file_type.value, keys)
            for file_type in FileType
            if (keys := self.ranges(file_type))
        }

        def all_ended() -> bool:
            return all(
                runs and all(run.status in _ENDED for run in runs)
                for runs in map(self.production.webserver.runs_of_backfill, launched.values())
            )

        self.wait_for_runs(all_ended)

    def minutes(self, count: float) -> None:
        """Live through so many minutes."""
        first = self.ranges(FileType.ACCOUNTS)[0]
        number = 0
        while self.watch.seconds < count * MINUTE:
            number += 1
            self.life.minute()
            self.look()
            if number % _BACKFILL_MINUTES == 0:
                self.life.misbehave()
                self.life.lose_accounts()
                self.production.webserver.launch_backfill(FileType.ACCOUNTS.value, [first])
            if number % _DAY_MINUTES == 0:
                self._a_day_later()
            self._say()
            time.sleep(max(0.0, number * MINUTE - self.watch.seconds))

    def _a_day_later(self) -> None:
        """Make what the history holds of runs a day older, and delete what is old."""
        file = self.production.home / "history" / "runs.db"
        with contextlib.closing(sqlite3.connect(file, timeout=60)) as connection, connection:
            connection.execute(_DAY_LATER)
        config = {"ops": {"delete_records": {"config": {"days": _KEEP_DAYS}}}}
        self.production.webserver.launch("delete_old_runs", config)

    def _say(self) -> None:
        home = self.production.home
        with contextlib.closing(sqlite3.connect(f"file:{home}/history/runs.db?mode=ro", uri=True)) as connection:
            ((records,),) = connection.execute("SELECT count(*) FROM runs").fetchall()
        size = _size(home)
        # A busy machine has fewer nights: what is kept by its age goes up and down with them.
        # A run ages when it has ended, and is deleted by a run that waits in the queue: so two days more.
        since = time.monotonic() - (_KEEP_DAYS + 2) * _DAY_MINUTES * MINUTE
        young = sum(at > since for at in self.seen.values())
        self.kept.append((self.watch.seconds, records, records - young, size))
        newest = {name: samples[-1] for name, samples in self.watch.samples.items()}
        processes = ", ".join(
            f"{name} {sample.resident:.1f} MB {sample.descriptors} fd" for name, sample in newest.items()
        )
        ended = Counter(run.status for run in self.runs.values())
        self.report(
            f"{self.watch.seconds / MINUTE:6.1f} min; {processes}; {len(self.runs)} runs {dict(ended)},"
            f" peak {max((run.peak for run in self.watch.runs), default=0):.0f} MB;"
            f" {len(self.life.living.expected):,} objects, {self.life.put:,} written, {self.life.faults:,} faults;"
            f" history {records} runs, home {size:.1f} MB"
        )


def _size(folder: Path) -> float:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # files of runs come and go
            size += path.stat().st_size
    return size / MIB


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_memory_and_descriptors_stay_flat(
    postgres_server: PostgresServer,
    source_server: S3Server,
    destination_server: S3Server,
    tmp_path: Path,
    report: Callable[[object], None],
) -> None:
    with (
        soaked_life(postgres_server, source_server, destination_server, tmp_path) as life,
        production(tmp_path, life.settings) as made,
    ):
        soak = Soak(made, life, Watch(made.long_lived, made.long_lived[CODE_SERVER]), report)
        soak.first_copy()
        assert life.differences() == []
        life.misbehave()
        made.command("dagster", "schedule", "start", "nightly_incremental", "-m", "mastosync_dagster")
        with soak.watch as watch:
            soak.minutes(HOURS * MINUTE)
            seconds = watch.seconds
        # One good night.
        soak.wait_for_runs(lambda: not soak.unfinished())
        life.behave()
        before = set(soak.runs)
        soak.wait_for_runs(lambda: any(_is_good_night(run) for run in soak.runs.values() if run.run_id not in before))
        made.command("dagster", "schedule", "stop", "nightly_incremental", "-m", "mastosync_dagster")
        soak.wait_for_runs(lambda: not soak.unfinished())
        differences = life.differences()
        ticks = _ticks(made.home)

    problems = [*_processes(soak, seconds), *_history(soak, seconds), *_nights(soak, ticks)]
    assert differences == []
    assert problems == []


def _is_good_night(run: Run) -> bool:
    return run.job == _NIGHT and run.status == "SUCCESS"


def _processes(soak: Soak, seconds: float) -> Iterable[str]:
    """Report memory and descriptors, and yield what has grown."""
    soak.report(f"parts of {part_seconds(seconds) / MINUTE:.0f} minutes, the second and the last:")
    for name, samples in soak.watch.samples.items():
        resident = Growth.of([(sample.at, sample.resident) for sample in samples], seconds)
        descriptors = Growth.of([(sample.at, sample.descriptors) for sample in samples], seconds)
        soak.report(f"{name}: MB {resident}; descriptors {descriptors}")
        if resident.mean_grows:
            yield f"memory of {name}: {resident}"
        if descriptors.rises_above:
            yield f"descriptors of {name}: {descriptors}"
    for job in sorted({run.job for run in soak.runs.values()}):
        peaks = [(run.at, run.peak) for run in soak.watch.runs if _job(soak, run.run_id) == job]
        growth = Growth.of(peaks, seconds)
        if growth.second and growth.last:
            soak.report(f"{len(peaks)} runs of {job}, peak: MB {growth}")
            # A peak depends on what a run finds to do: it goes up and down.
            if growth.rises_above:
                yield f"peak of {job}: {growth}"


def _job(soak: Soak, run_id: str) -> str:
    return soak.runs[run_id].job if run_id in soak.runs else ""


def _history(soak: Soak, seconds: float) -> Iterable[str]:
    records, home = (Growth.of([(each[0], each[column]) for each in soak.kept], seconds) for column in (1, 3))
    old = max(each[2] for each in soak.kept)
    soak.report(f"runs in the history: {records}; beyond those of the last days: {max(0, old)}; home, MB: {home}")
    if old > _LATE_RECORDS:
        yield f"runs in the history: {old} beyond those of the last days"


def _nights(soak: Soak, ticks: list[InstigatorTick]) -> Iterable[str]:
    """Report the nights, and yield which have become no run."""
    statuses = Counter(tick.status for tick in ticks)
    asked = [run_id for tick in ticks for run_id in tick.run_ids]
    soak.report(
        f"{len(ticks)} ticks of the night: {statuses[TickStatus.SUCCESS]} asked for a run,"
        f" {statuses[TickStatus.SKIPPED]} were skipped while the night before went on"
    )
    for tick in ticks:
        if tick.status is TickStatus.SKIPPED and "is not over" in (tick.skip_reason or ""):
            continue
        if tick.status is not TickStatus.SUCCESS or len(tick.run_ids) != 1:
            yield f"a tick: {tick.status}, {tick.run_ids}, {tick.skip_reason}, {tick.error}"
    yield from (f"night {run_id}: not seen" for run_id in asked if run_id not in soak.runs)
    yield from (f"not ended: {run}" for run in soak.runs.values() if run.status not in {"SUCCESS", "FAILURE"})
    minutes = {int(tick.timestamp // MINUTE) for tick in ticks}
    yield from (f"no tick in minute {each}" for each in range(min(minutes), max(minutes)) if each not in minutes)


def _ticks(home: Path) -> list[InstigatorTick]:
    """Return the schedule's ticks."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (state,) = [each for each in instance.all_instigator_state() if each.instigator_name == "nightly_incremental"]
        return list(instance.get_ticks(state.instigator_origin_id, state.selector_id))
