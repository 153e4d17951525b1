"""Looks at processes while a block lasts: memory and descriptors of those that stay, the peak of those that end."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

_LOOK_SECONDS = 0.5
SAMPLE_SECONDS = 30.0
MIB = 1024 * 1024
_LOCK = re.compile(r"/mastosync-locks/([0-9a-f-]{36})$")


@dataclass(frozen=True)
class Sample:
    """What a process held.

    Attributes:
        at: Seconds since the beginning.
        resident: MiB, shared libraries included. Not the proportional share of them (PSS): that falls and rises with
            the runs beside, which map the same libraries.
        descriptors: The most within the last half minute.
    """

    at: float
    resident: float
    descriptors: int


@dataclass(frozen=True)
class EndedRun:
    """A process that has executed a run. `at`: when it ended, in seconds since the beginning; `peak`: in MiB."""

    at: float
    run_id: str
    peak: float


@dataclass
class Watch:
    """A thread that looks at processes.

    Attributes:
        long_lived: Those that stay, by name.
        parent: Whose children execute runs.
    """

    long_lived: Mapping[str, psutil.Process]
    parent: psutil.Process
    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    runs: list[EndedRun] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Begin."""
        self._begun = time.monotonic()
        self._over = threading.Event()
        self._most: dict[str, int] = {}
        self._alive: dict[psutil.Process, tuple[str, float]] = {}
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """The time since the beginning."""
        return time.monotonic() - self._begun

    def _look(self) -> None:
        due = SAMPLE_SECONDS
        while not self._over.wait(_LOOK_SECONDS):
            with contextlib.suppress(psutil.NoSuchProcess):  # the test says which, and shows its log
                for name, process in self.long_lived.items():
                    self._most[name] = max(self._most.get(name, 0), process.num_fds())
                self._look_at_runs()
                if self.seconds >= due:
                    due += SAMPLE_SECONDS
                    self._sample()

    def _sample(self) -> None:
        for name, process in self.long_lived.items():
            resident = process.memory_info().rss / MIB
            self.samples[name].append(Sample(self.seconds, resident, self._most.pop(name)))

    def _look_at_runs(self) -> None:
        children = set(self.parent.children())
        for child in children:
            run_id, peak = self._alive.get(child, ("", 0.0))
            with contextlib.suppress(OSError, psutil.Error):
                self._alive[child] = (run_id or _run_of(child.pid), max(peak, _peak(child.pid)))
        for child in self._alive.keys() - children:
            run_id, peak = self._alive.pop(child)
            if run_id:
                self.runs.append(EndedRun(self.seconds, run_id, peak))


def _run_of(pid: int) -> str:
    """Return the run whose lock a process holds; empty: none (yet)."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found = _LOCK.search(str(descriptor.readlink()))
            if found:
                return found[1]
    return ""


def _peak(pid: int) -> float:
    """Return the largest resident set that a process has had, in MiB."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0
