"""Dagster's run launcher, made to notice runs whose process is gone.

Dagster asks nobody about a run that its default launcher has started: if the machine, or the code server with it, goes
down, the run stays "started" for ever and keeps its place among the runs that may go on at once, and after four of
these nothing begins any more. Runs of the command line have nobody at all who watches them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

from mastosync_dagster.private_files import keep_files_private
from mastosync_dagster.runs.run_lock import RunState, state

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from dagster._serdes import ConfigurableClassData


_GONE = "The process that executed the run is gone."
_IN_PROGRESS = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


def close_dead_runs(instance: DagsterInstance) -> None:
    """End the runs that the history calls in progress and whose process is gone: not everybody has a daemon."""
    for listed in instance.get_runs(dg.RunsFilter(statuses=list(_IN_PROGRESS))):
        dead = state(instance, listed) is RunState.DEAD
        # Asked again: it may have ended well since it was listed, and its process with it.
        run = instance.get_run_by_id(listed.run_id) if dead else None
        if run is None or run.is_finished:
            continue
        if run.status is dg.DagsterRunStatus.CANCELING:
            # Somebody wanted its end: as a failure it would be started once more.
            instance.report_run_canceled(run, _GONE)
            continue
        _announce_retry(instance, run.run_id)
        instance.report_run_failed(run, f"{_GONE} What it has copied is whole; the next run takes the rest.")


def _announce_retry(instance: DagsterInstance, run_id: str) -> None:
    """Say of a run whose process is gone that it is started once more, if it is, before it is called failed.

    Dagster says so a moment after. An asset backfill that looks in between takes itself for ended, and then the run
    is not started again (Dagster issue 34204): likely where both begin at the same time, after a crash. What a code
    server calls failed, because its child has died, has that moment still.
    """
    run = instance.get_run_by_id(run_id)
    # One that has ended meanwhile, or is being cancelled, is not called failed.
    if run is None or run.status is not dg.DagsterRunStatus.STARTED or not instance.run_retries_enabled:
        return
    failed = run.with_status(dg.DagsterRunStatus.FAILURE)
    if auto_reexecution_should_retry_run(instance, failed, None):
        instance.add_run_tags(run_id, {WILL_RETRY_TAG: "true"})


class WatchfulRunLauncher(DefaultRunLauncher):
    """The default launcher, which run monitoring can ask whether a run's process is still there."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        """Make it, in each process that opens the Dagster instance and has to do with runs."""
        super().__init__(inst_data)
        keep_files_private()

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Always."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Tell whether a run is being executed. Where nothing can be found out, it is."""
        known = state(self._instance, run)
        alive = known is RunState.ALIVE
        if known in {RunState.NOT_BEGUN, RunState.UNKNOWN}:
            alive = self._code_server_executes(run.run_id)
        if alive:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        _announce_retry(self._instance, run.run_id)
        return CheckRunHealthResult(WorkerStatus.FAILED, _GONE)

    def _code_server_executes(self, run_id: str) -> bool:
        """Ask the code server that was told to execute a run."""
        client = self._get_grpc_client_for_termination(run_id)  # type: ignore[no-untyped-call]  # Dagster's own
        if client is None:
            return True
        try:
            answer = deserialize_value(
                client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id), timeout=10),
                CanCancelExecutionResult,
            )
        except DagsterUserCodeUnreachableError:
            return False
        return answer.can_cancel
