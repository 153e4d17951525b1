"""What the services take while nothing is to be done."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.hosts.cgroup import Watched
from benchmarks.hosts.limits import start
from benchmarks.hosts.machine import machine

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.site import Site

_SETTLE_SECONDS = 60.0
"""The services load code, and ask their first questions, before they are idle."""
_HOUR = 3600.0


@dataclass(frozen=True)
class Idle:
    """What idle services take.

    Attributes:
        ui: Whether the webserver is one of them.
        memory_mb: The machine's, at the end, without what it had before they were started.
        anonymous_mb: The part of it that no file holds: files of a library count for whoever has read them first.
        cpu_seconds: Of an hour.
    """

    ui: bool
    memory_mb: float
    anonymous_mb: float
    cpu_seconds: float
    seconds: float

    def __str__(self) -> str:
        """Return a line about it."""
        what = "with UI" if self.ui else "without UI"
        return (
            f"idle {what}: {self.memory_mb:,.0f} MB ({self.anonymous_mb:,.0f} without files),"
            f" {self.cpu_seconds:,.0f} CPU s an hour"
            f" (looked at for {self.seconds:,.0f} s)"
        )


def idle(opt: Path, site: Site, seconds: float, *, ui: bool) -> Idle:
    """Start the services on a machine of 1 GB, and look at them for some time."""
    with machine(opt, 1024) as made:
        before, anonymous = made.cgroup.memory_mb(), made.cgroup.anonymous_mb()
        start(made, site, ui=ui)
        time.sleep(_SETTLE_SECONDS)
        spent = made.cgroup.cpu_seconds()
        with Watched(made.cgroup.memory_mb) as watched:
            time.sleep(seconds)
        spent = made.cgroup.cpu_seconds() - spent
        anonymous = made.cgroup.anonymous_mb() - anonymous
        return Idle(ui, watched.mean_mb(0.9, 1) - before, anonymous, spent * _HOUR / seconds, seconds)
