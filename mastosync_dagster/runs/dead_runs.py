"""Ends runs whose process is gone: nobody has a word for them in Dagster's history."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.storage.tags import WILL_RETRY_TAG

from mastosync_dagster.runs.run_lock import RunState, state

if TYPE_CHECKING:
    from dagster import DagsterInstance

GONE = "The process that executed the run is gone."
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
            instance.report_run_canceled(run, GONE)
            continue
        announce_retry(instance, run.run_id)
        instance.report_run_failed(run, f"{GONE} What it has copied is whole; the next run takes the rest.")


def announce_retry(instance: DagsterInstance, run_id: str) -> None:
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
