"""A GET that stalls is overtaken by a second one."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster_tests.support.proxy import Kind, Rule, Stall, Trickle, s3_proxy
from mastosync_dagster_tests.support.transfers import FAST, Transfer

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket
    from mastosync_dagster_tests.support.proxy import Fault


@pytest.mark.parametrize("fault", [Stall(), Stall(20_000), Trickle(100.0)], ids=["head", "body", "trickle"])
def test_a_get_that_is_late_is_overtaken_by_a_second_one(
    tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket, fault: Fault
) -> None:
    with s3_proxy(source_bucket.server.endpoint) as proxy:
        transfer = Transfer(tmp_path, source_bucket, destination_bucket, settings=replace(FAST))
        transfer.source_options = {"endpoint": proxy.endpoint}
        bodies = {f"a/{number:03}": f"{number}".encode() * 10_000 for number in range(100)}
        planned = [transfer.put(key, body) for key, body in bodies.items()]
        proxy.set_rules(Rule(fault, kinds=frozenset({Kind.GET}), skip=50, times=3))
        started = time.monotonic()
        counts, lines = transfer.run(*planned)
        assert time.monotonic() - started < 10
        assert {one.outcome for one in lines} == {Outcome.COPIED}
        assert {key: transfer.fetched(key) for key in bodies} == bodies
        assert counts.hedged == 3
        assert counts.source.retries == {}
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
