"""Whether something has grown: the last part of a time beside its second."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_HOUR = 3600.0
_HOURS_IN_HOURS = 4
"""From so many hours on the parts are hours; of less time they are quarters."""
MOST = 1.02
"""What the last part may be of the second."""


@dataclass(frozen=True)
class Growth:
    """What was measured in the second part of a time, and in the last."""

    second: tuple[float, ...]
    last: tuple[float, ...]

    @classmethod
    def of(cls, measured: Sequence[tuple[float, float]], seconds: float) -> Growth:
        """Return it of pairs of time and value. The first part fills caches and pools."""
        part = part_seconds(seconds)
        return cls(
            tuple(value for at, value in measured if part <= at < 2 * part),
            tuple(value for at, value in measured if seconds - part <= at),
        )

    @property
    def mean_grows(self) -> bool:
        """Whether the mean of the last part is more than 2 % above that of the second."""
        return mean(self.last) > mean(self.second) * MOST

    @property
    def rises_above(self) -> bool:
        """Whether the mean of the last part is above everything in the second: for counts that go up and down."""
        return mean(self.last) > max(self.second)

    def __str__(self) -> str:
        """Return both means, the change, and both largest values."""
        before, after = mean(self.second), mean(self.last)
        change = (after / before - 1) * 100
        return (
            f"{before:.1f} -> {after:.1f} on average ({change:+.1f} %),"
            f" {max(self.second):.0f} -> {max(self.last):.0f} at most"
        )


def part_seconds(seconds: float) -> float:
    """Return the length of a part: an hour, or a quarter of less than four hours."""
    return _HOUR if seconds >= _HOURS_IN_HOURS * _HOUR else seconds / 4
