"""Rate limits over all runs of an instance: real servers, and a real history that every run can see."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.copy import engine
from mastosync_dagster.copy.engine import copy_plan
from mastosync_dagster.sync.shared_limits import SharedLimits
from mastosync_dagster_tests.support.proxy import Kind, s3_proxy
from mastosync_dagster_tests.support.transfers import FAST, Transfer, storage

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket

PUTS_PER_SECOND = 40
OBJECTS = 100


def begun(instance: dg.DagsterInstance, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> SharedLimits:
    run = instance.create_run_for_job(dg.job(name="sync_accounts")(lambda: None), status=status)
    return SharedLimits(instance, run.run_id)


def test_runs_that_copy_with_a_limit_share_it_and_others_do_not_count(instance: dg.DagsterInstance) -> None:
    first, second = begun(instance), begun(instance)
    begun(instance)  # it copies without a limit, and never asks
    ended = begun(instance, dg.DagsterRunStatus.SUCCESS)
    assert first.runs("source") == 1
    assert second.runs("source") == 2
    ended.runs("source")
    assert first.runs("source") == 2


def test_a_limit_at_one_storage_takes_nothing_from_the_other(instance: dg.DagsterInstance) -> None:
    at_source, at_destination, at_both = begun(instance), begun(instance), begun(instance)
    for limits in (at_source, at_both):
        limits.runs("source")
    for limits in (at_destination, at_both):
        limits.runs("destination")
    assert [at_both.runs(storage_name) for storage_name in ("source", "destination")] == [2, 2]
    assert at_source.runs("source") == 2
    assert at_destination.runs("destination") == 2
    earlier = instance.create_run_for_job(dg.job(name="sync_media")(lambda: None), status=dg.DagsterRunStatus.STARTED)
    instance.add_run_tags(earlier.run_id, {".dagster/mastosync-shares-limits": "yes"})
    assert at_source.runs("source") == 3
    assert at_destination.runs("destination") == 3


@pytest.mark.long
def test_two_runs_together_keep_to_the_limit_of_one(
    instance: dg.DagsterInstance,
    tmp_path: Path,
    source_bucket: Bucket,
    destination_bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "_SHARE_SECONDS", 0.1)
    settings = replace(FAST, destination_requests_per_second=PUTS_PER_SECOND)
    with s3_proxy(destination_bucket.server.endpoint) as proxy:

        def copy(name: str) -> int:
            folder = tmp_path / name
            folder.mkdir()
            transfer = Transfer(folder, source_bucket, destination_bucket)
            transfer.plan([transfer.put(f"{name}/{number}", b"body") for number in range(OBJECTS)])
            limits = begun(instance)
            limits.runs("destination")
            ready.wait()
            return copy_plan(
                folder,
                storage(source_bucket, "source"),
                storage(destination_bucket, "destination", endpoint=proxy.endpoint),
                settings,
                on_progress=lambda _: None,
                stop=threading.Event(),
                sharing=limits.runs,
            ).copied

        ready = threading.Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            copied = list(pool.map(copy, ("a", "b")))
        puts = sorted(request.at for request in proxy.requests if request.kind is Kind.PUT)
    assert copied == [OBJECTS, OBJECTS]
    # Each run has a second's requests in advance.
    assert len(puts) - 2 * PUTS_PER_SECOND <= 1.1 * PUTS_PER_SECOND * (puts[-1] - puts[0])
