"""Threads that fetch files stay within a budget of memory."""

from __future__ import annotations

import threading

from mastosync_dagster.refetch.memory_budget import MemoryBudget


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


def test_a_body_above_the_whole_budget_takes_all_of_it() -> None:
    budget = MemoryBudget(1000, threads=10)
    got = threading.Event()

    def second() -> None:
        with budget.hold(51, threading.Event()):
            got.set()

    thread = threading.Thread(target=second)
    with budget.hold(10_000, threading.Event()):
        thread.start()
        assert not got.wait(0.05)
    assert got.wait(5)
    thread.join()


def test_a_stop_ends_the_wait_for_memory() -> None:
    budget = MemoryBudget(1000, threads=10)
    stop = threading.Event()
    stop.set()
    with budget.hold(500, stop), budget.hold(500, stop):
        pass
