"""A run's process is killed at any time: the next run finishes its work, and nothing of it stays behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import psutil
import pytest

from mastosync_dagster.demo.comparison import compare
from mastosync_dagster.installation.processes import running
from mastosync_dagster.runs.run_lock import RunState, state
from mastosync_dagster_tests.faults.scenarios import SEEDS
from mastosync_dagster_tests.faults.world import Original, environment
from mastosync_dagster_tests.support.corners import Bucket, create_bucket
from mastosync_dagster_tests.support.forked_runs import forked_runs
from mastosync_dagster_tests.support.proxy import Delay, Kind, Rule
from mastosync_dagster_tests.support.transfers import open_uploads
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mastosync_dagster.demo.servers.start import S3Server
    from mastosync_dagster_tests.faults.world import FaultyInstallation
    from mastosync_dagster_tests.support.forked_runs import ForkedRuns


@dataclass(frozen=True)
class Runs:
    """Runs in processes of their own, all with one Dagster home, and so with one history."""

    forked: ForkedRuns
    original: Original
    home: Path

    def start(self, destination: Bucket) -> int:
        """Start a run to a destination. Returns its process id."""
        source = self.original.bucket
        variables = environment(
            self.original.database,
            source,
            destination,
            source.server.endpoint,
            destination.server.endpoint,
            self.home,
        )
        # rclone's server keeps no ACLs: what a dead run has left private or not cannot be set right there.
        variables |= {"DESTINATION_S3_PERMISSION": "", "MASTOSYNC_COPY_PRIVATE": "true"}
        return self.forked.start(variables)

    def end(self) -> bool | None:
        """Wait until the run has ended. Returns whether it succeeded; None: it was killed."""
        return self.forked.end()


@pytest.fixture
def runs(some: Original, tmp_path: Path) -> Iterator[Runs]:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with forked_runs(tmp_path / "runs.log") as forked:
        yield Runs(forked, some, tmp_path)


def finished(runs: Runs, destination: Bucket) -> float:
    """Run until the end, and look at what is there. Returns the seconds that the run took."""
    started = time.monotonic()
    runs.start(destination)
    assert runs.end() is True
    took = time.monotonic() - started
    compared = compare(destination.server, destination.name, runs.original.expected)
    # A run that dies while it looks what becomes of private objects leaves its probe; after an hour another deletes it.
    assert [line for line in compared.differences if "/mastosync-check/" not in line] == []
    assert open_uploads(destination) == []
    return took


def kill_and_finish(runs: Runs, server: S3Server, seeds: range) -> int:
    """Kill a run at a time that the seed decides, then run again. Returns how many were killed before their end."""
    # The first run of all makes the history's tables too.
    takes = [finished(runs, create_bucket(server)) for _ in range(2)][-1]
    killed = 0
    for seed in seeds:
        destination = create_bucket(server)
        pid = runs.start(destination)
        time.sleep(random.Random(seed).uniform(0, takes))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        killed += runs.end() is None
        finished(runs, destination)
    return killed


def check_databases(home: Path) -> None:
    """The files of the history are whole, as SQLite sees them."""
    for database in home.glob("history/**/*.db"):
        with contextlib.closing(sqlite3.connect(database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], database


def check_history(home: Path, ended: int, killed: int) -> None:
    """The history is whole: it knows every run, and a run without a record of its death had not begun."""
    check_databases(home)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        found = instance.get_runs()
        assert sum(run.status is dg.DagsterRunStatus.SUCCESS for run in found) >= ended
        dead = [run for run in found if not run.is_finished]
        # A process that was killed before its run was on record has left none.
        assert len(dead) <= killed
        for run in dead:
            assert state(instance, run) is RunState.NOT_BEGUN
        work = Path(instance.storage_directory()) / "mastosync-runs"
        assert list(work.iterdir()) == []


@pytest.mark.long
def test_a_killed_run_is_finished_by_the_next(runs: Runs, destination_server: S3Server) -> None:
    killed = kill_and_finish(runs, destination_server, range(3))
    check_history(runs.home, 5, killed)


def mastosync(*arguments: str) -> list[str]:
    """Return the command line of a command."""
    return [sys.executable, "-c", "from mastosync_dagster.cli.main import main; main()", *arguments]


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("command", [("status", "accounts"), ("ranges", "accounts"), ("sync", "accounts")])
def test_a_command_calls_failed_what_died_without_a_daemon(
    some: Original, make_world: Callable[[Original], FaultyInstallation], tmp_path: Path, command: tuple[str, ...]
) -> None:
    world = make_world(some)
    world.source_proxy.set_rules(Rule(Delay(0.5), kinds=frozenset({Kind.GET})))
    with running(mastosync("sync", "accounts"), log=tmp_path / "sync.log") as process:
        wait_until(lambda: world.destination_proxy.count(Kind.PUT) > 0)
        process.kill()
        process.wait()
    world.source_proxy.set_rules()
    (dead,) = world.dagster.get_runs()
    assert not dead.is_finished
    subprocess.run(mastosync(*command), check=True, capture_output=True)
    recorded = world.dagster.get_run_by_id(dead.run_id)
    assert recorded is not None
    assert recorded.status is dg.DagsterRunStatus.FAILURE


def unwritten(home: Path) -> list[Path]:
    """Return the logs that SQLite writes first (WAL, which Dagster sets), as long as they hold something."""
    logs = []
    for log in home.glob("history/**/*.db-wal"):
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size:
                logs.append(log)
    return logs


def cut_power_while_writing(pid: int, home: Path, dice: random.Random) -> bool:
    """End a process within a write to the history, and leave of that what a power cut leaves: its beginning.

    Returns whether there was such a time before the process ended.
    """
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            if unwritten(home):
                os.kill(pid, signal.SIGSTOP)
                logs = unwritten(home)
                if logs:
                    os.kill(pid, signal.SIGKILL)
                    for log in logs:
                        os.truncate(log, dice.randrange(log.stat().st_size))
                        # The log's index is shared memory.
                        log.with_name(log.name.replace("-wal", "-shm")).unlink(missing_ok=True)
                    return True
                os.kill(pid, signal.SIGCONT)
    return False


@pytest.mark.long(cases=0)
def test_a_history_that_a_power_cut_has_shortened_is_whole_and_goes_on(
    runs: Runs, destination_server: S3Server
) -> None:
    takes = [finished(runs, create_bucket(destination_server)) for _ in range(2)][-1]
    cuts = 0
    for seed in range(4):
        dice = random.Random(seed)
        destination = create_bucket(destination_server)
        pid = runs.start(destination)
        time.sleep(dice.uniform(0, takes / 2))
        cuts += cut_power_while_writing(pid, runs.home, dice)
        runs.end()
        finished(runs, destination)
        check_databases(runs.home)
    assert cuts
    with dg.DagsterInstance.from_config(str(runs.home)) as instance:
        assert sum(run.status is dg.DagsterRunStatus.SUCCESS for run in instance.get_runs()) >= 6


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_fifty_killed_runs_are_finished_by_the_next(
    runs: Runs, destination_server: S3Server, report: Callable[[object], None]
) -> None:
    killed = kill_and_finish(runs, destination_server, range(SEEDS))
    check_history(runs.home, SEEDS + 2, killed)
    report(f"SIGKILL of the run's process: {SEEDS} times, {killed} before the end; all finished by the next run")
    assert killed >= SEEDS // 2
