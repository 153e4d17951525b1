"""The application of Celery that executes runs."""

from __future__ import annotations

import secrets

import dagster as dg
from celery import Celery

from mastosync_dagster.machines.broker import TASK, celery_settings
from mastosync_dagster.machines.execution import execute, until_answered
from mastosync_dagster.machines.leases import LEASE_SECONDS, Leases
from mastosync_dagster.process import keep_files_private
from mastosync_dagster.resources.history_postgres import limit_waits


def make_app(url: str, lease_seconds: float = LEASE_SECONDS) -> Celery:
    """Return the application that `celery` runs, for a broker."""
    keep_files_private()
    limit_waits()
    made = Celery("mastosync", broker=url)
    made.conf.update(celery_settings())
    leases = Leases(url, lease_seconds)

    @made.task(name=TASK, bind=True)  # type: ignore[untyped-decorator]  # Celery publishes no types
    def execute_run(self: object, run_id: str) -> None:
        holder = f"{self.request.hostname} {secrets.token_hex(4)}"  # type: ignore[attr-defined]  # see above
        with until_answered(dg.DagsterInstance.get) as instance:
            execute(instance, leases, run_id, holder)

    return made
