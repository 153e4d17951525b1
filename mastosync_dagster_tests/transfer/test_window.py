"""Windows follow what servers bear, rates hold on average, and bodies stay within the budget of memory."""

from __future__ import annotations

import threading
from timeit import timeit
from typing import NamedTuple

import pytest

from mastosync_dagster.transfer.window import Gate, MemoryBudget, NeedsRoomError, RateLimit, Window


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def grow(window: Window, successes: int) -> None:
    for _ in range(successes):
        window.success()


def test_a_window_starts_at_its_maximum_and_has_nothing_to_learn_from_success() -> None:
    window = Window(64)
    assert (window.size, window.growing, window.reductions, window.lowest) == (64, False, 0, 64)


def test_trouble_halves_a_window_down_to_its_minimum() -> None:
    window = Window(64, minimum=4)
    sizes = []
    for _ in range(6):
        window.trouble(window.epoch)
        sizes.append(window.size)
    assert sizes == [32, 16, 8, 4, 4, 4]
    assert (window.reductions, window.lowest, window.growing) == (4, 4, True)


def test_requests_sent_before_a_reduction_reduce_no_further() -> None:
    window = Window(64)
    epoch = window.epoch
    assert [window.trouble(epoch) for _ in range(64)] == [True] + [False] * 63
    assert window.size == 32
    assert window.trouble(window.epoch)


def test_a_window_grows_by_one_for_each_window_of_successes() -> None:
    window = Window(8, minimum=2)
    window.trouble(window.epoch)
    grow(window, 3)
    assert window.size == 4
    grow(window, 1)
    assert window.size == 5
    grow(window, 5)
    assert window.size == 6
    grow(window, 100)
    assert (window.size, window.growing, window.lowest) == (8, False, 4)


def test_trouble_takes_back_the_credit_of_earlier_successes() -> None:
    window = Window(8, minimum=2)
    window.trouble(window.epoch)
    grow(window, 3)
    window.trouble(window.epoch)
    grow(window, 1)
    assert window.size == 2


@pytest.mark.parametrize(("maximum", "minimum", "adaptive", "lowest"), [(3, 4, True, 3), (64, 4, False, 64)])
def test_a_window_that_cannot_shrink_stays(*, maximum: int, minimum: int, adaptive: bool, lowest: int) -> None:
    window = Window(maximum, minimum=minimum, adaptive=adaptive)
    window.trouble(window.epoch)
    assert (window.size, window.reductions) == (lowest, 0)


class Fixed(NamedTuple):
    """A limit that does not change."""

    size: int


def test_the_gate_follows_both_windows_and_wakes_those_it_lets_in() -> None:
    source, destination = Window(8), Window(8)
    gate = Gate((source, destination), Fixed(64))
    assert gate.active == 16
    destination.trouble(destination.epoch)
    gate.refresh()
    assert gate.active == 12
    passed = threading.Event()

    def worker() -> None:
        gate.wait(12)
        passed.set()

    thread = threading.Thread(target=worker)
    thread.start()
    assert not passed.wait(0.05)
    grow(destination, 4)
    gate.refresh()
    assert passed.wait(5)
    thread.join()


def test_no_more_workers_than_are_of_use_pass_the_gate() -> None:
    assert Gate((Window(64), Window(64)), Fixed(16)).active == 16


class Visitors:
    """Threads that take places in a window, and hold them until they are let go."""

    def __init__(self, window: Window, number: int) -> None:
        self.window = window
        self.inside = self.most_inside = self.entered = self.refused = 0
        self.lock = threading.Lock()
        self.go = threading.Semaphore(0)
        self.changed = threading.Condition(self.lock)
        self.threads = [threading.Thread(target=self.visit) for _ in range(number)]
        for thread in self.threads:
            thread.start()

    def visit(self) -> None:
        entered = self.window.enter()
        with self.changed:
            self.refused += not entered
            self.entered += entered
            self.inside += entered
            self.most_inside = max(self.most_inside, self.inside)
            self.changed.notify_all()
        if entered:
            self.go.acquire()
            with self.changed:
                self.inside -= 1
                self.changed.notify_all()
            self.window.leave()

    def await_entered(self, number: int, *, inside: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: (self.entered, self.inside) == (number, inside), 5)

    def end(self) -> None:
        for _ in self.threads:
            self.go.release()
        for thread in self.threads:
            thread.join(5)
        assert not any(thread.is_alive() for thread in self.threads)


def test_no_more_are_in_flight_than_the_window_has_places() -> None:
    window = Window(4)
    visitors = Visitors(window, 20)
    visitors.await_entered(4, inside=4)
    assert window.taken == 4
    visitors.end()
    assert (visitors.most_inside, visitors.refused, window.taken) == (4, 0, 0)


def test_a_window_that_shrinks_lets_nobody_in_until_enough_have_left_and_one_that_grows_wakes_another() -> None:
    window = Window(4, minimum=1)
    visitors = Visitors(window, 10)
    visitors.await_entered(4, inside=4)
    window.trouble(window.epoch)
    for left in (3, 2):
        visitors.go.release()
        visitors.await_entered(4, inside=left)
    visitors.go.release()
    visitors.await_entered(5, inside=2)
    grow(window, 2)
    visitors.await_entered(6, inside=3)
    visitors.end()


def test_a_closed_window_sends_away_who_waits_and_who_comes() -> None:
    window = Window(2)
    visitors = Visitors(window, 5)
    visitors.await_entered(2, inside=2)
    window.close()
    visitors.end()
    assert (visitors.refused, visitors.most_inside) == (3, 2)
    assert not window.enter()


def test_a_released_gate_lets_everybody_through() -> None:
    window = Window(8)
    window.trouble(window.epoch)
    gate = Gate((window,), Fixed(8))
    threads = [threading.Thread(target=gate.wait, args=(7,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    gate.release()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)


def test_a_rate_limit_gives_a_second_in_advance_and_then_its_rate() -> None:
    clock = Clock()
    limit = RateLimit(10, clock=clock)
    assert [limit.reserve(1) for _ in range(10)] == [0] * 10
    assert limit.reserve(1) == pytest.approx(0.1)
    assert limit.reserve(1) == pytest.approx(0.2)
    clock.now += 0.2
    assert limit.reserve(1) == pytest.approx(0.1)
    clock.now += 100
    assert [limit.reserve(1) for _ in range(11)] == [0] * 10 + [pytest.approx(0.1)]


def test_an_amount_above_a_seconds_rate_is_paid_by_those_who_come_later() -> None:
    clock = Clock()
    limit = RateLimit(1000, clock=clock)
    assert limit.reserve(5000) == pytest.approx(4)
    clock.now += 4
    assert limit.reserve(100) == pytest.approx(0.1)


def test_a_stop_ends_the_wait_for_a_rate() -> None:
    stop = threading.Event()
    stop.set()
    RateLimit(0.001).take(1000, stop)


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


def test_asking_whether_one_may_work_costs_next_to_nothing() -> None:
    gate = Gate((Window(64), Window(64)), Fixed(64))
    window = Window(64)

    def ask() -> bool:
        window.enter()
        window.leave()
        return gate.active > 5 and not window.growing

    assert min(timeit(ask, number=10_000) for _ in range(5)) / 10_000 < 1e-5
