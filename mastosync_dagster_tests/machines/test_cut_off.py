"""A worker that reaches neither the broker nor the history cannot know whose a run is: the run's process ends."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import dagster as dg
import psutil
import pytest

from mastosync_dagster.machines import run_process
from mastosync_dagster.machines.execution import execute
from mastosync_dagster.machines.leases import Leases
from mastosync_dagster_tests.support import waiting_job
from mastosync_dagster_tests.support.redis_server import NEEDS_REDIS
from mastosync_dagster_tests.support.tcp_proxy import tcp_proxy
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster_tests.support.redis_server import RedisServer


def processes() -> list[psutil.Process]:
    """Return the processes of runs that this one has begun."""
    found = []
    for each in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if run_process.__name__ in each.cmdline():
                found.append(each)
    return found


@pytest.mark.long
@NEEDS_REDIS
def test_a_run_goes_on_without_its_broker_and_ends_without_its_history_too(
    broker: RedisServer, database: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = Leases(broker.url, seconds=9)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv(waiting_job.FILE, str(tmp_path / "never"))
    with tcp_proxy(database.port) as history:
        url = f"postgresql+psycopg2://{database.user}:{database.password}@127.0.0.1:{history.port}/{database.database}"
        (tmp_path / "dagster.yaml").write_text(f"storage: {{postgres: {{postgres_url: '{url}'}}}}")
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance, ThreadPoolExecutor(1) as beside:
            job = dg.reconstructable(waiting_job.waiting_job)
            run_id = instance.create_run_for_job(
                waiting_job.waiting_job, job_code_origin=job.get_python_origin(), status=dg.DagsterRunStatus.STARTING
            ).run_id

            def status() -> dg.DagsterRunStatus | None:
                run = instance.get_run_by_id(run_id)
                return run.status if run else None

            ended = beside.submit(execute, instance, leases, run_id, "worker")
            wait_until(lambda: status() is dg.DagsterRunStatus.STARTED, 60)
            broker.kill()
            time.sleep(2 * leases.silent_seconds)
            assert len(processes()) == 1
            with history.gone():
                begun = time.monotonic()
                wait_until(lambda: not processes(), 60)
                assert time.monotonic() - begun < leases.silent_seconds + 3
            ended.result(60)
            assert status() is dg.DagsterRunStatus.FAILURE
