"""A run launcher that notices runs whose process has died, and a queue that starts as many as there is memory for.

Dagster does not check a run that its default launcher has started. If the machine or the code server goes down, the run
stays "started" for ever and keeps its slot in the run queue; after four of these no run starts any more. Runs of the
command line are not watched at all.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dagster._core.errors import DagsterLaunchFailedError, DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.remote_representation.code_location import GrpcServerCodeLocation
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator, RunQueueConfig
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

from mastosync_dagster.environment import SettingsError
from mastosync_dagster.memory import MOST_RUNS, run_memory
from mastosync_dagster.process import keep_files_private
from mastosync_dagster.runs.dead_runs import announce_retry, cause_of_death
from mastosync_dagster.runs.run_lock import RunState, state

if TYPE_CHECKING:
    import dagster as dg
    from dagster._core.launcher import LaunchRunContext
    from dagster._grpc.client import DagsterGrpcClient
    from dagster._serdes import ConfigurableClassData

_SHUTTING_DOWN = "after telling it to shut down"
"""In what a code server says that waits for its runs to end, and takes no further one (dagster/_grpc/server.py)."""

_UNREACHABLE_SECONDS = 300.0
"""For so long a code server that does not answer says nothing about its runs."""
_LOAD_SECONDS = 20.0
"""What the daemon takes to load the definitions from a code server that is back."""


class WatchfulRunLauncher(DefaultRunLauncher):
    """The default launcher, with a health check that Dagster's run monitoring can call."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        """Keep files private in each process that opens the Dagster instance and handles runs."""
        super().__init__(inst_data)
        self._unreachable_since: dict[str, float] = {}
        self._back_since: dict[str, float] = {}
        keep_files_private()

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start a run, unless the code server executes it already: it did not answer in time when it was asked before.

        A code server that is being stopped counts as away: the queue then keeps the run, and uses up no retry of it.
        """
        if GRPC_INFO_TAG in context.dagster_run.tags and _is_executed(context):
            return
        try:
            super().launch_run(context)
        except DagsterLaunchFailedError as error:
            if _SHUTTING_DOWN not in str(error):
                raise
            raise DagsterUserCodeUnreachableError(str(error)) from error

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Always."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether a run is being executed. A run whose state cannot be found out counts as running."""
        known = state(self._instance, run)
        dead = known is RunState.DEAD
        # A dead run of a code server that does not come back is started again by another one.
        asks = not dead or _comes_back(run)
        if known is RunState.ALIVE or (asks and self._may_live(run.run_id, dead=dead)):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        announce_retry(self._instance, run.run_id)
        return CheckRunHealthResult(WorkerStatus.FAILED, cause_of_death(self._instance, run.run_id))

    def _may_live(self, run_id: str, *, dead: bool) -> bool:
        """Ask the code server that started a run; ``dead``: its process is gone, and the question is whether to say so.

        Dagster starts a run that is called failed again with the code server's help, tries that once, and then never
        again. So nothing is said while the code server is being started again, or upgraded.
        """
        now = time.monotonic()
        try:
            executes = self._asked_code_server(run_id)
        except DagsterUserCodeUnreachableError:
            self._back_since.pop(run_id, None)
            return now - self._unreachable_since.setdefault(run_id, now) < _UNREACHABLE_SECONDS
        if executes is None:
            return not dead
        just_back = run_id in self._unreachable_since and now - self._back_since.setdefault(run_id, now) < _LOAD_SECONDS
        if just_back or (executes and not dead):
            return True
        self._unreachable_since.pop(run_id, None)
        self._back_since.pop(run_id, None)
        return False

    def _asked_code_server(self, run_id: str) -> bool | None:
        """Return whether the code server that was to start a run executes it; None: no such server is known."""
        client = self._get_grpc_client_for_termination(run_id)  # type: ignore[no-untyped-call]  # Dagster's own
        return None if client is None else _executes(client, run_id)


def _is_executed(context: LaunchRunContext) -> bool:
    """Return whether the code server that a run would be started by executes it.

    A tag of the run has an address, too. Started again after a failure, a run has it from the run before, and after a
    restart the code server may be at another one.
    """
    run = context.dagster_run
    if context.workspace is None or run.remote_job_origin is None:
        return False
    name = run.remote_job_origin.repository_origin.code_location_origin.location_name
    location = context.workspace.get_code_location(name)
    return isinstance(location, GrpcServerCodeLocation) and _executes(location.client, run.run_id)


def _executes(client: DagsterGrpcClient, run_id: str) -> bool:
    answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id), timeout=10)
    return deserialize_value(answer, CanCancelExecutionResult).can_cancel


def _comes_back(run: dg.DagsterRun) -> bool:
    """Tell whether the code server of a run is a service of its own, as systemd and Docker have it.

    One that Dagster's daemon starts does not come back, nor does that of ``dagster dev`` or ``mastosync ui``, whose
    socket is a new one each time, in the folder for temporary files.
    """
    job = run.remote_job_origin
    origin = job and job.repository_origin.code_location_origin
    if not isinstance(origin, GrpcServerCodeLocationOrigin):
        return False
    return origin.socket is None or not Path(origin.socket).is_relative_to(tempfile.gettempdir())


class MemoryAwareRunCoordinator(QueuedRunCoordinator):
    """Dagster's queue. The memory decides how many runs start; ``concurrency: runs`` in dagster.yaml wins."""

    def get_run_queue_config(self) -> RunQueueConfig:
        """Return the settings of the queue, as the memory is now."""
        try:
            runs = run_memory().runs
        except SettingsError:
            runs = MOST_RUNS  # each of them says what is wrong
        return super().get_run_queue_config()._replace(max_concurrent_runs=runs)
