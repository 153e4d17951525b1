"""The application of Celery that executes runs."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass

import dagster as dg
from celery import Celery

from mastosync_dagster.history.postgres import limit_waits
from mastosync_dagster.machines.broker import TASK, celery_settings
from mastosync_dagster.machines.execution import execute, until_answered
from mastosync_dagster.machines.leases import LEASE_SECONDS, Leases
from mastosync_dagster.process import keep_files_private
from mastosync_dagster.runs.retention import DAY_SECONDS, delete_left_logs

_LOG = logging.getLogger(__name__)


def make_app(url: str, lease_seconds: float = LEASE_SECONDS) -> Celery:
    """Return the application that `celery` runs, for a broker."""
    keep_files_private()
    limit_waits()
    made = Celery("mastosync", broker=url)
    made.conf.update(celery_settings())
    leases = Leases(url, lease_seconds)
    logs = _Logs()

    @made.task(name=TASK, bind=True)  # type: ignore[untyped-decorator]  # Celery publishes no types
    def execute_run(self: object, run_id: str) -> None:
        holder = f"{self.request.hostname} {secrets.token_hex(4)}"  # type: ignore[attr-defined]  # see above
        with until_answered(dg.DagsterInstance.get) as instance:
            execute(instance, leases, run_id, holder)
            logs.delete_left(instance)

    return made


@dataclass
class _Logs:
    """The logs of runs on this machine. ``due``: when they are looked through again, in seconds of Unix."""

    due: float = 0.0

    def delete_left(self, instance: dg.DagsterInstance) -> None:
        """Delete those of runs that have been deleted elsewhere, once a day."""
        now = time.time()
        if now < self.due:
            return
        self.due = now + DAY_SECONDS
        try:
            delete_left_logs(instance, now)
        except Exception as error:  # noqa: BLE001  (of a history that is away, or a disk: the run has ended well)
            _LOG.warning("old logs stay until tomorrow: %s", error)
