"""The soak's bars see what grows, and let pass what does not."""

from __future__ import annotations

import pytest

from mastosync_dagster_tests.soak.growth import Growth, part_seconds

HOUR = 3600.0


def over(hours: float, *, at_first: float = 200, an_hour: float = 0) -> Growth:
    """A value that grows by so much an hour, measured every half minute, and warms up in the first quarter."""
    seconds = hours * HOUR
    times = [30.0 * number for number in range(int(seconds / 30))]
    warm = [(at, at_first + an_hour * at / HOUR - (50 if at < part_seconds(seconds) / 2 else 0)) for at in times]
    return Growth.of(warm, seconds)


@pytest.mark.parametrize("hours", [1.75, 8])
def test_what_stays_as_it_is_does_not_grow(hours: float) -> None:
    assert not over(hours).mean_grows
    assert not over(hours).rises_above


@pytest.mark.parametrize(("hours", "an_hour"), [(1.75, 6.0), (8, 0.7)])
def test_two_percent_are_seen(hours: float, an_hour: float) -> None:
    grown = over(hours, an_hour=an_hour)
    assert grown.mean_grows


@pytest.mark.parametrize(("hours", "an_hour"), [(1.75, 20.0), (8, 1.5)])
def test_descriptors_that_are_not_closed_are_seen_among_those_that_are(hours: float, an_hour: float) -> None:
    """They go up and down by eight with the runs; the second is a descriptor that stays in every fortieth night."""
    seconds = hours * HOUR
    times = [30.0 * number for number in range(int(seconds / 30))]
    counts = [(at, 15 + 8 * (at % 90 == 0) + int(an_hour * at / HOUR)) for at in times]
    assert Growth.of(counts, seconds).rises_above
    assert not Growth.of([(at, 15 + 8 * (at % 90 == 0)) for at in times], seconds).rises_above


def test_the_parts_are_hours_of_long_soaks_and_quarters_of_short_ones() -> None:
    assert part_seconds(8 * HOUR) == HOUR
    assert part_seconds(2 * HOUR) == HOUR / 2
