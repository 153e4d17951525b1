"""The machine lives through thousands of steps, and finds no divergence; with a model that is wrong, it finds one."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from mastosync_dagster_tests.model.machine import Lives
from mastosync_dagster_tests.model.truth import Mistake
from mastosync_dagster_tests.model.world import model_world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster_tests.model.world import World

STEPS = int(os.environ.get("STEPS", "10000"))
SEED = int(os.environ.get("SEED", "1"))
LIFE = 100
"""Steps of a life."""
OF_A_SEED = 1000
SEEDS_APART = 1_000_000


@pytest.fixture(scope="module")
def model(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The servers."""
    with model_world(postgres_server, tmp_path_factory.mktemp("model")) as world:
        yield world


def live(
    world: World, number: int, steps: int, *, mistake: Mistake | None = None, life: int = LIFE
) -> tuple[list[list[str]], Counter[str]]:
    """Live through some lives by a seed; return what happened in each, and how often each rule ran."""
    lives: list[list[str]] = []
    world.steps.clear()
    machine = seed(number)(type("OfASeed", (Lives,), {"world": world, "mistake": mistake, "lives": lives}))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=steps // life + 2,  # of which Hypothesis makes two empty ones
            stateful_step_count=life,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    return lives, world.steps


_LIFE_STEPS = ("good night", "night killed", "night terminated", "bad night", "run held up", "every row", "refetch")
OFTEN = (
    *_LIFE_STEPS,
    "post",
    "late row",
    "remote post",
    "another avatar",
    "suspend",
    "unsuspend",
    "delete post",
    "upload video",
    "convert video",
    "the source loses",
    "the source has again",
    "the source rots",
    "somebody hides",
    "backup",
    "restore",
    "range",
    "verify",
    "prune",
    "switch",
)
"""What a machine that does something does now and then: rules whose preconditions never hold would make it empty."""


def report_steps(report: Callable[[object], None], number: int, counts: Counter[str], began: float) -> None:
    rules = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    report(f"MODEL seed {number}: {counts.total()} steps in {time.monotonic() - began:.0f} s, no divergence: {rules}")


@pytest.mark.early
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [SEED, SEED + 1])
def test_three_hundred_steps_by_the_model(number: int, model: World, report: Callable[[object], None]) -> None:
    began, counts = time.monotonic(), Counter[str]()
    for again in range(5):
        # Hypothesis ends some lives early.
        if counts.total() < 150:
            counts.update(live(model, number + again * SEEDS_APART, 100, life=50)[1])
    report_steps(report, number, counts, began)
    assert counts.total() >= 150


@pytest.mark.model
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", range(SEED, SEED + -(-STEPS // OF_A_SEED)))
def test_ten_thousand_steps_by_the_model(number: int, model: World, report: Callable[[object], None]) -> None:
    began, steps, counts = time.monotonic(), min(STEPS, OF_A_SEED), Counter[str]()
    for again in range(10):
        # Hypothesis ends some lives early, and leaves some rules out of all lives of a seed.
        if counts.total() < steps or seldom(counts, steps):
            counts.update(live(model, number + again * SEEDS_APART, max(steps - counts.total(), LIFE))[1])
    report_steps(report, number, counts, began)
    assert counts.total() >= steps
    assert not seldom(counts, steps)


def seldom(counts: Counter[str], steps: int) -> dict[str, int]:
    """Return which rules ran too seldom in so many steps, and how often."""
    return {name: counts[name] for name in OFTEN if counts[name] < steps // 500}


@pytest.mark.model
@pytest.mark.timeout(900)
def test_a_seed_repeats(model: World) -> None:
    first, _ = live(model, SEED, 10, life=10)
    again, _ = live(model, SEED, 10, life=10)
    assert first == again


FOUND_BY: dict[Mistake, Callable[[Lives], object]] = {
    Mistake.SUSPENDED_IS_PUBLIC: lambda life: life.suspend(pick=0),
    Mistake.ROT_SPREADS: lambda life: life.source_rots(pick=0, cut=False),
    Mistake.NIGHTS_SEE_LOSSES: lambda life: life.destination_loses(pick=0, how="lost"),
}


@pytest.mark.model
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mistake", Mistake)
def test_a_model_that_is_wrong_finds_a_divergence(model: World, mistake: Mistake) -> None:
    life = type("Wrong", (Lives,), {"world": model, "mistake": mistake, "lives": []})()
    try:
        life.night()
        FOUND_BY[mistake](life)
        with pytest.raises(AssertionError, match="instead of"):
            life.night()
    finally:
        life.teardown()


@pytest.mark.model
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("mistake", Mistake)
def test_a_machine_with_a_model_that_is_wrong_finds_a_divergence(model: World, mistake: Mistake) -> None:
    with pytest.raises(AssertionError, match="instead of"):
        live(model, SEED, 2000, mistake=mistake)
