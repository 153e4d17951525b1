"""What is said of a run whose process is gone, and when."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.execution.asset_backfill import backfill_runs_are_complete
from dagster._core.launcher.base import WorkerStatus
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import BACKFILL_ID_TAG, GRPC_INFO_TAG, PARENT_RUN_ID_TAG, ROOT_RUN_ID_TAG

from mastosync_dagster.launcher import WatchfulRunLauncher
from mastosync_dagster_tests.support.run_processes import run_process, some_job

if TYPE_CHECKING:
    from pathlib import Path

    import dagster as dg


def launcher(instance: dg.DagsterInstance) -> WatchfulRunLauncher:
    made = instance.run_launcher
    assert isinstance(made, WatchfulRunLauncher)
    return made


def started_run(instance: dg.DagsterInstance, parent: dg.DagsterRun | None = None) -> dg.DagsterRun:
    """Have a run in progress."""
    first = None if parent is None else parent.run_id
    group = {} if first is None else {PARENT_RUN_ID_TAG: first, ROOT_RUN_ID_TAG: first}
    run = instance.create_run_for_job(some_job, parent_run_id=first, root_run_id=first, tags=group)
    report(instance, run, DagsterEventType.PIPELINE_START)
    return reloaded(instance, run)


def dead_run(instance: dg.DagsterInstance, parent: dg.DagsterRun | None = None) -> dg.DagsterRun:
    """Have one whose process has been killed."""
    run = started_run(instance, parent)
    with run_process(instance.root_directory, run.run_id) as process:
        process.kill()
        process.wait()
    return reloaded(instance, run)


def report(instance: dg.DagsterInstance, run: dg.DagsterRun, kind: DagsterEventType) -> None:
    """Have a run's status changed, and do nothing else of what Dagster does then."""
    instance.run_storage.handle_run_event(run.run_id, DagsterEvent(kind.value, job_name=run.job_name))


def reloaded(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found


def test_a_dead_run_waits_for_its_retry_from_the_time_at_which_it_is_failed(
    instance: dg.DagsterInstance,
) -> None:
    run = dead_run(instance)
    instance.add_run_tags(run.run_id, {BACKFILL_ID_TAG: "backfill"})
    assert launcher(instance).check_run_worker_health(run).status is WorkerStatus.FAILED
    report(instance, run, DagsterEventType.PIPELINE_FAILURE)
    assert not backfill_runs_are_complete("backfill", instance, logging.getLogger())


@pytest.mark.long(cases=0)
def test_a_dead_run_that_was_the_last_retry_waits_for_none(instance: dg.DagsterInstance) -> None:
    first = dead_run(instance)
    report(instance, first, DagsterEventType.PIPELINE_FAILURE)
    *_, last = [dead_run(instance, parent=first) for _ in range(3)]
    assert launcher(instance).check_run_worker_health(last).status is WorkerStatus.FAILED
    report(instance, last, DagsterEventType.PIPELINE_FAILURE)
    assert not reloaded(instance, last).is_complete_and_waiting_to_retry


@pytest.mark.parametrize("end", [DagsterEventType.PIPELINE_FAILURE, DagsterEventType.PIPELINE_CANCELING])
def test_nothing_is_said_of_a_run_that_has_ended_meanwhile_or_is_being_cancelled(
    instance: dg.DagsterInstance, end: DagsterEventType
) -> None:
    run = dead_run(instance)
    report(instance, run, end)
    assert launcher(instance).check_run_worker_health(run).status is WorkerStatus.FAILED
    assert reloaded(instance, run).tags == run.tags


@pytest.mark.long
def test_nothing_is_said_of_a_run_that_is_alive(instance: dg.DagsterInstance) -> None:
    run = started_run(instance)
    with run_process(instance.root_directory, run.run_id):
        run = reloaded(instance, run)
        assert launcher(instance).check_run_worker_health(run).status is WorkerStatus.RUNNING
    assert reloaded(instance, run).tags == run.tags


def test_a_code_server_that_is_away_for_some_minutes_is_no_dead_run(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = started_run(instance)
    instance.add_run_tags(run.run_id, {GRPC_INFO_TAG: f'{{"host": "localhost", "socket": "{tmp_path}/gone.sock"}}'})
    watch = launcher(instance)
    assert watch.check_run_worker_health(reloaded(instance, run)).status is WorkerStatus.RUNNING
    watch._unreachable_since[run.run_id] -= 301
    assert watch.check_run_worker_health(reloaded(instance, run)).status is WorkerStatus.FAILED


def dead_run_of(socket: str, instance: dg.DagsterInstance) -> dg.DagsterRun:
    """Have one that a code server at a socket has started."""
    server = GrpcServerCodeLocationOrigin(host="localhost", socket=socket, location_name="here")
    run = instance.create_run_for_job(
        some_job, remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(server, "some"), some_job.name)
    )
    report(instance, run, DagsterEventType.PIPELINE_START)
    with run_process(instance.root_directory, run.run_id) as process:
        process.kill()
        process.wait()
    instance.add_run_tags(run.run_id, {GRPC_INFO_TAG: f'{{"host": "localhost", "socket": "{socket}"}}'})
    return run


def test_a_dead_run_is_called_failed_when_the_code_server_can_start_it_again(instance: dg.DagsterInstance) -> None:
    run, watch = dead_run_of("/nowhere/code.sock", instance), launcher(instance)
    assert watch.check_run_worker_health(reloaded(instance, run)).status is WorkerStatus.RUNNING
    watch._unreachable_since[run.run_id] -= 301
    assert watch.check_run_worker_health(reloaded(instance, run)).status is WorkerStatus.FAILED


def test_a_dead_run_waits_for_no_code_server_whose_socket_is_never_there_again(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = dead_run_of(f"{tmp_path}/gone.sock", instance)
    assert launcher(instance).check_run_worker_health(reloaded(instance, run)).status is WorkerStatus.FAILED
