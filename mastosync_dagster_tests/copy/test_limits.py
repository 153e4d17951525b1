"""Windows follow what servers bear, rates hold on average, and bodies stay within the budget of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.copy import engine
from mastosync_dagster.copy.limits import MemoryBudget, Pace, RateLimit, Window
from mastosync_dagster.s3.loop import Loop
from mastosync_dagster_tests.support.transfers import line

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOP = Loop("unused")


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def loop() -> Iterator[Loop]:
    running = Loop("test")
    yield running
    running.close()


def grow(window: Window, successes: int) -> None:
    for _ in range(successes):
        window.on_success()


def test_a_window_starts_at_its_maximum_and_has_nothing_to_learn_from_success() -> None:
    window = Window(LOOP, 64)
    assert (window.size, window.growing, window.reductions, window.lowest) == (64, False, 0, 64)


def test_throttling_halves_a_window_down_to_its_minimum() -> None:
    window = Window(LOOP, 64, minimum=4)
    sizes = []
    for _ in range(6):
        window.on_throttle(window.epoch)
        sizes.append(window.size)
    assert sizes == [32, 16, 8, 4, 4, 4]
    assert (window.reductions, window.lowest, window.growing) == (4, 4, True)


def test_requests_sent_before_a_reduction_reduce_no_further() -> None:
    window = Window(LOOP, 64)
    epoch = window.epoch
    for _ in range(64):
        window.on_throttle(epoch)
    assert window.size == 32
    window.on_throttle(window.epoch)
    assert window.size == 16


def test_a_window_grows_by_one_for_each_window_of_successes() -> None:
    window = Window(LOOP, 8, minimum=2)
    window.on_throttle(window.epoch)
    grow(window, 3)
    assert window.size == 4
    grow(window, 1)
    assert window.size == 5
    grow(window, 5)
    assert window.size == 6
    grow(window, 100)
    assert (window.size, window.growing, window.lowest) == (8, False, 4)


def test_throttling_takes_back_the_credit_of_earlier_successes() -> None:
    window = Window(LOOP, 8, minimum=2)
    window.on_throttle(window.epoch)
    grow(window, 3)
    window.on_throttle(window.epoch)
    grow(window, 1)
    assert window.size == 2


@pytest.mark.parametrize(("maximum", "minimum", "adaptive", "lowest"), [(3, 4, True, 3), (64, 4, False, 64)])
def test_a_window_that_cannot_shrink_stays(*, maximum: int, minimum: int, adaptive: bool, lowest: int) -> None:
    window = Window(LOOP, maximum, minimum=minimum, adaptive=adaptive)
    window.on_throttle(window.epoch)
    assert (window.size, window.reductions) == (lowest, 0)


class Visitors:
    """Coroutines that take slots of a window, and hold them until they are let go."""

    def __init__(self, loop: Loop, window: Window) -> None:
        self.loop = loop
        self.window = window
        self.entered = self.inside = self.most_inside = self.allowed = 0

    async def visit(self) -> None:
        await self.window.enter()
        self.entered += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        while not self.allowed:
            await self.loop.sleep(0.001)
        self.allowed -= 1
        self.inside -= 1
        self.window.leave()

    async def let_go(self, number: int) -> None:
        self.allowed += number
        while self.allowed:
            await self.loop.sleep(0.001)
        await self.loop.sleep(0.001)


def test_no_more_are_in_flight_than_the_window_has_slots(loop: Loop) -> None:
    window = Window(loop, 4)
    visitors = Visitors(loop, window)

    async def live() -> None:
        for _ in range(20):
            loop.spawn(visitors.visit())
        await loop.sleep(0.01)
        assert (visitors.inside, window.taken) == (4, 4)
        await visitors.let_go(20)

    loop.run(live())
    assert (visitors.entered, visitors.most_inside, window.taken) == (20, 4, 0)


def test_a_window_that_shrinks_lets_nobody_in_until_enough_have_left_and_one_that_grows_wakes_another(
    loop: Loop,
) -> None:
    window = Window(loop, 4, minimum=1)
    visitors = Visitors(loop, window)

    async def live() -> None:
        for _ in range(10):
            loop.spawn(visitors.visit())
        await loop.sleep(0.01)
        window.on_throttle(window.epoch)
        for left in (3, 2):
            await visitors.let_go(1)
            assert (visitors.entered, visitors.inside) == (4, left)
        await visitors.let_go(1)
        assert (visitors.entered, visitors.inside) == (5, 2)
        grow(window, 2)
        await loop.sleep(0.01)
        assert (visitors.entered, visitors.inside) == (6, 3)
        await visitors.let_go(7)

    loop.run(live())
    assert window.taken == 0


def test_who_is_cancelled_while_waiting_for_a_slot_takes_none(loop: Loop) -> None:
    window = Window(loop, 1)
    visitors = Visitors(loop, window)

    async def live() -> None:
        first, second, third = (loop.spawn(visitors.visit()) for _ in range(3))
        await loop.sleep(0.01)
        loop.cancel(second)
        await visitors.let_go(1)
        assert (first.done, second.done, third.done, visitors.inside) == (True, True, False, 1)
        await visitors.let_go(1)

    loop.run(live())
    assert (visitors.entered, window.taken) == (2, 0)


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


def test_a_shared_rate_limit_gives_an_equal_part_and_the_whole_again_when_the_others_have_ended() -> None:
    clock = Clock()
    limit = RateLimit(10, clock=clock)
    limit.share(5)
    clock.now += 100
    assert [limit.reserve(1) for _ in range(3)] == [0, 0, pytest.approx(0.5)]
    limit.share(1)
    clock.now += 100
    assert [limit.reserve(1) for _ in range(11)] == [0] * 10 + [pytest.approx(0.1)]


def test_an_amount_above_a_seconds_rate_is_paid_by_those_who_come_later() -> None:
    clock = Clock()
    limit = RateLimit(1000, clock=clock)
    assert limit.reserve(5000) == pytest.approx(4)
    clock.now += 4
    assert limit.reserve(100) == pytest.approx(0.1)


def test_bodies_wait_for_memory_in_the_order_of_asking(loop: Loop) -> None:
    budget = MemoryBudget(loop, 1000)
    order: list[int] = []

    async def hold(size: int) -> None:
        held = await budget.take(size)
        order.append(size)
        await loop.sleep(0.01)
        budget.give_back(held)

    async def live() -> None:
        for size in (600, 500, 100, 5000, 200):
            loop.spawn(hold(size))
        await loop.sleep(0.005)
        # The third would fit, and does not overtake: a large one would wait for ever.
        assert order == [600]
        while len(order) < 5:
            await loop.sleep(0.005)
        await loop.sleep(0.02)

    loop.run(live())
    assert order == [600, 500, 100, 5000, 200]


def test_small_objects_behind_many_large_ones_are_left_to_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_LARGE_WAITING", 1)
    large = [line(f"large-{number}", size=100) for number in range(3)]
    small = [line(f"small-{number}", size=1) for number in range(2)]
    queue = engine._Queue(iter([large, small]), 10, 1)
    assert queue.take() == (large[0], True)
    assert (queue.take(), queue.has_more) == (None, True)
    queue.finish_large()
    assert queue.take() == (large[1], True)
    queue.finish_large()
    assert queue.take() == (large[2], True)
    assert [queue.take(), queue.take()] == [(each, False) for each in small]
    assert (queue.take(), queue.has_more) == (None, False)


def test_a_server_that_throttled_for_some_seconds_is_soon_asked_as_often_as_before() -> None:
    clock = Clock()
    pace = Pace(LOOP, clock=clock)
    clock.now += 60
    for answered in range(60_000, 60_030):
        pace.on_throttle(answered)
        clock.now += 0.1
    assert pace.rate < 50
    clock.now += 20
    assert pace.rate > 100
    clock.now += 40
    assert pace.rate > 750


def test_a_server_that_bears_few_requests_is_asked_for_little_more_than_that() -> None:
    clock = Clock()
    pace, answered = Pace(LOOP, clock=clock), 0
    for _ in range(20):
        clock.now += 3
        answered += 3 * 60
        pace.on_throttle(answered)
    clock.now += 3
    assert 48 < pace.rate < 65
