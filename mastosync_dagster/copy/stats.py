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
    """How far a copy is. Rates are those of the last ten seconds; windows are the requests allowed at once, now.

    Attributes:
        total_bytes: Of the plan's objects, as far as it knows them.
        present: Objects that the destination has and the source does not, where the plan had not asked.
        missing: Objects that the source does not have.
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
class EndpointCounts:
    """What the copy met at one endpoint.

    Attributes:
        window: Requests allowed at once, at the end.
        lowest_window: The fewest that were allowed.
        reductions: How many times the window was reduced.
        retries: Requests that were retried, by the reason of the failure (`Reason`'s values).
    """

    window: int
    lowest_window: int
    reductions: int
    retries: dict[str, int]

    @classmethod
    def of(cls, endpoint: Endpoint) -> EndpointCounts:
        """Return what an endpoint's window and retries show."""
        return cls(
            window=endpoint.window.size,
            lowest_window=endpoint.window.lowest,
            reductions=endpoint.window.reductions,
            retries={reason.value: count for reason, count in endpoint.retries.items()},
        )


@dataclass(frozen=True, slots=True)
class CopyCounts:
    """The result of a copy, in numbers.

    Attributes:
        present: Objects that the destination has and the source does not, where the plan had not asked.
        missing: Objects that the source does not have.
        failed: Objects not copied, those not attempted included.
        copied_on_server: Objects of these that the server copied by itself: their bodies did not pass through here.
        hedged: GETs that were sent beside one that was late.
        hashed_bytes: Bytes of bodies that were hashed here; the destination has proven the others.
        seconds: Wall time.
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
    source: EndpointCounts
    destination: EndpointCounts
    stopped: StorageError | None

    @property
    def repeated(self) -> dict[str, int]:
        """Requests that were retried, by storage."""
        return {name: sum(counts.retries.values()) for name, counts in self._by_name().items()}

    def _by_name(self) -> dict[str, EndpointCounts]:
        return {"source": self.source, "destination": self.destination}

    def stats(self) -> dict[str, int]:
        """Return what was measured at the endpoints, by name, for metadata."""
        stats = {"hashed_bytes": self.hashed_bytes, "hedged_requests": self.hedged}
        if self.copied_on_server:
            stats["copied_on_server"] = self.copied_on_server
        for name, counts in self._by_name().items():
            stats[f"{name}_window"] = counts.window
            stats[f"{name}_window_lowest"] = counts.lowest_window
            stats[f"{name}_window_reductions"] = counts.reductions
            stats[f"{name}_retries"] = sum(counts.retries.values())
            stats.update({f"{name}_retries_{reason}": count for reason, count in sorted(counts.retries.items())})
        return stats


@dataclass
class Rate:
    """Speed over the last seconds, or since the start where that is less."""

    started: float
    _samples: deque[tuple[float, int, int]] = field(init=False)

    def __post_init__(self) -> None:
        self._samples = deque([(self.started, 0, 0)])

    def add(self, now: float, objects: int, size: int) -> tuple[float, float]:
        """Take the counts of a time. Returns objects and bytes per second."""
        self._samples.append((now, objects, size))
        while now - self._samples[0][0] > _RATE_SECONDS and len(self._samples) > 2:  # noqa: PLR2004  (a rate needs two)
            self._samples.popleft()
        at, objects_before, size_before = self._samples[0]
        span = max(now - at, 1e-3)
        return (objects - objects_before) / span, (size - size_before) / span
