"""The run launcher for many machines: a run is a task of Celery.

Dagster's own (dagster-celery) asks Celery's result store, which calls the run of a worker that is gone "started" for
ever, and makes a failure of a run that is terminated, which is then started once more.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import dagster as dg
import redis
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from kombu.exceptions import OperationalError

from mastosync_dagster.machines.broker import TASK, celery_settings
from mastosync_dagster.machines.leases import Leases
from mastosync_dagster.process import keep_files_private
from mastosync_dagster.runs.dead_runs import announce_retry, cause_of_death
from mastosync_dagster.runs.run_lock import RunState, state

if TYPE_CHECKING:
    from dagster._core.launcher import LaunchRunContext, ResumeRunContext

_RETURN_SECONDS = 12.0
"""For so long a worker may be without a lease after the broker has answered: it renews it every five seconds."""


class WatchfulCeleryRunLauncher(CeleryRunLauncher):
    """Celery's launcher that cancels what is terminated, and notices workers that are gone."""

    def __init__(self, **config: Any) -> None:
        """Keep files private in each process that opens the Dagster instance and handles runs."""
        super().__init__(**config)
        self._leases = Leases(self.broker or "")
        self.celery.conf.update(celery_settings())
        self._absent_since: dict[str, float] = {}
        keep_files_private()

    def launch_run(self, context: LaunchRunContext) -> None:
        """Hand a run to the workers. While the broker is away, the queue keeps it, and uses up no retry of it."""
        run = context.dagster_run
        task = self.celery.signature(TASK, args=(run.run_id,), app=self.celery, immutable=True)
        try:
            self._launch_celery_task_run(run=run, task_signature=task, routing_key=TASK)
        except (OperationalError, redis.RedisError) as error:
            raise DagsterUserCodeUnreachableError(f"The broker of Celery does not answer: {error}") from error

    def terminate(self, run_id: str) -> bool:
        """Have the history say that a run is to end: its worker stops it within seconds, and nobody starts it again."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        if run.status in _BEFORE_START and not self._may_have_begun(run_id):
            self._instance.report_run_canceled(run, "No worker had begun it.")
        return True

    @property
    def supports_resume_run(self) -> bool:
        """Never: a run that has died is started again, as a new one."""
        return False

    def resume_run(self, context: ResumeRunContext) -> None:
        """Raise NotImplementedError."""
        raise NotImplementedError

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether a worker has a run. Where that cannot be found out, it counts as running."""
        if DAGSTER_CELERY_TASK_ID_TAG in run.tags:
            dead = not self._has_worker(run.run_id)
        else:  # of the command line
            dead = state(self._instance, run) is RunState.DEAD
        if not dead:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        announce_retry(self._instance, run.run_id)
        return CheckRunHealthResult(WorkerStatus.FAILED, cause_of_death(self._instance, run.run_id))

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:  # noqa: ARG002, FBT001, FBT002  (Dagster's signature)
        """Return which worker has a run."""
        try:
            return f"Its worker: {self._leases.holder(run.run_id)}."
        except redis.RedisError as error:
            return f"The broker does not answer: {error}."

    def _has_worker(self, run_id: str) -> bool:
        """Return whether a worker has a run, or is given time to say so."""
        try:
            holder = self._leases.holder(run_id)
        except redis.RedisError:
            self._absent_since.clear()  # the workers cannot say anything either
            return True
        now = time.monotonic()
        if holder is None and now - self._absent_since.setdefault(run_id, now) >= _RETURN_SECONDS:
            del self._absent_since[run_id]
            return False
        if holder is not None:
            self._absent_since.pop(run_id, None)
        return True

    def _may_have_begun(self, run_id: str) -> bool:
        try:
            return self._leases.holder(run_id) is not None
        except redis.RedisError:
            return True


_BEFORE_START = frozenset({dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING})
