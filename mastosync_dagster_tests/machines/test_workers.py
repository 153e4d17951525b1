"""Two workers share a backfill, whatever becomes of them."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from dagster._core.utils import make_new_run_id

from mastosync_dagster_tests.machines.farm import ASSET, all_succeeded, slowly
from mastosync_dagster_tests.support.redis_server import NEEDS_REDIS
from mastosync_dagster_tests.support.waiting import slowdown

if TYPE_CHECKING:
    from mastosync_dagster_tests.machines.farm import Farm

pytestmark = [NEEDS_REDIS, pytest.mark.timeout(600)]

SECONDS = 90.0
TERMINATED_SECONDS = 10.0
STANDS_STILL_SECONDS = 4.0


@pytest.mark.early
def test_two_workers_share_a_backfill_though_one_is_killed_and_the_broker_too(workers: Farm) -> None:
    partitions = workers.register()
    assert len(partitions) > 2
    # Before there are workers: until the daemon looks for backfills, half a minute may pass.
    slow, began = slowdown(), time.monotonic()
    backfill = workers.webserver.launch_backfill(ASSET, partitions, slowly(8))
    for name in ("one", "two"):
        # Of a run that the daemon's machine has deleted: the worker's has its logs.
        old = workers.log(name).parent / "storage" / make_new_run_id()
        old.mkdir(parents=True)
        os.utime(old, (0, 0))
        workers.start_worker(name)
    runs = workers.wait_for_runs(
        backfill,
        lambda runs: {workers.worker_of(run.run_id) for run in runs if run.status == "STARTED"} >= {"one", "two"},
    )
    (lost,) = {run.run_id for run in runs if workers.worker_of(run.run_id) == "one"}
    workers.crash("one")
    workers.broker.kill()
    workers.broker.start()
    workers.wait_for_runs(backfill, lambda runs: any((run.run_id, run.status) == (lost, "FAILURE") for run in runs))
    workers.start_worker("one")
    runs = workers.wait_for_runs(backfill, lambda runs: all_succeeded(runs, partitions))
    assert [run.run_id for run in runs if run.status != "SUCCESS"] == [lost]
    assert len(runs) == len(partitions) + 1
    assert workers.compare().differences == ()
    assert time.monotonic() - began < SECONDS * max(slow, slowdown())
    assert not old.exists()


@pytest.mark.long(cases=0)
def test_terminate_stops_a_copy_and_starts_nothing_again_and_the_worker_goes_on(workers: Farm) -> None:
    workers.empty_destination()
    for absent in {"one", "two"} - workers.processes.keys():
        workers.start_worker(absent)
    partition = workers.register()[-1]
    backfill = workers.webserver.launch_backfill(ASSET, [partition], slowly(1))
    (run,) = workers.wait_for_runs(backfill, lambda _: workers.copied > 3)
    name = workers.worker_of(run.run_id)
    allowed, clicked = TERMINATED_SECONDS * slowdown(), time.monotonic()
    workers.webserver.terminate(run.run_id)
    workers.wait_for_runs(backfill, lambda runs: runs[0].status == "CANCELED", TERMINATED_SECONDS * slowdown())
    took, copied = time.monotonic() - clicked, workers.copied
    time.sleep(STANDS_STILL_SECONDS)
    assert workers.copied == copied
    assert took < allowed
    assert len(workers.webserver.runs_of_backfill(backfill)) == 1
    assert name is not None
    for other in {"one", "two"} - {name}:
        workers.crash(other)
    again = workers.webserver.launch_backfill(ASSET, [partition])
    workers.wait_for_runs(again, lambda runs: all_succeeded(runs, [partition]))
