"""Whatever the servers do, every object arrives as it was within three runs, and the manifest says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.faults.runner import carry_out
from mastosync_dagster_tests.faults.scenarios import MIXED, SINGLE, Scenario
from mastosync_dagster_tests.support.proxy import Delay

if TYPE_CHECKING:
    from collections.abc import Callable

    from mastosync_dagster_tests.faults.world import FaultyInstallation, Original


def check(scenario: Scenario, world: FaultyInstallation, report: Callable[[object], None]) -> None:
    """Carry a scenario out, and hold it to what is promised."""
    verdict = carry_out(scenario, world)
    report(verdict)
    assert verdict.problems == {}
    # (Delays are not counted.)
    delays = all(isinstance(rule.fault, Delay) for rule in (*scenario.source, *scenario.destination))
    assert verdict.injected or (delays and not (scenario.source_outage or scenario.destination_outage))
    if scenario is not MIXED:
        assert verdict.unused == ()


@pytest.mark.long(cases=0)
def test_nothing_is_lost_under_a_mix_of_faults(
    some: Original, make_world: Callable[[Original], FaultyInstallation], report: Callable[[object], None]
) -> None:
    check(MIXED, make_world(some), report)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", SINGLE, ids=lambda scenario: scenario.name)
def test_nothing_is_lost_under(
    scenario: Scenario,
    request: pytest.FixtureRequest,
    make_world: Callable[[Original], FaultyInstallation],
    report: Callable[[object], None],
) -> None:
    original: Original = request.getfixturevalue("few" if scenario.small else "thousand")
    check(scenario, make_world(original), report)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_nothing_of_ten_thousand_is_lost_under_a_mix_of_faults(
    ten_thousand: Original,
    make_world: Callable[[Original], FaultyInstallation],
    report: Callable[[object], None],
) -> None:
    check(MIXED, make_world(ten_thousand), report)
