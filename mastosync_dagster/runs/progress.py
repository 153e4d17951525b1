"""The progress of a run: log lines for the UI; for a command a bar in a terminal, or lines without one."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from mastosync_dagster.history.postgres import history_may_fail
from mastosync_dagster.units import MEGABYTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import dagster as dg
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from mastosync_dagster.copy.engine import CopyProgress
    from mastosync_dagster.plan.planner import PlanCounts
    from mastosync_dagster.records.summaries import Summary

_MINUTE = 60
_CENTURY = 3_155_760_000


class Watcher(Protocol):
    """Shows the progress of one step. Called from the main thread, about once a second."""

    def planned(self, counts: PlanCounts) -> None:
        """Show what has been planned so far."""

    def copied(self, progress: CopyProgress) -> None:
        """Show what has been copied so far."""

    def message(self, text: str) -> None:
        """Show the progress of other work."""


class ProgressReporter(Protocol):
    """Makes a watcher for each step; the jobs' resource ``progress``."""

    @property
    def attended(self) -> bool:
        """Whether somebody waits in front of it, who wants to know at once what is wrong."""

    def say(self, text: str) -> None:
        """Show a sentence to whoever waits in front of it; the log has it in any case."""

    def watch(self, log: dg.DagsterLogManager) -> contextlib.AbstractContextManager[Watcher]:
        """Return a context manager whose watcher lives as long as the step."""

    @property
    def summarized(self) -> Callable[[Summary], object]:
        """Takes the summary of the run's manifest, however the run ends."""


def duration_text(seconds: float) -> str:
    """Return a duration in words: ``45 s``, ``12 min``, ``3 h 20 min``; ``more than a century``."""
    if seconds > _CENTURY:
        return "more than a century"
    if round(seconds) < _MINUTE:
        return f"{seconds:.0f} s"
    minutes = round(seconds / _MINUTE)
    hours, rest = divmod(minutes, _MINUTE)
    return f"{hours:,} h {rest} min" if hours else f"{minutes} min"


@dataclass
class _LineWatcher:
    write: Callable[[str], object]
    every: float
    clock: Callable[[], float]
    due: float

    def planned(self, counts: PlanCounts) -> None:
        self.message(
            f"planned {counts.rows:,} rows, {counts.objects:,} objects: {counts.to_copy:,} to copy,"
            f" {counts.present:,} present, {counts.missing:,} missing"
        )

    def copied(self, progress: CopyProgress) -> None:
        self.message(
            f"{progress.done:,} of {progress.total:,} objects, {progress.bytes / MEGABYTE:,.0f} MB;"
            f" {progress.objects_per_second:,.0f} objects/s,"
            f" {progress.bytes_per_second / MEGABYTE:,.1f} MB/s; {progress.failed:,} failed{_time_left(progress)}"
        )

    def message(self, text: str) -> None:
        # A log line costs milliseconds in Dagster's storage, so there is one every few seconds, whatever the speed.
        if self.clock() >= self.due:
            self.due = self.clock() + self.every
            self.write(text)


def _time_left(progress: CopyProgress) -> str:
    left = progress.total - progress.done
    if not left or not progress.objects_per_second:
        return ""
    return f"; about {duration_text(left / progress.objects_per_second)} left"


def _ignore(_: Summary) -> None:
    """Leave it to the run's events."""


@dataclass(frozen=True)
class LogProgress:
    """One line in the run's log every so many seconds, by a monotonic clock."""

    every: float = 10.0
    clock: Callable[[], float] = time.monotonic
    summarized: Callable[[Summary], object] = _ignore
    attended: ClassVar[bool] = False

    def say(self, text: str) -> None:
        """Leave it to the log."""

    @contextlib.contextmanager
    def watch(self, log: dg.DagsterLogManager) -> Iterator[Watcher]:
        """Yield a watcher that logs. A line that Dagster's history does not take is left out: the work goes on."""

        def write(text: str) -> None:
            with history_may_fail():
                log.info(text)

        yield _LineWatcher(write, self.every, self.clock, due=self.clock() + self.every)


@dataclass(frozen=True)
class LineProgress:
    """One line of a command's output every so many seconds, where there is no terminal."""

    write: Callable[[str], object]
    every: float = 30.0
    clock: Callable[[], float] = time.monotonic
    summarized: Callable[[Summary], object] = _ignore
    attended: bool = True

    def say(self, text: str) -> None:
        """Write it as a line."""
        self.write(text)

    @contextlib.contextmanager
    def watch(self, log: dg.DagsterLogManager) -> Iterator[Watcher]:  # noqa: ARG002  (the reporter's signature)
        """Yield a watcher that writes lines."""
        yield _LineWatcher(self.write, self.every, self.clock, due=self.clock() + self.every)


@dataclass(frozen=True)
class _BarWatcher:
    bar: Progress
    plan: TaskID
    copy: TaskID

    def planned(self, counts: PlanCounts) -> None:
        self.message(f"{counts.objects:,} objects, {counts.to_copy:,} to copy")

    def copied(self, progress: CopyProgress) -> None:
        self.bar.update(
            self.copy,
            visible=True,
            total=progress.total,
            completed=progress.done,
            numbers=f"{progress.done:,}/{progress.total:,} objects  {progress.bytes / MEGABYTE:,.1f} MB"
            f"  {progress.objects_per_second:,.0f}/s  {progress.bytes_per_second / MEGABYTE:,.1f} MB/s",
        )

    def message(self, text: str) -> None:
        self.bar.update(self.plan, visible=True, numbers=text)


@dataclass(frozen=True)
class BarProgress:
    """A progress bar in a terminal: objects, bytes, rate, time left."""

    console: Console
    summarized: Callable[[Summary], object] = _ignore
    attended: bool = True

    def say(self, text: str) -> None:
        """Print it above the bar."""
        self.console.print(text, style="yellow", markup=False, highlight=False)

    @contextlib.contextmanager
    def watch(self, log: dg.DagsterLogManager) -> Iterator[Watcher]:  # noqa: ARG002  (the reporter's signature)
        """Yield a watcher that moves the bar; its last state stays on the screen."""
        from rich import progress, table  # noqa: PLC0415  (2 MB that a run without a terminal does not take)

        def column() -> table.Column:
            # In a narrow terminal the end of the numbers is cut, and not the time left.
            return table.Column(min_width=7, no_wrap=True)

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[numbers]}"),
            progress.TimeElapsedColumn(table_column=column()),
            progress.TimeRemainingColumn(table_column=column()),
        )
        with progress.Progress(*columns, console=self.console, redirect_stderr=False) as bar:
            yield _BarWatcher(
                bar,
                plan=bar.add_task("planning", total=None, visible=False, numbers=""),
                copy=bar.add_task("copying", total=None, visible=False, numbers=""),
            )
