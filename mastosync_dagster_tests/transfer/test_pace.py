"""All workers where a network stands between, a few where answers come at once."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.transfer.pace import FEW, Pace

if TYPE_CHECKING:
    from collections.abc import Callable

TICK = 0.1


class World:
    """Servers that do so many objects a second, depending on how many workers ask."""

    def __init__(self, rate: Callable[[int], float], maximum: int = 128, *, adaptive: bool = True) -> None:
        self.rate = rate
        self.now = 0.0
        self.done = 0.0
        self.pace = Pace(maximum, adaptive=adaptive, clock=lambda: self.now)
        self.sizes: list[int] = [self.pace.size]

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            self.done += self.rate(self.pace.size) * TICK
            self.pace.tick(int(self.done))
            self.sizes.append(self.pace.size)

    def share_with_all(self) -> float:
        return sum(size > FEW for size in self.sizes) / len(self.sizes)


def far(size: int) -> float:
    """30 ms a request, two requests an object."""
    return size / 0.06


def near(_: int) -> float:
    """The processors are the limit, however many ask."""
    return 5000.0


def test_all_workers_start_within_moments_where_a_network_stands_between() -> None:
    world = World(far)
    world.run(0.3)
    assert world.pace.size == 128
    world.run(300)
    assert world.sizes[4:].count(FEW) == 0


def test_a_few_workers_do_where_answers_come_at_once() -> None:
    world = World(near)
    world.run(120)
    assert world.share_with_all() < 0.1


def test_all_workers_are_taken_where_they_do_more_all_the_same() -> None:
    world = World(lambda size: min(size / 0.012, 9000))
    world.run(60)
    assert world.pace.size == 128
    assert world.share_with_all() > 0.5


def test_no_more_are_taken_than_do_more() -> None:
    world = World(lambda size: min(size / 0.012, 5000))
    world.run(300)
    assert world.pace.size == 2 * FEW
    assert sum(size > 2 * FEW for size in world.sizes) / len(world.sizes) < 0.1


def test_all_workers_start_as_soon_as_answers_take_longer() -> None:
    world = World(near)
    world.run(5)
    world.rate = far
    world.run(1.1)
    assert world.pace.size == 128


def test_a_few_are_tried_again_once_answers_come_at_once() -> None:
    world = World(far)
    world.run(5)
    world.rate = near
    world.run(30)
    assert world.pace.size == FEW


def test_looks_that_change_nothing_become_rare() -> None:
    world = World(lambda size: min(size / 0.03, 9000))
    world.run(600)
    few = [number for number, size in enumerate(world.sizes) if size == FEW]
    looks = [number * TICK for before, number in zip([-10, *few], few, strict=False) if number - before > 1]
    pauses = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert pauses[:3] == sorted(pauses[:3])
    assert pauses[0] < 25
    assert all(75 < pause < 90 for pause in pauses[4:])
    assert len(pauses) > 6


def test_a_server_that_does_nothing_gets_all_workers() -> None:
    world = World(lambda _: 0.0)
    world.run(1)
    assert world.pace.size == 128


@pytest.mark.parametrize(("maximum", "adaptive"), [(8, True), (FEW, True), (128, False)])
def test_there_is_nothing_to_decide(*, maximum: int, adaptive: bool) -> None:
    world = World(near, maximum, adaptive=adaptive)
    world.run(60)
    assert set(world.sizes) == {maximum}
