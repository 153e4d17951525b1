"""What the kernel counts of a container: memory, processor time, processes that it has killed. Version 1 and 2."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

_ROOT = Path("/sys/fs/cgroup")
_POLL_SECONDS = 0.5
_NANOSECONDS, _MICROSECONDS = 1e9, 1e6


@dataclass(frozen=True)
class Cgroup:
    """A cgroup: of version 2, where ``cpu`` is ``memory``, or one of each controller of version 1."""

    memory: Path
    cpu: Path

    @classmethod
    def of_process(cls, pid: int) -> Cgroup:
        """Return the cgroup of a process, as this one sees it."""
        found: dict[str, Path] = {}
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            found |= {name: _ROOT / name / path.lstrip("/") for name in controllers.split(",") if name}
            if not controllers:
                found[""] = _ROOT / path.lstrip("/")
        # The first process of systemd has moved into a group of its own, init.scope.
        return cls(*(_above_init(found.get(name, found.get("", _ROOT))) for name in ("memory", "cpuacct")))

    @property
    def _is_first_version(self) -> bool:
        return (self.memory / "memory.usage_in_bytes").exists()

    def memory_mb(self) -> float:
        """Return the MiB in use, without files that the kernel would drop first: what `docker stats` shows."""
        if self._is_first_version:
            used, inactive = "memory.usage_in_bytes", _value(self.memory / "memory.stat", "total_inactive_file")
        else:
            used, inactive = "memory.current", _value(self.memory / "memory.stat", "inactive_file")
        return (int((self.memory / used).read_text()) - inactive) / MIB

    def anonymous_mb(self) -> float:
        """Return the MiB that no file holds: the processes' own."""
        name = "total_rss" if self._is_first_version else "anon"
        return _value(self.memory / "memory.stat", name) / MIB

    def kills(self) -> int:
        """Return how many processes the kernel has killed for memory."""
        file = "memory.oom_control" if self._is_first_version else "memory.events"
        # A limit of a unit below counts there, and of version 1 not here.
        return sum(_value(path, "oom_kill") for path in [self.memory / file, *self.memory.glob(f"**/*.service/{file}")])

    def cpu_seconds(self) -> float:
        """Return the seconds of processor time so far."""
        if self._is_first_version:
            return int((self.cpu / "cpuacct.usage").read_text()) / _NANOSECONDS
        return _value(self.cpu / "cpu.stat", "usage_usec") / _MICROSECONDS


def _above_init(path: Path) -> Path:
    return path.parent if path.name == "init.scope" else path


def _value(path: Path, name: str) -> int:
    """Return a number of a file of names and numbers; 0: it has none, or has gone with its group."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(number) for key, number in (line.split()[:2] for line in lines) if key == name), 0)


@dataclass
class Watched:
    """A cgroup's memory by one of its methods while a block lasts, looked at twice a second.

    Attributes:
        seen: Seconds since the block began, and MiB.
    """

    memory_mb: Callable[[], float]
    seen: list[tuple[float, float]] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        begun = time.monotonic()

        def watch() -> None:
            while not self._end.wait(_POLL_SECONDS):
                self.seen.append((time.monotonic() - begun, self.memory_mb()))

        self._thread = threading.Thread(target=watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def most_mb(self) -> float:
        """The most that was seen."""
        return max((memory for _, memory in self.seen), default=0.0)

    @property
    def least_mb(self) -> float:
        """The least that was seen."""
        return min((memory for _, memory in self.seen), default=0.0)

    def mean_mb(self, begin: float, end: float) -> float:
        """Return the mean between two shares of the block's time, such as 0.5 and 1."""
        last = self.seen[-1][0]
        within = [memory for second, memory in self.seen if begin * last <= second <= end * last]
        return sum(within) / len(within)
