"""How fast the copies of earlier runs were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mastosync_dagster.runs.watermarks import RangeRead


@dataclass(frozen=True, slots=True)
class Rate:
    """How many objects and bytes a run copies per second; None: not known. ``given``: by the admin, not measured."""

    objects: float | None
    bytes: float | None
    given: bool = False


def measured_rate(reads: Iterable[RangeRead]) -> Rate:
    """Return the rate of earlier runs over ID ranges that copied something."""
    copied = size = seconds = 0.0
    for read in reads:
        if read.numbers.get("copied"):
            copied += read.numbers["copied"]
            size += read.numbers.get("bytes", 0)
            seconds += read.numbers.get("seconds", 0)
    return Rate(copied / seconds, size / seconds) if seconds else Rate(None, None)
