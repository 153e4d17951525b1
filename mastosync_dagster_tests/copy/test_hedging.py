"""A GET that stalls is overtaken by a second one."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster_tests.support.proxy import Delay, Kind, Rule, Stall, Trickle, s3_proxy
from mastosync_dagster_tests.support.transfers import FAST, Transfer

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket
    from mastosync_dagster_tests.support.proxy import Fault


@pytest.mark.parametrize(
    ("fault", "size"),
    [
        pytest.param(Stall(), 30_000, id="head"),
        pytest.param(Stall(20_000), 30_000, id="body"),
        pytest.param(Trickle(100.0), 30_000, id="trickle"),
        # Of these, the second request is for the head, and one body is read.
        pytest.param(Stall(), 300_000, id="head of a large body"),
        pytest.param(Stall(), 3_000_000, id="head of a body of megabytes"),
    ],
)
def test_a_get_that_is_late_is_overtaken_by_a_second_one(
    tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket, fault: Fault, size: int
) -> None:
    with s3_proxy(source_bucket.server.endpoint) as proxy:
        transfer = Transfer(tmp_path, source_bucket, destination_bucket, settings=replace(FAST))
        transfer.source_options = {"endpoint": proxy.endpoint}
        bodies = {f"a/{number:03}": bytes([number]) * size for number in range(40)}
        planned = [transfer.put(key, body) for key, body in bodies.items()]
        proxy.set_rules(Rule(fault, kinds=frozenset({Kind.GET}), skip=20, times=3))
        started = time.monotonic()
        counts, lines = transfer.run(*planned)
        assert time.monotonic() - started < 10
        assert {one.outcome for one in lines} == {Outcome.COPIED}
        assert {key: transfer.fetched(key) for key in bodies} == bodies
        assert (counts.hedged, counts.source.retries) == (3, {})
        assert counts.bytes == 40 * size
        with contextlib.suppress(OSError):
            proxy.close_connections()


def test_a_second_one_that_is_late_too_is_overtaken_by_a_third(
    tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket
) -> None:
    with s3_proxy(source_bucket.server.endpoint) as proxy:
        transfer = Transfer(tmp_path, source_bucket, destination_bucket, settings=replace(FAST))
        transfer.source_options = {"endpoint": proxy.endpoint}
        planned = [transfer.put(f"a/{number:03}", b"body") for number in range(100)]
        proxy.set_rules(Rule(Stall(), kinds=frozenset({Kind.GET}), key="a/070", times=2))
        started = time.monotonic()
        counts, lines = transfer.run(*planned)
        assert time.monotonic() - started < 10
        assert {one.outcome for one in lines} == {Outcome.COPIED}
        assert (counts.hedged, counts.source.retries) == (2, {})
        with contextlib.suppress(OSError):
            proxy.close_connections()


@pytest.mark.long
def test_two_heads_that_arrive_late_and_together_give_one_body(
    tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket
) -> None:
    with s3_proxy(source_bucket.server.endpoint) as proxy:
        transfer = Transfer(tmp_path, source_bucket, destination_bucket, settings=replace(FAST, concurrency=4))
        transfer.source_options = {"endpoint": proxy.endpoint}
        bodies = {f"a/{number:03}": bytes([number]) * 400_000 for number in range(60)}
        planned = [transfer.put(key, body) for key, body in bodies.items()]
        # The first ones are late by as much as it takes for a second one to be sent, and a little more or less.
        proxy.set_rules(
            *(
                Rule(Delay(0.5 + number / 100), kinds=frozenset({Kind.GET}), key=f"a/{number:03}", times=1)
                for number in range(20, 60, 3)
            )
        )
        counts, lines = transfer.run(*planned)
        assert {one.outcome for one in lines} == {Outcome.COPIED}
        assert {key: transfer.fetched(key) for key in bodies} == bodies
        assert counts.hedged > 0
        assert counts.source.retries == {}
        with contextlib.suppress(OSError):
            proxy.close_connections()
