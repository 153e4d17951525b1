"""Ends runs whose process has died without a final event in Dagster's history."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.execution.plan.resume_retry import ReexecutionStrategy
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.storage.tags import RETRY_STRATEGY_TAG, WILL_RETRY_TAG

from mastosync_dagster.runs.run_lock import IN_PROGRESS, RunState, killed_for_memory, state

if TYPE_CHECKING:
    from dagster import DagsterInstance

GONE = "The process that executed the run is gone."
_KILLED = "The run was killed, probably for memory: lower MASTOSYNC_MEMORY_MB or MASTOSYNC_CONCURRENCY."


def cause_of_death(instance: DagsterInstance, run_id: str) -> str:
    """Return what is known of the end of a run's process."""
    return _KILLED if killed_for_memory(instance, run_id) else GONE


def close_dead_runs(instance: DagsterInstance) -> None:
    """End the runs that the history calls in progress and whose process has died: not everybody has a daemon."""
    for listed in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS)):
        dead = state(instance, listed) is RunState.DEAD
        # Read again: it may have ended well since it was listed, and its process with it.
        run = instance.get_run_by_id(listed.run_id) if dead else None
        if run is None or run.is_finished:
            continue
        if run.status is dg.DagsterRunStatus.CANCELING:
            # Somebody is cancelling it: as a failure it would be started once more.
            instance.report_run_canceled(run, GONE)
            continue
        announce_retry(instance, run.run_id)
        cause = cause_of_death(instance, run.run_id)
        instance.report_run_failed(run, f"{cause} What it has copied is whole; the next run takes the rest.")


def announce_retry(instance: DagsterInstance, run_id: str) -> None:
    """Tag a run whose process has died as one to be retried, if Dagster will retry it, before it is called failed.

    Dagster sets the tag shortly after the failure. An asset backfill that checks in between takes itself for ended,
    and then the run is not retried (Dagster issue 34204): likely where both begin at the same time, after a crash.
    Where a code server calls a run failed because its child process has died, that gap remains.

    All steps are repeated, as a plan of another run is of no use anyway: one that has died after its last step, and
    before its end, has none that failed, and Dagster would not retry it.
    """
    run = instance.get_run_by_id(run_id)
    # A run that has ended meanwhile, or is being cancelled, is not called failed.
    if run is None or run.status is not dg.DagsterRunStatus.STARTED or not instance.run_retries_enabled:
        return
    failed = run.with_status(dg.DagsterRunStatus.FAILURE)
    if auto_reexecution_should_retry_run(instance, failed, None):
        instance.add_run_tags(run_id, {WILL_RETRY_TAG: "true", RETRY_STRATEGY_TAG: ReexecutionStrategy.ALL_STEPS.value})
