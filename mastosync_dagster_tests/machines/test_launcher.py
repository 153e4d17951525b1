"""What the launcher says of runs, with a real broker and no worker."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.launcher.base import WorkerStatus
from dagster._daemon.monitoring import run_monitoring
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from mastosync_dagster.machines import launcher as launcher_module
from mastosync_dagster.machines.execution import execute
from mastosync_dagster.machines.launcher import WatchfulCeleryRunLauncher
from mastosync_dagster.machines.leases import Leases
from mastosync_dagster.runs.dead_runs import close_dead_runs
from mastosync_dagster.runs.run_lock import PROCESS_TAG
from mastosync_dagster.runs.watermarks import NIGHT
from mastosync_dagster.sync import automation
from mastosync_dagster_tests.support.redis_server import NEEDS_REDIS
from mastosync_dagster_tests.support.run_processes import run_process, some_job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster_tests.support.redis_server import RedisServer

pytestmark = NEEDS_REDIS

_LAUNCHER = """
run_launcher:
  module: mastosync_dagster.machines.launcher
  class: WatchfulCeleryRunLauncher
  config: {broker: {env: CELERY_BROKER}}
run_retries: {enabled: true, max_retries: 3}
"""


@pytest.fixture
def home(broker: RedisServer, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "dagster.yaml").write_text(_LAUNCHER)
    assert broker.client.ping()
    with dg.DagsterInstance.from_config(str(folder)) as made:
        yield made


def launcher(instance: dg.DagsterInstance) -> WatchfulCeleryRunLauncher:
    made = instance.run_launcher
    assert isinstance(made, WatchfulCeleryRunLauncher)
    return made


def run_of(instance: dg.DagsterInstance, *kinds: DagsterEventType) -> dg.DagsterRun:
    """Have a run that was handed to Celery, with these changes of its status."""
    run = instance.create_run_for_job(some_job, tags={DAGSTER_CELERY_TASK_ID_TAG: "task"})
    for kind in kinds:
        instance.run_storage.handle_run_event(run.run_id, DagsterEvent(kind.value, job_name=run.job_name))
    return reloaded(instance, run)


def reloaded(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found


def test_a_worker_that_is_gone_is_noticed_and_a_silent_broker_is_no_silent_worker(
    home: dg.DagsterInstance, broker: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(home, DagsterEventType.PIPELINE_START)
    leases = Leases(broker.url)
    assert leases.take(run.run_id, "worker")
    watch = launcher(home)
    assert watch.check_run_worker_health(run).status is WorkerStatus.RUNNING
    leases.give_back(run.run_id, "worker")
    # The worker is given time to say that it has the run, from when the broker can be asked.
    assert watch.check_run_worker_health(run).status is WorkerStatus.RUNNING
    monkeypatch.setattr(launcher_module, "_RETURN_SECONDS", 0.0)
    broker.kill()
    for _ in range(2):
        assert watch.check_run_worker_health(run).status is WorkerStatus.RUNNING
    broker.start()
    assert watch.check_run_worker_health(run).status is WorkerStatus.FAILED
    assert reloaded(home, run).tags["dagster/will_retry"] == "true"


def test_a_worker_that_is_back_in_time_is_not_gone(
    home: dg.DagsterInstance, broker: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(home, DagsterEventType.PIPELINE_START)
    leases, watch = Leases(broker.url), launcher(home)
    for _ in range(2):
        assert watch.check_run_worker_health(run).status is WorkerStatus.RUNNING
        assert leases.take(run.run_id, "worker")
        assert watch.check_run_worker_health(run).status is WorkerStatus.RUNNING
        leases.give_back(run.run_id, "worker")
        # Had its first absence been kept, it would have been too long.
        monkeypatch.setattr(watch, "_absent_since", dict.fromkeys(watch._absent_since, 0.0))


@pytest.mark.long
def test_a_run_of_the_command_line_is_known_by_its_process(home: dg.DagsterInstance) -> None:
    run = home.create_run_for_job(some_job)
    with run_process(home.root_directory, run.run_id) as process:
        assert launcher(home).check_run_worker_health(reloaded(home, run)).status is WorkerStatus.RUNNING
        process.kill()
        process.wait()
    assert launcher(home).check_run_worker_health(reloaded(home, run)).status is WorkerStatus.FAILED


def test_a_run_of_the_command_line_of_another_machine_goes_on_until_somebody_terminates_it(
    home: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = home.create_run_for_job(some_job)
    home.report_dagster_event(DagsterEvent(DagsterEventType.PIPELINE_START.value, job_name=run.job_name), run.run_id)
    # Whether its process lives is known where its lock is.
    home.add_run_tags(run.run_id, {PROCESS_TAG: run.run_id})
    assert launcher(home).check_run_worker_health(reloaded(home, run)).status is WorkerStatus.RUNNING
    close_dead_runs(home)
    assert launcher(home).terminate(run.run_id)

    def look_after(seconds: float) -> dg.DagsterRunStatus:
        """Do what run monitoring does so many seconds later."""
        record = home.get_run_record_by_id(run.run_id)
        assert record is not None
        now = time.time() + seconds
        with monkeypatch.context() as patch:
            patch.setattr(run_monitoring, "time", SimpleNamespace(time=lambda: now))
            run_monitoring.monitor_canceling_run(home, record, logging.getLogger())
        return reloaded(home, run).status

    assert look_after(120) is dg.DagsterRunStatus.CANCELING
    assert look_after(181) is dg.DagsterRunStatus.CANCELED


def test_what_is_terminated_before_a_worker_begins_is_cancelled_at_once(home: dg.DagsterInstance) -> None:
    run = run_of(home, DagsterEventType.PIPELINE_STARTING)
    assert launcher(home).terminate(run.run_id)
    assert reloaded(home, run).status is dg.DagsterRunStatus.CANCELED
    assert not launcher(home).terminate(run.run_id)


def test_what_a_worker_has_is_cancelled_by_the_worker(home: dg.DagsterInstance, broker: RedisServer) -> None:
    run = run_of(home, DagsterEventType.PIPELINE_STARTING)
    leases = Leases(broker.url)
    assert leases.take(run.run_id, "worker")
    assert launcher(home).terminate(run.run_id)
    assert reloaded(home, run).status is dg.DagsterRunStatus.CANCELING
    # The worker dies, and the run is handed out again.
    leases.give_back(run.run_id, "worker")
    execute(home, leases, run.run_id, "other")
    assert reloaded(home, run).status is dg.DagsterRunStatus.CANCELED


def test_what_is_terminated_while_the_broker_is_away_is_left_to_the_worker(
    home: dg.DagsterInstance, broker: RedisServer
) -> None:
    run = run_of(home, DagsterEventType.PIPELINE_START)
    broker.kill()
    assert launcher(home).terminate(run.run_id)
    assert reloaded(home, run).status is dg.DagsterRunStatus.CANCELING


@pytest.mark.parametrize(
    "kinds",
    [
        (DagsterEventType.PIPELINE_START,),
        (DagsterEventType.PIPELINE_START, DagsterEventType.PIPELINE_SUCCESS),
        (DagsterEventType.PIPELINE_START, DagsterEventType.PIPELINE_FAILURE),
    ],
)
def test_a_task_that_is_handed_out_twice_is_left_alone(
    home: dg.DagsterInstance, broker: RedisServer, kinds: tuple[DagsterEventType, ...]
) -> None:
    run = run_of(home, *kinds)
    execute(home, Leases(broker.url), run.run_id, "other")
    assert reloaded(home, run).status is run.status
    assert not home.all_logs(run.run_id)


def test_a_run_that_another_worker_begins_is_left_alone(home: dg.DagsterInstance, broker: RedisServer) -> None:
    run = run_of(home, DagsterEventType.PIPELINE_STARTING)
    leases = Leases(broker.url)
    assert leases.take(run.run_id, "first")
    execute(home, leases, run.run_id, "second")
    assert reloaded(home, run).status is dg.DagsterRunStatus.STARTING
    assert leases.holder(run.run_id) == "first"


def test_a_run_whose_process_cannot_begin_fails(
    home: dg.DagsterInstance, broker: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(Path(home.root_directory) / "elsewhere"))
    run = run_of(home, DagsterEventType.PIPELINE_STARTING)
    leases = Leases(broker.url)
    execute(home, leases, run.run_id, "worker")
    assert reloaded(home, run).status is dg.DagsterRunStatus.FAILURE
    assert leases.holder(run.run_id) is None


def test_a_night_whose_worker_is_gone_is_ended_and_the_next_one_begins(
    home: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(home, DagsterEventType.PIPELINE_START)
    home.add_run_tags(run.run_id, {NIGHT: "changes"})
    nightly = automation.Nightly("0 3 * * *", "UTC")
    now = datetime.now(timezone.utc)

    def waits_for(days: int) -> str | None:
        with dg.build_schedule_context(instance=home, scheduled_execution_time=now + timedelta(days=days)) as context:
            return automation._unfinished(context, nightly)

    assert "is started since" in (waits_for(1) or "")
    # Whatever keeps it: a night that does not end sends an alert.
    with pytest.raises(dg.Failure, match="No night can begin"):
        waits_for(2)
    monkeypatch.setattr(launcher_module, "_RETURN_SECONDS", 0.0)
    assert launcher(home).check_run_worker_health(reloaded(home, run)).status is WorkerStatus.FAILED
    # What run monitoring does then.
    home.report_run_failed(reloaded(home, run))
    assert waits_for(1) is None
