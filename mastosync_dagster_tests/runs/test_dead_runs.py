"""A run whose process has died is started again, wherever it died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.storage.tags import PARENT_RUN_ID_TAG
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import retry_run

from mastosync_dagster.runs.dead_runs import close_dead_runs
from mastosync_dagster_tests.support import waiting_job

if TYPE_CHECKING:
    from pathlib import Path

KILLED_AT_ITS_END = """
import os, signal, sys
import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.events import DagsterEvent
from dagster._core.execution.api import execute_run
from mastosync_dagster.runs.run_lock import hold
DagsterEvent.job_success = staticmethod(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
with dg.DagsterInstance.get() as instance:
    hold(instance, sys.argv[1])
    job = ReconstructableJob.for_module("mastosync_dagster_tests.support.waiting_job", "waiting_job")
    execute_run(job, instance.get_run_by_id(sys.argv[1]), instance)
"""


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_run_that_died_after_its_last_step_is_started_again(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    file = tmp_path / "go on"
    file.touch()
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), waiting_job.FILE: str(file)}
    target = ModuleTarget(waiting_job.__name__, attribute=None, working_directory=None, location_name="tests")
    with WorkspaceProcessContext(instance, target) as process:
        (repository,) = process.create_request_context().get_code_location("tests").get_repositories().values()
        job = repository.get_full_job("waiting_job")
        run_id = instance.create_run_for_job(
            waiting_job.waiting_job,
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
            status=dg.DagsterRunStatus.STARTING,
        ).run_id
        ended = subprocess.run([sys.executable, "-c", KILLED_AT_ITS_END, run_id], env=environment, check=False)
        assert ended.returncode == -signal.SIGKILL
        assert [each.status.value for each in instance.get_run_step_stats(run_id) if each.status] == ["SUCCESS"]

        close_dead_runs(instance)
        failed = instance.get_run_by_id(run_id)
        assert failed is not None
        assert failed.status is dg.DagsterRunStatus.FAILURE
        retry_run(failed, process)
    again = instance.get_runs(dg.RunsFilter(tags={PARENT_RUN_ID_TAG: run_id}))
    assert [each.status for each in again] == [dg.DagsterRunStatus.QUEUED]
