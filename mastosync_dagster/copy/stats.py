"""Numbers about a copy, while it goes on and at its end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mastosync_dagster.copy.endpoint import Endpoint
    from mastosync_dagster.s3.errors import StorageError

_RATE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """Where a copy is.

    Attributes:
        total: Objects of the plan.
        total_bytes: Their bytes, as far as the plan knows.
        copied: Objects copied.
        present: Objects that the destination has and the source does not, where the plan had not asked.
        missing: Objects that the source does not have.
        failed: Objects not copied.
        bytes: Bytes copied.
        seconds: Since the beginning.
        objects_per_second: Objects done, over the last ten seconds.
        bytes_per_second: Bytes copied, over the last ten seconds.
        source_window: Requests to the source allowed at once, now.
        destination_window: Requests to the destination allowed at once, now.
    """

    total: int
    total_bytes: int
    copied: int
    present: int
    missing: int
    failed: int
    bytes: int
    seconds: float
    objects_per_second: float
    bytes_per_second: float
    source_window: int
    destination_window: int

    @property
    def done(self) -> int:
        """Objects with an outcome."""
        return self.copied + self.present + self.missing + self.failed


@dataclass(frozen=True, slots=True)
class SideCounts:
    """What the copy met at one side.

    Attributes:
        window: Requests allowed at once, at the end.
        lowest_window: The fewest that were allowed.
        reductions: How many times the window was reduced.
        retries: Requests that were repeated, by the reason of the failure (`Reason`'s values).
    """

    window: int
    lowest_window: int
    reductions: int
    retries: dict[str, int]

    @classmethod
    def of(cls, side: Endpoint) -> SideCounts:
        """Return what a side's window and retries show."""
        return cls(
            window=side.window.size,
            lowest_window=side.window.lowest,
            reductions=side.window.reductions,
            retries={reason.value: count for reason, count in side.retries.items()},
        )


@dataclass(frozen=True, slots=True)
class CopyCounts:
    """What a copy came to.

    Attributes:
        copied: Objects copied.
        present: Objects that the destination has and the source does not, where the plan had not asked.
        missing: Objects that the source does not have.
        failed: Objects not copied, those not attempted included.
        bytes: Bytes copied.
        copied_on_server: Objects of these that the server copied by itself: their bodies did not pass through here.
        hedged: GETs that were sent beside one that was late.
        hashed_bytes: Bytes of bodies that were hashed here; the destination has proven the others.
        seconds: Wall time.
        source: What it met at the source.
        destination: What it met at the destination.
        stopped: The error that ended it early; None: it went through, or was stopped from outside.
    """

    copied: int
    present: int
    missing: int
    failed: int
    bytes: int
    copied_on_server: int
    hedged: int
    hashed_bytes: int
    seconds: float
    source: SideCounts
    destination: SideCounts
    stopped: StorageError | None

    @property
    def repeated(self) -> dict[str, int]:
        """Requests that were repeated, by side."""
        sides = {"source": self.source, "destination": self.destination}
        return {name: sum(side.retries.values()) for name, side in sides.items()}

    def figures(self) -> dict[str, int | float]:
        """Return what the sides bore, by name, for metadata."""
        figures: dict[str, int | float] = {"hashed_bytes": self.hashed_bytes, "hedged_requests": self.hedged}
        if self.copied_on_server:
            figures["copied_on_server"] = self.copied_on_server
        for name, side in (("source", self.source), ("destination", self.destination)):
            figures[f"{name}_window"] = side.window
            figures[f"{name}_window_lowest"] = side.lowest_window
            figures[f"{name}_window_reductions"] = side.reductions
            figures[f"{name}_retries"] = self.repeated[name]
            figures.update({f"{name}_retries_{reason}": count for reason, count in sorted(side.retries.items())})
        return figures


@dataclass
class Rate:
    """Speed over the last seconds."""

    samples: deque[tuple[float, int, int]] = field(default_factory=deque)

    def add(self, now: float, objects: int, size: int) -> tuple[float, float]:
        """Take the totals at a moment. Returns objects and bytes per second."""
        self.samples.append((now, objects, size))
        while now - self.samples[0][0] > _RATE_SECONDS and len(self.samples) > 2:  # noqa: PLR2004  (a rate needs two)
            self.samples.popleft()
        at, objects_before, size_before = self.samples[0]
        span = max(now - at, 1e-3)
        return (objects - objects_before) / span, (size - size_before) / span
