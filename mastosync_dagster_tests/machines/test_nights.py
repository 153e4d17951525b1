"""Nights whose runs no worker takes: with the shipped settings, a real broker, and what Dagster's daemon does."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.storage.tags import RETRY_NUMBER_TAG
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import consume_new_runs_for_automatic_reexecution
from dagster._daemon.monitoring import run_monitoring

from mastosync_dagster.alerts.message import failure_message
from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.resources import MastodonDatabase
from mastosync_dagster_tests.support.redis_server import NEEDS_REDIS

if TYPE_CHECKING:
    from dagster._core.workspace.context import WorkspaceProcessContext

pytestmark = [NEEDS_REDIS, pytest.mark.long, pytest.mark.timeout(300)]

_LOG = logging.getLogger(__name__)
_JOB = "sync_changes"
_TIMEOUT = timedelta(hours=12, minutes=1)


@dataclass(frozen=True)
class Daemon:
    """What the daemon does, at the times that a test sets."""

    instance: dg.DagsterInstance
    process: WorkspaceProcessContext
    definitions: dg.Definitions
    patch: pytest.MonkeyPatch

    def night(self, at: datetime) -> dg.DagsterRun:
        """Evaluate the schedule, and hand the run that it requests to the workers."""
        with dg.build_schedule_context(
            instance=self.instance,
            repository_def=self.definitions.get_repository_def(),
            resources={"mastodon_db": MastodonDatabase()},
            scheduled_execution_time=at,
        ) as context:
            tick = self.definitions.resolve_schedule_def("nightly_incremental").evaluate_tick(context)
        assert tick.run_requests, tick.skip_message
        (request,) = tick.run_requests
        (repository,) = self.process.create_request_context().get_code_location("here").get_repositories().values()
        job = repository.get_full_job(_JOB)
        run = self.instance.create_run_for_job(
            self.definitions.resolve_job_def(_JOB),
            run_config=dict(request.run_config),
            tags=dict(request.tags),
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
        )
        return self.launch(run.run_id)

    def launch(self, run_id: str) -> dg.DagsterRun:
        """Hand a run to the workers, as the queue does."""
        self.instance.launch_run(run_id, self.process.create_request_context())
        run = self.reloaded(run_id)
        assert run.status is dg.DagsterRunStatus.STARTING
        return run

    def look_after_runs(self, at: datetime) -> None:
        """Fail the runs that have been starting for too long."""
        ahead = at.timestamp() - time.time()
        self.patch.setattr(run_monitoring, "get_current_timestamp", lambda: time.time() + ahead)
        assert not any(run_monitoring.execute_run_monitoring_iteration(self.process, _LOG))

    def start_again(self, run_id: str) -> dg.DagsterRun:
        """Start a failed run again, if that is due."""
        record = self.instance.get_run_record_by_id(run_id)
        assert record is not None
        list(consume_new_runs_for_automatic_reexecution(self.process, [record], _LOG))
        (again,) = self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
        assert again.tags[RETRY_NUMBER_TAG] == "1"
        return self.launch(again.run_id)

    def reloaded(self, run_id: str) -> dg.DagsterRun:
        found = self.instance.get_run_by_id(run_id)
        assert found is not None
        return found

    def alert(self, run: dg.DagsterRun) -> str:
        """Return what the alert about a failed run says."""
        events = self.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
        context = dg.build_run_status_sensor_context(
            sensor_name="alert_on_failure",
            dagster_event=events[-1].get_dagster_event(),
            dagster_instance=self.instance,
            dagster_run=run,
        )
        return failure_message(context.for_run_failure())


def test_a_night_that_no_worker_takes_fails_and_alerts_and_every_following_night_begins(
    shipped_home: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:x@127.0.0.1:1/nowhere")
    first = datetime.now(timezone.utc)
    with create_test_daemon_workspace_context(
        ModuleTarget("mastosync_dagster", None, None, "here"), shipped_home
    ) as process:
        daemon = Daemon(shipped_home, process, build_definitions(), monkeypatch)
        run = daemon.night(first)
        for day in range(1, 4):
            daemon.look_after_runs(first + timedelta(days=day - 1) + _TIMEOUT)
            run = daemon.reloaded(run.run_id)
            assert run.status is dg.DagsterRunStatus.FAILURE
            assert "43200 seconds to start" in daemon.alert(run)
            again = daemon.start_again(run.run_id)
            run = daemon.night(first + timedelta(days=day))
            # The night takes what it was to take: a worker that is back finds one run, not one for each night.
            assert daemon.reloaded(again.run_id).status is dg.DagsterRunStatus.CANCELED
    unfinished = shipped_home.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING]))
    assert [each.run_id for each in unfinished] == [run.run_id]
