"""A run stops before it has copied or spent more than it may, and the next one goes on."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.copy.spending import (
    LARGER_THAN_THE_BUDGET,
    Admission,
    Budget,
    Limits,
    Prices,
    Spending,
    make_budget,
)
from mastosync_dagster.environment import SettingsError
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.transfers import FAST, Transfer

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket

MIB = 2**20
FREE = Prices(list=0, put=0, get=0, egress=0, month=0)
DEAR = Prices(list=1, put=1, get=0.5, egress=100, month=0)


@pytest.fixture
def transfer(tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket) -> Transfer:
    return Transfer(tmp_path, source_bucket, destination_bucket)


@pytest.mark.parametrize("known", [True, False])
def test_bytes_are_never_more_and_a_further_run_goes_on(transfer: Transfer, *, known: bool) -> None:
    planned = [transfer.put(f"a/{number:03}", os.urandom(1000)) for number in range(60)]
    if not known:
        planned = [line._replace(size=None, etag=None) for line in planned]
    transfer.settings = replace(FAST, budget=Budget(bytes=25_500))
    counts, lines = transfer.run(*planned)
    assert (counts.copied, counts.failed, counts.bytes) == (25, 35, 25_000)
    assert counts.stopped is not None
    assert "a further run takes the rest" in str(counts.stopped)
    rest = [line for line in lines if line.outcome is Outcome.FAILED]
    assert {line.reason for line in rest} == {Reason.NOT_ATTEMPTED}
    assert len(lines) == 60
    assert transfer.keys() == {line.key for line in lines if line.outcome is Outcome.COPIED}

    there = transfer.keys()
    left = [line for line in planned if line.key not in there]
    counts, _ = transfer.run(*left)
    assert counts.copied == 25
    assert len(transfer.keys()) == 50


def test_an_object_larger_than_the_budget_holds_up_none_of_the_others(transfer: Transfer) -> None:
    planned = [transfer.put("a/large", os.urandom(17 * MIB)), transfer.put("a/small", b"1"), transfer.put("b", b"22")]
    transfer.settings = replace(FAST, budget=Budget(bytes=MIB))
    counts, lines = transfer.run(*planned)
    assert (counts.copied, counts.failed, counts.stopped) == (2, 1, None)
    assert lines[0].detail == LARGER_THAN_THE_BUDGET
    assert transfer.keys() == {"a/small", "b"}


def test_dollars_are_those_of_requests_and_traffic(transfer: Transfer) -> None:
    planned = [transfer.put(f"a/{number:03}", os.urandom(10_000)) for number in range(20)]
    # Each object: half a thousandth for the GET, one for the PUT, and one for its bytes.
    transfer.settings = replace(FAST, budget=Budget(dollars=0.0101, source=DEAR, destination=DEAR))
    counts, _ = transfer.run(*planned)
    assert (counts.copied, counts.failed) == (4, 16)


def test_what_planning_has_cost_counts(tmp_path: Path) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text("dear: {list: 1, put: 1, get: 0.5, egress: 0, month: 0}\n", "utf-8")
    budget = make_budget(Limits(None, 0.005, "dear", "dear", str(table)), lists=2, gets=2, acls=1)
    assert budget is not None
    assert budget.spent == pytest.approx(0.0045)
    assert Spending(budget).admit(1) is Admission.NO


def test_a_limit_of_dollars_without_prices_is_refused() -> None:
    with pytest.raises(SettingsError, match="Name source and destination"):
        make_budget(Limits(None, 5, "free", "free", None))
    assert make_budget(Limits(None, None, "free", "free", None)) is None
    assert make_budget(Limits(2.5, None, "free", "free", None)) is not None


def test_no_order_of_sizes_gets_beyond_the_limit() -> None:
    spending, under_way, total = Spending(Budget(bytes=100 * MIB)), [], 0
    for size in (5, 1, 40, 2, 60, 3, 7, 50, 1, 1, 9, 2):
        if spending.admit(size * MIB) is Admission.YES:
            under_way.append(size * MIB)
        if len(under_way) > 2:
            done = under_way.pop(0)
            total += done // 2
            spending.settle(done, done // 2)
    assert 50 * MIB < total + sum(under_way) <= 100 * MIB
