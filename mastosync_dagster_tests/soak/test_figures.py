"""The soak's bars see what grows, and let pass what does not."""

from __future__ import annotations

import pytest

from mastosync_dagster_tests.soak.figures import Growth, part_seconds

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
    assert not over(hours).most_grows


@pytest.mark.parametrize(("hours", "an_hour"), [(1.75, 6.0), (8, 0.7)])
def test_two_percent_are_seen(hours: float, an_hour: float) -> None:
    grown = over(hours, an_hour=an_hour)
    assert grown.mean_grows
    assert grown.most_grows


def test_the_parts_are_hours_of_long_soaks_and_quarters_of_short_ones() -> None:
    assert part_seconds(8 * HOUR) == HOUR
    assert part_seconds(2 * HOUR) == HOUR / 2
