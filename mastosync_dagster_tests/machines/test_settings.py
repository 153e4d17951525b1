"""The settings that are shipped for workers do what they are there for: with a real broker and Celery's own workers."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
import yaml
from dagster._core.launcher.base import LaunchRunContext

from mastosync_dagster.installation.processes import running
from mastosync_dagster.machines import launcher as launcher_module
from mastosync_dagster.machines.leases import LEASE_SECONDS, Leases
from mastosync_dagster_tests.machines.farm import PROJECT
from mastosync_dagster_tests.support import waiting_job
from mastosync_dagster_tests.support.redis_server import NEEDS_REDIS
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    import redis

    from mastosync_dagster_tests.support.redis_server import RedisServer

_NOTICED_SECONDS = 90.0
_HANDED_OUT_AGAIN_SECONDS = 120.0
_DELIVERED, _HELD = "unacked_index", "unacked"
"""Where Celery keeps when it handed out which task, and the tasks that no worker has acknowledged."""
_SECONDS = 120.0


def test_a_worker_that_is_gone_is_noticed_within_a_minute_and_a_half() -> None:
    settings = yaml.safe_load((PROJECT / "deploy" / "celery" / "dagster.yaml").read_text())
    poll = settings["run_monitoring"]["poll_interval_seconds"]
    again = launcher_module._RETURN_SECONDS
    # The lease ends; the next poll finds nobody, and the first one after the time to come back says so.
    assert LEASE_SECONDS + poll + math.ceil(again / poll) * poll <= _NOTICED_SECONDS
    # After a broker was away, a living worker renews its lease twice in that time.
    assert again > 2 * Leases("redis://localhost").renew_seconds
    # The lease of a dead worker is over when its run is handed to another one, which would else leave it alone.
    assert LEASE_SECONDS < _HANDED_OUT_AGAIN_SECONDS
    # "They wait, up to twelve hours", and "started again, up to five times" of docs/deploy.md.
    assert settings["run_monitoring"]["start_timeout_seconds"] == 12 * 3600
    assert settings["run_retries"]["max_retries"] == 5


@dataclass
class Workers:
    """Workers of this machine, and runs that last until a file exists."""

    instance: dg.DagsterInstance
    broker: redis.Redis
    file: Path
    stack: contextlib.ExitStack
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        home = Path(self.instance.root_directory)
        command = [
            *(str(Path(sys.executable).with_name("celery")), "-A", "mastosync_dagster.machines.worker"),
            *("worker", "-n", f"{name}@%h", "--loglevel", "INFO"),
        ]
        environment = {**os.environ, "DAGSTER_HOME": str(home), waiting_job.FILE: str(self.file)}
        self.processes[name] = self.stack.enter_context(
            running(command, log=home / f"{name}.log", cwd=PROJECT, env=environment, grace=30.0)
        )

    def launch(self) -> str:
        """Hand a run to the workers."""
        job = dg.reconstructable(waiting_job.waiting_job)
        run = self.instance.create_run_for_job(
            waiting_job.waiting_job, job_code_origin=job.get_python_origin(), status=dg.DagsterRunStatus.STARTING
        )
        self.instance.run_launcher.launch_run(LaunchRunContext(run, None))
        return run.run_id

    def worker_of(self, run_id: str) -> str | None:
        holder = self.broker.get(f"mastosync:run:{run_id}")
        return None if holder is None else str(holder).partition("@")[0]

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def wait_for(self, run_id: str, status: dg.DagsterRunStatus, worker: str | None = None) -> None:
        wait_until(
            lambda: self.status(run_id) is status and (worker is None or self.worker_of(run_id) == worker), _SECONDS
        )

    def let_time_pass(self, seconds: float) -> None:
        """Set back what the broker knows of times: when tasks were handed out, and when leases end."""
        for task in self.broker.zrange(_DELIVERED, 0, -1):
            self.broker.zincrby(_DELIVERED, -seconds, str(task))
        for key in self.broker.scan_iter("mastosync:run:*"):
            self.broker.pexpire(key, max(1, self.broker.pttl(key) - int(seconds * 1000)))


@pytest.fixture
def workers(shipped_home: dg.DagsterInstance, broker: RedisServer, tmp_path: Path) -> Iterator[Workers]:
    file = tmp_path / "go on"
    with contextlib.ExitStack() as stack:
        # After a failed test no step goes on that waits for it.
        stack.callback(file.touch)
        yield Workers(shipped_home, broker.client, file, stack)


@NEEDS_REDIS
@pytest.mark.long(cases=0)
@pytest.mark.timeout(300)
def test_a_run_whose_worker_is_killed_before_it_has_begun_is_handed_to_another_one(workers: Workers) -> None:
    workers.start("one")
    run = workers.launch()
    # It has the run, whose process loads the code for seconds before the run begins.
    wait_until(lambda: workers.worker_of(run) == "one", _SECONDS)
    workers.processes["one"].send_signal(signal.SIGKILL)
    workers.processes["one"].wait()
    assert workers.status(run) is dg.DagsterRunStatus.STARTING
    assert workers.broker.hlen(_HELD) == 1
    workers.let_time_pass(_HANDED_OUT_AGAIN_SECONDS)
    workers.start("two")
    workers.wait_for(run, dg.DagsterRunStatus.STARTED, "two")
    workers.file.touch()
    workers.wait_for(run, dg.DagsterRunStatus.SUCCESS)
    wait_until(lambda: workers.broker.hlen(_HELD) == 0, _SECONDS)


@NEEDS_REDIS
@pytest.mark.long(cases=0)
@pytest.mark.timeout(300)
def test_a_busy_worker_keeps_no_run_from_an_idle_one(workers: Workers) -> None:
    workers.start("one")
    first = workers.launch()
    workers.wait_for(first, dg.DagsterRunStatus.STARTED, "one")
    second = workers.launch()
    workers.start("two")
    workers.wait_for(second, dg.DagsterRunStatus.STARTED, "two")
    workers.file.touch()
    for run in (first, second):
        workers.wait_for(run, dg.DagsterRunStatus.SUCCESS)
