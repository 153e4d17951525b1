"""Threads that fetch files stay within a budget of memory."""

from __future__ import annotations

import threading

import pytest

from mastosync_dagster.refetch.budget import MemoryBudget, NeedsRoomError


def test_small_bodies_need_no_budget_and_large_ones_wait_for_each_other() -> None:
    budget = MemoryBudget(1000, threads=10)
    stop = threading.Event()
    assert budget.share == 50
    got = threading.Event()

    def second() -> None:
        with budget.hold(300, stop):
            got.set()

    thread = threading.Thread(target=second)
    with budget.hold(300, stop):
        thread.start()
        assert not got.wait(0.05)
    assert got.wait(5)
    thread.join()


def test_a_body_above_the_whole_budget_goes_alone() -> None:
    budget = MemoryBudget(1000, threads=10)
    stop = threading.Event()
    for _ in range(2):
        with budget.hold(10_000, stop) as held:
            assert held == 500
            budget.check(20_000, held)


def test_a_body_that_turns_out_larger_than_what_is_held_does_not_wait_for_the_rest() -> None:
    budget = MemoryBudget(1000, threads=10)
    budget.check(50, 0)
    with budget.hold(100, threading.Event()) as held:
        budget.check(100, held)
        with pytest.raises(NeedsRoomError) as raised:
            budget.check(101, held)
    assert raised.value.size == 101


def test_a_stop_ends_the_wait_for_memory() -> None:
    budget = MemoryBudget(1000, threads=10)
    stop = threading.Event()
    stop.set()
    with budget.hold(500, stop), budget.hold(500, stop) as held:
        assert held == 500
