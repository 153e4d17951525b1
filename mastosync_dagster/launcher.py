"""Dagster's run launcher, made to notice runs whose process is gone.

Dagster asks nobody about a run that its default launcher has started: if the machine, or the code server with it, goes
down, the run stays "started" for ever and keeps its place among the runs that may go on at once, and after four of
these nothing begins any more. Runs of the command line have nobody at all who watches them.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

from mastosync_dagster.own_files import keep_files_private

if TYPE_CHECKING:
    import dagster as dg
    from dagster._serdes import ConfigurableClassData

PROCESS_TAG = "mastosync/process"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_START_FIELD = 19
"""Of ``/proc/<pid>/stat``, counted behind the program's name: when the process started."""


@dataclass(frozen=True, slots=True)
class RunProcess:
    """The process that executes a run.

    Attributes:
        run_id: The run. A run that is started once more has the tags of the first one.
        host: The machine's name.
        boot: Which of its uptimes; empty where the system does not say.
        pid: The process.
        start: When it started, by the system's count; empty where it does not say.
    """

    run_id: str
    host: str
    boot: str
    pid: int
    start: str

    @classmethod
    def current(cls, run_id: str) -> RunProcess:
        """Return this process, which executes a run."""
        return cls(run_id, platform.node(), _boot(), os.getpid(), _start(os.getpid()))

    @classmethod
    def of(cls, run: dg.DagsterRun) -> RunProcess | None:
        """Return the process that a run's tag names; None where it names none, or that of another run."""
        run_id, *place = run.tags.get(PROCESS_TAG, "").split("|")
        if run_id != run.run_id or len(place) != 4 or not place[2].isdecimal():  # noqa: PLR2004  (one each)
            return None
        return cls(run_id, place[0], place[1], int(place[2]), place[3])

    def __str__(self) -> str:
        return f"{self.run_id}|{self.host}|{self.boot}|{self.pid}|{self.start}"

    def is_alive(self) -> bool | None:
        """Tell whether it still runs; None: it is another machine's."""
        if self.host != platform.node():
            return None
        if self.boot != _boot():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # somebody else's: it is there
        # A number is used again, a moment is not.
        return self.start == _start(self.pid)


def is_alive(run: dg.DagsterRun) -> bool:
    """Tell whether it is certain that a run's process still runs; that of another machine is not."""
    process = RunProcess.of(run)
    return process is not None and process.is_alive() is True


def _boot() -> str:
    return _BOOT.read_text().strip() if _BOOT.exists() else ""


def _start(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat")
    try:
        # The name before the last parenthesis may hold anything.
        return stat.read_text().rpartition(")")[2].split()[_START_FIELD]
    except OSError:
        return ""


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
        process = RunProcess.of(run)
        alive = None if process is None else process.is_alive()
        if alive is None:
            alive = self._code_server_executes(run.run_id)
        if alive:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        self._announce_retry(run.run_id)
        return CheckRunHealthResult(WorkerStatus.FAILED, "The process that executed the run is gone.")

    def _announce_retry(self, run_id: str) -> None:
        """Say of a run whose process is gone that it is started once more, if it is, before it is called failed.

        Dagster says so a moment after. An asset backfill that looks in between takes itself for ended, and then the run
        is not started again (Dagster issue 34204): likely where both begin at the same time, after a crash. What a code
        server calls failed, because its child has died, has that moment still.
        """
        instance = self._instance
        run = instance.get_run_by_id(run_id)
        # One that has ended meanwhile, or is being cancelled, is not called failed.
        if run is None or run.status is not DagsterRunStatus.STARTED or not instance.run_retries_enabled:
            return
        failed = run.with_status(DagsterRunStatus.FAILURE)
        if auto_reexecution_should_retry_run(instance, failed, None):
            instance.add_run_tags(run_id, {WILL_RETRY_TAG: "true"})

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
