"""What was measured: kept as JSON, so that tables and plots can be made again."""

from __future__ import annotations

import dataclasses
import json
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Measurement:
    """One run of one contender.

    Attributes:
        case: What was to be done.
        server: Name of the server kind on both storages.
        delay_ms: Round trip time to the servers.
        contender: Who did it.
        repetition: Which time, from 1.
        concurrency: Requests in flight at each storage that it was allowed.
        objects: Objects of the task (those already present included).
        seconds: Wall time.
        cpu_seconds: User and system time.
        peak_rss_mb: Peak resident memory, 10^6 bytes.
        requests: Requests that the servers counted, by storage and kind; None where they do not count.
    """

    case: str
    server: str
    delay_ms: int
    contender: str
    repetition: int
    concurrency: int
    objects: int
    seconds: float
    cpu_seconds: float
    peak_rss_mb: float
    requests: Mapping[str, Mapping[str, int]] | None = None

    @property
    def setting(self) -> tuple[str, str, int]:
        """What tells one comparison from another."""
        return self.case, self.server, self.delay_ms


@dataclass(frozen=True)
class Result:
    """Medians over the repetitions of one contender in one setting.

    Attributes:
        contender: Who.
        repetitions: How many.
        objects: Objects of the task.
        concurrency: Requests in flight at each storage.
        seconds: Wall time.
        slowest: Longest wall time.
        fastest: Shortest wall time.
        cpu_seconds: User and system time.
        peak_rss_mb: The largest of all, 10^6 bytes.
        requests: Requests counted; None where nobody counted.
    """

    contender: str
    repetitions: int
    objects: int
    concurrency: int
    seconds: float
    slowest: float
    fastest: float
    cpu_seconds: float
    peak_rss_mb: float
    requests: Mapping[str, Mapping[str, int]] | None

    @property
    def rate(self) -> float:
        """Objects per second."""
        return self.objects / self.seconds

    @property
    def cpu_per_thousand(self) -> float:
        """CPU seconds per 1,000 objects."""
        return self.cpu_seconds / max(1, self.objects) * 1000

    @property
    def requests_per_object(self) -> float | None:
        """Requests to both storages, per object."""
        if self.requests is None:
            return None
        return sum(sum(storage.values()) for storage in self.requests.values()) / max(1, self.objects)


@dataclass
class Results:
    """Everything a run of the benchmark found out.

    Attributes:
        about: Machine, versions, data set.
        measurements: All runs.
        ceilings: What servers and delay line could do, by name.
        notes: What was left out, and why.
    """

    about: dict[str, str] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    ceilings: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read a file that `write` wrote; an absent one is empty."""
        if not path.exists():
            return cls()
        raw = json.loads(path.read_text())
        measurements = [Measurement(**entry) for entry in raw.pop("measurements")]
        return cls(measurements=measurements, **raw)

    def write(self, path: Path) -> None:
        """Write everything to a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    def settings(self) -> list[tuple[str, str, int]]:
        """Return case, server and delay of every comparison, in the order of the runs."""
        return list(dict.fromkeys(one.setting for one in self.measurements))

    def contenders(self, case: str, server: str, delay_ms: int) -> list[Result]:
        """Return who took part in a comparison, with medians, in the order of the runs."""
        names = dict.fromkeys(one.contender for one in self.measurements if one.setting == (case, server, delay_ms))
        found = (self.result(case, server, delay_ms, name) for name in names)
        return [result for result in found if result is not None]

    def result(self, case: str, server: str, delay_ms: int, contender: str) -> Result | None:
        """Return one contender's medians; None where it did not take part."""
        runs = [
            one for one in self.measurements if one.setting == (case, server, delay_ms) and one.contender == contender
        ]
        if not runs:
            return None
        return Result(
            contender=contender,
            repetitions=len(runs),
            objects=runs[0].objects,
            concurrency=runs[0].concurrency,
            seconds=statistics.median(one.seconds for one in runs),
            slowest=max(one.seconds for one in runs),
            fastest=min(one.seconds for one in runs),
            cpu_seconds=statistics.median(one.cpu_seconds for one in runs),
            peak_rss_mb=max(one.peak_rss_mb for one in runs),
            requests=next((one.requests for one in runs if one.requests), None),
        )
