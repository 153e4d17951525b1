"""Nights one after the other, each a day later for the history: whether memory and history stay as they are."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

from benchmarks import dataset, servers
from benchmarks.hosts.cgroup import Watched
from benchmarks.hosts.limits import start
from benchmarks.hosts.machine import HOME, OPT, USER, machine
from mastosync_dagster.units import MIB
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.hosts.machine import Machine
    from benchmarks.site import Site
    from mastosync_dagster_tests.support.graphql import Webserver

_MEMORY_MB = 1024
_NIGHT_SECONDS = 600.0
_OBJECTS = 200
"""What is new each night."""
_KEEP_DAYS = 3
_PARTS = 24
_WARM_UP = 30
"""Nights of the first part, in which the services' memory fills; an hour of a day is long enough for that."""
_STATUS = "query ($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
_DAY_LATER = {
    "history/runs.db": (
        "UPDATE runs SET update_timestamp = datetime(update_timestamp, '-1 day'),"
        " create_timestamp = datetime(create_timestamp, '-1 day')"
    ),
    "schedules/schedules.db": "UPDATE job_ticks SET timestamp = datetime(timestamp, '-1 day')",
}
"""What makes everything that the history holds a day older."""


@dataclass(frozen=True)
class Nights:
    """What became of some nights.

    Attributes:
        lowest_mb: The least memory of the machine in each night but those of the first part, without files: what stays
            between its runs.
        most_mb: The most. A mean would depend on how much of the night is a run, so on other work beside.
        runs: Records of runs, after a third of the nights and at the end.
        history_mb: The home's MB, at the same times.
        kills: Processes that the kernel has killed for memory.
    """

    lowest_mb: tuple[float, ...]
    most_mb: tuple[float, ...]
    seconds: float
    runs: tuple[int, int]
    history_mb: tuple[float, float]
    kills: int

    @property
    def is_good(self) -> bool:
        """Whether memory and history are as they were."""
        grown = (_second_and_last(each) for each in (self.lowest_mb, self.most_mb))
        return self.kills == 0 and all(abs(last / second - 1) <= 0.02 for second, last in grown)  # noqa: PLR2004  (what is promised)

    def __str__(self) -> str:
        """Return a line about it."""
        lowest, most = map(_growth, (self.lowest_mb, self.most_mb))
        before, after = (
            f"{runs} runs in the history and {size:.1f} MB of home"
            for runs, size in zip(self.runs, self.history_mb, strict=True)
        )
        return (
            f"{_WARM_UP + len(self.most_mb)} nights in {self.seconds:,.0f} s in 1 GB, the second and the last of"
            f" {_PARTS} parts, without files: {lowest} between runs, {most} at most; {before} after a third of the"
            f" nights, {after} at the end; {self.kills} OOM kills"
        )


def _second_and_last(nights_mb: Sequence[float]) -> tuple[float, float]:
    """Return the mean of the nights of the second of 24 parts, an hour of a day in fast motion, and of the last."""
    count = len(nights_mb) // (_PARTS - 1)
    return mean(nights_mb[:count]), mean(nights_mb[-count:])


def _growth(nights_mb: Sequence[float]) -> str:
    second, last = _second_and_last(nights_mb)
    return f"{second:,.0f} MB and {last:,.0f} MB ({(last / second - 1) * 100:+.1f} %)"


def nights(opt: Path, site: Site, nights_a_part: int) -> Nights:
    """Live through 24 parts, the first of thirty nights, the others of so many.

    Old records are deleted each day, as the schedule has it.
    """
    with machine(opt, _MEMORY_MB) as made:
        settings = {"MASTOSYNC_KEEP_RUNS_DAYS": str(_KEEP_DAYS)}
        webserver = start(made, site, settings=settings)
        homes: list[tuple[int, float]] = []
        lowest_mb: list[float] = []
        most_mb: list[float] = []
        begun = time.monotonic()
        for number in range(_WARM_UP + (_PARTS - 1) * nights_a_part):
            with Watched(made.cgroup.anonymous_mb) as watched:
                _night(webserver, made, site)
            if number >= _WARM_UP:
                lowest_mb.append(watched.least_mb)
                most_mb.append(watched.most_mb)
            homes.append(_history(made))
        third = homes[len(homes) // 3]
        return Nights(
            lowest_mb=tuple(lowest_mb),
            most_mb=tuple(most_mb),
            seconds=time.monotonic() - begun,
            runs=(third[0], homes[-1][0]),
            history_mb=(third[1], homes[-1][1]),
            kills=made.cgroup.kills(),
        )


def _night(webserver: Webserver, made: Machine, site: Site) -> None:
    """Add objects, run the night and the deletion of old records, and make everything a day older."""
    with contextlib.closing(dataset.connect(site.database)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT max(id) FROM media_attachments")
            (last,) = cursor.fetchone() or (0,)
        rows = dataset.small_pictures(connection, _OBJECTS, after=last)
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "UPDATE media_attachments SET updated_at = now() AT TIME ZONE 'utc' WHERE id BETWEEN %s AND %s",
                (rows.lo, rows.hi),
            )
    servers.fill(site.source, rows.bodies)
    config = {"ops": {"plan_changes": {"config": {"changed_since": "last"}}}}
    for job, run_config in (("sync_changes", config), ("delete_old_runs", {})):
        _run(webserver, job, run_config)
    for file, statement in _DAY_LATER.items():
        script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=60); c.execute(sys.argv[2]); c.commit()"
        made.run(str(OPT / "bin" / "python"), "-c", script, str(HOME / file), statement, user=USER)


def _run(webserver: Webserver, job: str, run_config: Mapping[str, object]) -> None:
    run = webserver.launch(job, run_config)

    def status() -> str:
        time.sleep(1)
        return str(webserver.query(_STATUS, {"run": run})["runOrError"]["status"])

    wait_until(lambda: status() in {"SUCCESS", "FAILURE"}, _NIGHT_SECONDS)
    if status() != "SUCCESS":
        raise RuntimeError(f"the run {run} of {job} failed")


def _history(made: Machine) -> tuple[int, float]:
    """Return how many runs the history has, and the MB of the home."""
    home = made.folder / "home"
    with contextlib.closing(sqlite3.connect(f"file:{home / 'history' / 'runs.db'}?mode=ro", uri=True)) as connection:
        (runs,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    return runs, size / MIB
