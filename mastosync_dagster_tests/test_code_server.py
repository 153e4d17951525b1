"""What the launcher makes of a code server that is being stopped, or that did not answer in time."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget

from mastosync_dagster.installation.processes import running
from mastosync_dagster_tests.support import waiting_job
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from dagster._core.workspace.context import WorkspaceRequestContext

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]


def create_run(instance: dg.DagsterInstance, workspace: WorkspaceRequestContext) -> dg.DagsterRun:
    (repository,) = workspace.get_code_location("tests").get_repositories().values()
    job = repository.get_full_job("waiting_job")
    return instance.create_run_for_job(
        waiting_job.waiting_job,
        remote_job_origin=job.get_remote_origin(),
        job_code_origin=job.get_python_origin(),
        status=dg.DagsterRunStatus.STARTING,
    )


def launch(instance: dg.DagsterInstance, workspace: WorkspaceRequestContext, run_id: str) -> None:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    instance.run_launcher.launch_run(LaunchRunContext(run, workspace))


def status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_a_run_is_started_once_and_none_is_failed_by_a_code_server_that_waits_for_its_runs(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    socket, file = tmp_path / "code.sock", tmp_path / "go on"
    module = ["-m", waiting_job.__name__, "--location-name", "tests"]
    command = [sys.executable, "-m", "dagster", "api", "grpc", "--socket", str(socket), *module]
    environment = {**os.environ, "DAGSTER_HOME": instance.root_directory, waiting_job.FILE: str(file)}
    target = GrpcServerTarget(host="localhost", socket=str(socket), port=None, location_name="tests")
    with running(command, log=tmp_path / "code.log", env=environment) as server:
        wait_until(socket.exists, 60)
        with WorkspaceProcessContext(instance, target) as process:
            workspace = process.create_request_context()
            first, later = create_run(instance, workspace).run_id, list[str]()
            launch(instance, workspace, first)
            # As the queue does where the answer was lost.
            launch(instance, workspace, first)
            wait_until(lambda: status(instance, first) is dg.DagsterRunStatus.STARTED, 60)
            # As a run that is started again, and has the tags of one that a machine has taken along.
            again = create_run(instance, workspace).run_id
            instance.add_run_tags(again, {GRPC_INFO_TAG: '{"host": "localhost", "socket": "/nowhere/code.sock"}'})
            launch(instance, workspace, again)
            wait_until(lambda: status(instance, again) is dg.DagsterRunStatus.STARTED, 60)
            server.send_signal(signal.SIGTERM)

            def is_refused() -> bool:
                time.sleep(1)  # each that is not refused is a process more
                later.append(create_run(instance, workspace).run_id)
                try:
                    launch(instance, workspace, later[-1])
                except DagsterUserCodeUnreachableError:
                    return True
                return False

            # When it notices a signal it says nothing.
            wait_until(is_refused, 60)
            assert status(instance, later[-1]) is dg.DagsterRunStatus.STARTING
            file.touch()
            wait_until(lambda: {status(instance, each).value for each in (first, again)} <= {"SUCCESS", "FAILURE"}, 60)
    assert status(instance, first) is dg.DagsterRunStatus.SUCCESS
    messages = [record.dagster_event.message or "" for record in instance.all_logs(first) if record.dagster_event]
    assert len([message for message in messages if message.startswith("Started process for run")]) == 1
