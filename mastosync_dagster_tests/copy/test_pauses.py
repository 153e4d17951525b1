"""A copy that pauses begins nothing, ends what is under way, goes on, and can be ended."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from mastosync_dagster.copy import engine
from mastosync_dagster.copy.endpoint import SilenceWatch
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.proxy import Delay, Kind, Rule, s3_proxy
from mastosync_dagster_tests.support.transfers import FAST, Transfer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mastosync_dagster.records.plan import PlannedCopy
    from mastosync_dagster.s3.errors import StorageError
    from mastosync_dagster_tests.support.corners import Bucket

OBJECTS = 300


@pytest.fixture
def transfer(
    tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> Transfer:
    monkeypatch.setattr(engine, "_PROGRESS_SECONDS", 0.2)
    slow = replace(FAST, concurrency=8, destination_requests_per_second=200.0)
    return Transfer(tmp_path, source_bucket, destination_bucket, settings=slow)


def planned(transfer: Transfer) -> list[PlannedCopy]:
    return [transfer.put(f"a/{number:03}", str(number).encode()) for number in range(OBJECTS)]


def paused_at(transfer: Transfer, then: Callable[[], bool], looks: int = 8) -> list[int]:
    """Pause the copy at its first look, for so many looks. Returns a list that gets how much was copied at each."""
    copied: list[int] = []

    def pause() -> bool:
        copied.append(len(transfer.keys()))
        return len(copied) <= looks or then()

    transfer.pause = pause
    return copied


def test_a_paused_copy_begins_nothing_and_goes_on(transfer: Transfer) -> None:
    copied = paused_at(transfer, lambda: False)
    counts, _ = transfer.run(*planned(transfer))
    # What was under way has arrived since the second look: as many are read as are written.
    assert copied[7] - copied[1] <= 2 * transfer.settings.concurrency
    assert copied[7] < OBJECTS
    assert counts.copied == len(transfer.keys()) == OBJECTS


def test_a_paused_copy_can_be_ended(transfer: Transfer) -> None:
    def end() -> bool:
        transfer.stop.set()
        return True

    copied = paused_at(transfer, end)
    counts, lines = transfer.run(*planned(transfer))
    assert counts.copied == copied[-1] < OBJECTS
    assert {one.reason for one in lines} == {None, Reason.NOT_ATTEMPTED}


def test_a_copy_with_nothing_left_to_begin_ends_though_it_is_to_pause(transfer: Transfer) -> None:
    with s3_proxy(transfer.destination.server.endpoint) as proxy:
        proxy.set_rules(Rule(Delay(0.7), kinds=frozenset({Kind.PUT})))
        transfer.destination_options = {"endpoint": proxy.endpoint}
        transfer.settings = FAST
        transfer.pause = lambda: True
        counts, _ = transfer.run(*(transfer.put(f"a/{number}", b"body") for number in range(3)))
    assert counts.copied == 3


@pytest.mark.parametrize("pauses", [True, False])
def test_an_endpoint_that_nothing_is_asked_of_does_not_fall_silent(*, pauses: bool) -> None:
    ended: list[StorageError] = []
    # A connection that does not stand yet.
    client = SimpleNamespace(transfers=[SimpleNamespace(getinfo=lambda _: -1)], answers=0)
    endpoint = SimpleNamespace(client=client, storage=SimpleNamespace(settings=SimpleNamespace(name="s", server="h")))
    watch = SilenceWatch(
        cast("Any", endpoint), longest=100, say=lambda _: None, end_run=ended.append, pauses=lambda: pauses
    )
    watch.check(0)
    client.transfers.clear()
    watch.check(50)
    watch.check(150)
    assert bool(ended) is not pauses
