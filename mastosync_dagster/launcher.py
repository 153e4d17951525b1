"""A run launcher that notices runs whose process has died, and a queue that starts as many as there is memory for.

Dagster does not check a run that its default launcher has started. If the machine or the code server goes down, the run
stays "started" for ever and keeps its slot in the run queue; after four of these no run starts any more. Runs of the
command line are not watched at all.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dagster._core.errors import DagsterLaunchFailedError, DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
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
        run = context.dagster_run
        if GRPC_INFO_TAG in run.tags and self._asked_code_server(run.run_id):
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
        # A dead run of a code server that Dagster itself starts is started again by another one.
        asks = not dead or _is_of_separate_server(run)
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
        if client is None:
            return None
        answer = deserialize_value(
            client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id), timeout=10),
            CanCancelExecutionResult,
        )
        return answer.can_cancel


def _is_of_separate_server(run: dg.DagsterRun) -> bool:
    """Tell whether a run came from a code server that is a service of its own, as systemd and Docker have it."""
    origin = run.remote_job_origin
    return origin is not None and isinstance(
        origin.repository_origin.code_location_origin, GrpcServerCodeLocationOrigin
    )


class MemoryAwareRunCoordinator(QueuedRunCoordinator):
    """Dagster's queue. The memory decides how many runs start; ``concurrency: runs`` in dagster.yaml wins."""

    def get_run_queue_config(self) -> RunQueueConfig:
        """Return the settings of the queue, as the memory is now."""
        try:
            runs = run_memory().runs
        except SettingsError:
            runs = MOST_RUNS  # each of them says what is wrong
        return super().get_run_queue_config()._replace(max_concurrent_runs=runs)
