"""How a run tells where it is: log lines for the UI, a bar for a terminal."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import dagster as dg
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from mastosync_dagster.copy.engine import CopyProgress
    from mastosync_dagster.plan.planner import PlanCounts

_MEGABYTE = 1_000_000


class Watcher(Protocol):
    """Hears of the progress of one step, from the main thread, about once a second."""

    def planned(self, counts: PlanCounts) -> None:
        """Hear what has been planned so far."""

    def copied(self, progress: CopyProgress) -> None:
        """Hear what has been copied so far."""

    def told(self, text: str) -> None:
        """Hear of other work, in words."""


class ProgressReporter(Protocol):
    """Makes a watcher for each step; the jobs' resource ``progress``."""

    def watch(self, log: dg.DagsterLogManager) -> contextlib.AbstractContextManager[Watcher]:
        """Return a context manager whose watcher lives as long as the step."""


@dataclass
class _LogWatcher:
    log: dg.DagsterLogManager
    every: float
    clock: Callable[[], float]
    due: float = field(init=False)

    def __post_init__(self) -> None:
        self.due = self.clock() + self.every

    def _line(self, text: str) -> None:
        # A log line costs milliseconds in Dagster's storage, so there is one every few seconds, whatever the speed.
        if self.clock() >= self.due:
            self.due = self.clock() + self.every
            self.log.info(text)

    def planned(self, counts: PlanCounts) -> None:
        self._line(
            f"planned {counts.rows:,} rows, {counts.objects:,} objects: {counts.to_copy:,} to copy,"
            f" {counts.present:,} present, {counts.missing:,} missing"
        )

    def copied(self, progress: CopyProgress) -> None:
        self._line(
            f"{progress.done:,} of {progress.total:,} objects, {progress.bytes / _MEGABYTE:,.0f} MB;"
            f" {progress.objects_per_second:,.0f} objects/s,"
            f" {progress.bytes_per_second / _MEGABYTE:,.1f} MB/s; {progress.failed:,} failed"
        )

    def told(self, text: str) -> None:
        self._line(text)


@dataclass(frozen=True)
class LogProgress:
    """One log line every so many seconds, in the run's log.

    Attributes:
        every: Seconds between two lines.
        clock: Seconds since some moment, monotonic.
    """

    every: float = 10.0
    clock: Callable[[], float] = time.monotonic

    @contextlib.contextmanager
    def watch(self, log: dg.DagsterLogManager) -> Iterator[Watcher]:
        """Yield a watcher that logs."""
        yield _LogWatcher(log, self.every, self.clock)


@dataclass(frozen=True)
class _BarWatcher:
    bar: Progress
    plan: TaskID
    copy: TaskID

    def planned(self, counts: PlanCounts) -> None:
        self.bar.update(self.plan, visible=True, numbers=f"{counts.objects:,} objects, {counts.to_copy:,} to copy")

    def copied(self, progress: CopyProgress) -> None:
        self.bar.update(
            self.copy,
            visible=True,
            total=progress.total,
            completed=progress.done,
            numbers=f"{progress.done:,}/{progress.total:,} objects  {progress.bytes / _MEGABYTE:,.1f} MB"
            f"  {progress.objects_per_second:,.0f}/s  {progress.bytes_per_second / _MEGABYTE:,.1f} MB/s",
        )

    def told(self, text: str) -> None:
        self.bar.update(self.plan, visible=True, numbers=text)


@dataclass(frozen=True)
class BarProgress:
    """A progress bar in a terminal: objects, bytes, rate, time left."""

    console: Console

    @contextlib.contextmanager
    def watch(self, log: dg.DagsterLogManager) -> Iterator[Watcher]:  # noqa: ARG002  (the reporter's signature)
        """Yield a watcher that moves the bar; what is left on the screen is its last state."""
        from rich.progress import (  # noqa: PLC0415  (2 MB that a run without a terminal does not take)
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as bar:
            yield _BarWatcher(
                bar,
                plan=bar.add_task("planning", total=None, visible=False, numbers=""),
                copy=bar.add_task("copying", total=None, visible=False, numbers=""),
            )
