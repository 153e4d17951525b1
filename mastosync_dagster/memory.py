"""Memory for runs: how much there is, what follows for runs, and whether the kernel has killed for it.

A run waits for it in `runs.work_folder`, a queued one in `launcher`.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from mastosync_dagster.environment import memory_mb
from mastosync_dagster.units import MIB

MOST_RUNS = 4
"""Runs beside each other at the most, however much memory there is: storages and database are shared."""
_RUN_MB = 300
"""A run with `_BODIES_MB` and 64 requests in flight; `python -m benchmarks.hosts` measures it."""
_PROGRAM_MB = 170
"""Of this, what a run takes before the first body: Python, Dagster, Arrow."""
_BODIES_MB, _LEAST_BODIES_MB = 128, 16
_CONCURRENCY, _LEAST_CONCURRENCY = 64, 16
_SHARE = 2
"""Half of the memory is for the runs. The other half is for daemon, UI and the cache of files, or for Mastodon."""

_LIMITS = ("memory.max", "memory.limit_in_bytes")
"""The file of a cgroup's limit, in versions 2 and 1."""


@dataclass(frozen=True)
class RunMemory:
    """What runs may take.

    Attributes:
        runs: How many run beside each other.
        bodies_mb: Megabytes of bodies that each holds.
        concurrency: Requests in flight of each, where no setting names a number.
    """

    runs: int
    bodies_mb: int
    concurrency: int


def run_memory() -> RunMemory:
    """Return what follows from MASTOSYNC_MEMORY_MB; without it, from half of what this process may use.

    Raises:
        SettingsError: The variable is no number.
    """
    total = memory_mb() or usable_mb() // _SHARE
    runs = max(1, min(MOST_RUNS, total // _RUN_MB))
    bodies = max(_LEAST_BODIES_MB, min(_BODIES_MB, total // runs - _PROGRAM_MB))
    return RunMemory(runs, bodies, _CONCURRENCY if bodies >= _CONCURRENCY else _LEAST_CONCURRENCY)


def usable_mb(root: Path = Path("/")) -> int:
    """Return the MiB that this process may use: the machine's, or less where a cgroup of it has a limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _cgroups(root):
        for name in _LIMITS:
            # "max" is no number; a limit beyond the machine's memory is none.
            with contextlib.suppress(OSError, ValueError):
                limits.append(int((folder / name).read_text()))
    return min(limits) // MIB


def _cgroups(root: Path) -> list[Path]:
    """Return the folders of this process's cgroups that may limit memory, with those above them."""
    found: list[Path] = []
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            base = root / "sys/fs/cgroup" / ("memory" if controllers else "")
            inside = base / path.lstrip("/")
            # In a container the path may be the host's, and the limit lies at the top.
            found += [inside, *(each for each in inside.parents if each.is_relative_to(base))]
    return found


def kills(root: Path = Path("/")) -> int | None:
    """Return how many processes the kernel has killed for memory since the machine's start; None: it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/vmstat").read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return None
