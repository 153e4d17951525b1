"""Carries out a plan: copies its objects with many threads, and writes down what became of each."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from mastosync_dagster.transfer.copier import Copier
from mastosync_dagster.transfer.errors import StorageError
from mastosync_dagster.transfer.figures import CopyCounts, CopyProgress, Rate, SideCounts
from mastosync_dagster.transfer.manifest import failed
from mastosync_dagster.transfer.memory import stay_small
from mastosync_dagster.transfer.onserver import CopiesOnServer
from mastosync_dagster.transfer.outcomes import Outcome, Reason
from mastosync_dagster.transfer.pace import Pace
from mastosync_dagster.transfer.parts import ObjectsInParts
from mastosync_dagster.transfer.planfile import COPIED, TO_COPY, read_plan
from mastosync_dagster.transfer.results import ResultWriter
from mastosync_dagster.transfer.sides import Persistence, Side
from mastosync_dagster.transfer.undisturbed import undisturbed
from mastosync_dagster.transfer.verify import MIB
from mastosync_dagster.transfer.whole import TooLargeError, WholeObjects
from mastosync_dagster.transfer.window import Gate, MemoryBudget, Window
from mastosync_dagster.transfer.workqueue import Lanes, WorkQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mastosync_dagster.transfer.manifest import ManifestLine
    from mastosync_dagster.transfer.planfile import PlannedCopy
    from mastosync_dagster.transfer.storage import Storage

__all__ = ["CopyCounts", "CopyProgress", "CopySettings", "SideCounts", "copy_plan"]

_PROGRESS_SECONDS = 1.0
_TICK_SECONDS = 0.1
_ABANDON_SECONDS = 60.0
"""How long a stopped run waits for requests in flight; then it leaves them behind."""
_HURRY_SECONDS = 5.0
"""How long it waits when it is stopped once more."""

STILL_IN_FLIGHT = "the run was stopped, and the request in flight was not answered in time"
NOT_BEGUN = "the run was stopped before"


@dataclass(frozen=True, slots=True)
class CopySettings:
    """How objects are copied.

    Attributes:
        concurrency: Requests in flight at each side at most: so many objects are read while as many are written.
        min_concurrency: Requests in flight at a side at least, however much it throttles.
        adaptive: Shrink and grow between these two as the sides bear it. False: always ``concurrency``.
        memory_mb: Megabytes (2^20) of bodies held at the same time.
        large_object_mb: Objects above this many megabytes (2^20) are streamed in parts.
        large_in_flight: So many of those at the same time.
        max_attempts: Requests of one kind for one object until it has failed.
        backoff_seconds: Wait before the second attempt at most; doubled for each further one.
        patience_seconds: No attempt starts later than this after the first failure.
        source_requests_per_second: Limit; None: none. Of this run: runs beside it have limits of their own.
        source_bytes_per_second: Limit; None: none.
        destination_requests_per_second: Limit; None: none.
        destination_bytes_per_second: Limit; None: none.
    """

    concurrency: int = 64
    min_concurrency: int = 4
    adaptive: bool = True
    memory_mb: int = 128
    large_object_mb: int = 16
    large_in_flight: int = 4
    max_attempts: int = 6
    backoff_seconds: float = 1.0
    patience_seconds: float = 900.0
    source_requests_per_second: float | None = None
    source_bytes_per_second: float | None = None
    destination_requests_per_second: float | None = None
    destination_bytes_per_second: float | None = None


def copy_plan(
    folder: Path,
    source: Storage,
    destination: Storage,
    settings: CopySettings,
    *,
    on_progress: Callable[[CopyProgress], None],
    stop: threading.Event,
    on_line: Callable[[ManifestLine], None] | None = None,
) -> CopyCounts:
    """Copy what a plan says, and write what became of it: ``to_copy.arrow`` to ``copied.parquet`` (see `planfile`).

    Every line of the plan gets exactly one line there, also when the copy is stopped or fails: objects whose turn did
    not come are failed with `Reason.NOT_ATTEMPTED`. Threads do the work; the calling one waits, and calls
    ``on_progress``.

    Args:
        folder: Holds the plan, gets the result.
        source: Where objects are read.
        destination: Where they go.
        settings: How.
        on_progress: Called about once a second, and at the end.
        stop: Set from another thread, it ends the copy after the requests in flight.
        on_line: Told what became of each object, as it is done, by the thread that did it.

    Raises:
        OSError: The folder is not readable or writable.
        BaseException: Whatever interrupts the calling thread, after the requests in flight have ended and the result
            is written.
    """
    stay_small()
    return _Run(folder, source, destination, settings, on_line).carry_out(on_progress, stop)


class _Tally:
    """What one worker has done. Each has its own, so that nobody waits for anybody."""

    __slots__ = ("bytes", "copied", "failed", "missing", "present")

    def __init__(self) -> None:
        self.copied = self.present = self.missing = self.failed = self.bytes = 0

    def take(self, line: ManifestLine) -> None:
        if line.outcome is Outcome.COPIED:
            self.copied += 1
            self.bytes += line.size or 0
        elif line.outcome is Outcome.PRESENT:
            self.present += 1
        elif line.outcome is Outcome.MISSING:
            self.missing += 1
        else:
            self.failed += 1


class _Run:
    """One call of `copy_plan`."""

    def __init__(
        self,
        folder: Path,
        source: Storage,
        destination: Storage,
        settings: CopySettings,
        on_line: Callable[[ManifestLine], None] | None,
    ) -> None:
        self._settings = settings
        self._on_line = on_line
        self._folder = folder
        self._started = time.monotonic()
        self._halt = threading.Event()
        self._stopped: StorageError | None = None
        self._crash: BaseException | None = None
        self._lock = threading.Lock()
        windows = [
            Window(settings.concurrency, minimum=settings.min_concurrency, adaptive=settings.adaptive) for _ in range(2)
        ]
        self._source = Side(
            source,
            windows[0],
            requests=settings.source_requests_per_second,
            bytes_=settings.source_bytes_per_second,
        )
        self._destination = Side(
            destination,
            windows[1],
            requests=settings.destination_requests_per_second,
            bytes_=settings.destination_bytes_per_second,
        )
        # Reading and writing overlap: while one side has all the requests that it gets, so can the other.
        workers = 2 * settings.concurrency
        self._pace = Pace(workers, adaptive=settings.adaptive)
        self._gate = Gate(windows, self._pace)
        self._limit = settings.large_object_mb * MIB
        self._total, self._total_bytes = _plan_totals(folder)
        self._prefixes = (source.settings.prefix, destination.settings.prefix)
        self._lanes = Lanes(*self._prefixes, self._limit)
        self._queue = WorkQueue(read_plan(folder), self._lanes, settings.large_in_flight)
        self._writer = ResultWriter(folder / COPIED)
        self._tallies = [_Tally() for _ in range(workers)]
        self._in_work: list[PlannedCopy | None] = [None] * workers
        # Either a worker writes its object's line or whoever leaves it behind. Each has its own lock, as its own tally.
        self._settling = [threading.Lock() for _ in range(workers)]
        self._hired = self._working = 0
        self._left = 0
        self._patience = _ABANDON_SECONDS
        self._all_done = threading.Event()
        self._rate = Rate()
        self._on_server: CopiesOnServer | None = None

    def carry_out(self, on_progress: Callable[[CopyProgress], None], stop: threading.Event) -> CopyCounts:
        """Do everything."""
        self._writer.start()
        interrupts: list[BaseException] = []

        def interrupted(error: BaseException) -> None:
            interrupts.append(error)
            if len(interrupts) > 1:
                # Whoever asks twice does not want to wait.
                self._patience = _HURRY_SECONDS

        try:
            self._watch(on_progress, stop)
        except BaseException as error:  # noqa: BLE001  (raised again when the result is written)
            interrupts.append(error)
        undisturbed(self._finish, interrupted)
        if interrupts:
            raise interrupts[0]
        if self._crash is not None:
            raise self._crash
        on_progress(self._progress())
        return self._counts()

    def _watch(self, on_progress: Callable[[CopyProgress], None], stop: threading.Event) -> None:
        """Let the workers work until they are done, or have to end."""
        copier = None if stop.is_set() else self._copier()
        if copier is None:
            self._all_done.set()
            return
        self._hire(copier)
        self._pace.begin()
        next_progress = time.monotonic() + _PROGRESS_SECONDS
        while not self._all_done.wait(_TICK_SECONDS):
            if stop.is_set() or self._halt.is_set() or self._writer.error is not None:
                break
            if self._pace.tick(sum(self._sums()[:3])):
                self._gate.refresh()
            self._hire(copier)
            if time.monotonic() >= next_progress:
                next_progress += _PROGRESS_SECONDS
                on_progress(self._progress())

    def _finish(self) -> None:
        """Wait for the requests in flight, and write what became of everything."""
        self._end()
        begun = time.monotonic()
        while self._working and not self._all_done.wait(_TICK_SECONDS):
            if time.monotonic() - begun >= self._patience:
                break
        self._writer.finish(self._rest())

    def _hire(self, copier: Copier) -> None:
        """Start workers that may work and are not there yet: who is not needed costs no memory."""
        for number in range(self._hired, self._gate.active):
            # Daemons: a request that hangs must not keep the process alive.
            worker = threading.Thread(target=self._work, args=(number, copier), name=f"copy-{number}", daemon=True)
            with self._lock:
                self._working += 1
            try:
                worker.start()
            except RuntimeError:  # the system gives no more threads: those that are there do it
                with self._lock:
                    self._working -= 1
                    if self._working == 0:
                        self._all_done.set()
                if number == 0:
                    raise
                return
            self._hired += 1

    def _copier(self) -> Copier | None:
        """Open both sides; None where that fails."""
        settings = self._settings
        persistence = Persistence(
            attempts=settings.max_attempts,
            backoff=settings.backoff_seconds,
            seconds=settings.patience_seconds,
            gate=self._gate,
            halt=self._halt,
        )
        budget = MemoryBudget(settings.memory_mb * MIB, len(self._tallies))
        try:
            whole = WholeObjects(
                self._source,
                self._destination,
                persistence=persistence,
                budget=budget,
                limit=self._limit,
                halt=self._halt,
            )
            if self._source.storage.same_server(self._destination.storage):
                self._on_server = CopiesOnServer(self._source, self._destination, persistence)
        except StorageError as error:
            self._end_with(error)
            return None
        parts = ObjectsInParts(self._source, self._destination, persistence=persistence, budget=budget, halt=self._halt)
        return Copier(
            self._source,
            self._destination,
            whole=whole,
            parts=parts,
            on_server=self._on_server,
            lanes=self._lanes,
            end_run=self._end_with,
            halt=self._halt,
        )

    def _work(self, number: int, copier: Copier) -> None:
        """Copy objects until none is left: the life of a worker."""
        gate, take, put, tally = self._gate, self._queue.take, self._writer.put, self._tallies[number]
        in_work, settling, on_line = self._in_work, self._settling[number], self._on_line
        try:
            while True:
                if number >= gate.active:
                    gate.wait(number)
                taken = take()
                if taken is None:
                    break
                line, special = taken
                in_work[number] = line
                result = self._copy_special(copier, line) if special else self._copy(copier, line)
                with settling:
                    if in_work[number] is None:
                        break  # it was left behind, and has its line
                    in_work[number] = None
                    if result is None:
                        self._queue.put_special(line)
                    else:
                        tally.take(result)
                        put(result)
                        if on_line is not None:
                            on_line(result)
        except BaseException as error:  # noqa: BLE001  (raised again in the main thread)
            self._crash = error
            self._end()
        finally:
            gate.release()
            with self._lock:
                self._working -= 1
                if self._working == 0:
                    self._all_done.set()

    def _copy(self, copier: Copier, line: PlannedCopy) -> ManifestLine | None:
        """Copy a common object. None: it turned out to be special."""
        try:
            return copier.copy(line)
        except TooLargeError:
            return None

    def _copy_special(self, copier: Copier, line: PlannedCopy) -> ManifestLine:
        try:
            return copier.copy_special(line)
        finally:
            self._queue.finish_special()

    def _end(self) -> None:
        """Let nothing new begin."""
        self._halt.set()
        self._queue.halt()
        self._gate.release()
        for side in (self._source, self._destination):
            side.window.close()

    def _end_with(self, error: StorageError) -> None:
        """End the run because of an error; the first one counts."""
        with self._lock:
            self._stopped = self._stopped or error
        self._end()

    def _rest(self) -> Iterator[ManifestLine]:
        """Yield the lines of objects that nobody has finished, and count them."""
        left: Iterable[tuple[PlannedCopy, str]] = ((line, STILL_IN_FLIGHT) for line in self._leave_behind())
        for line, detail in itertools.chain(left, ((line, NOT_BEGUN) for line in self._queue.rest())):
            self._left += 1
            source_prefix, destination_prefix = self._prefixes
            yield failed(
                line,
                source_prefix + line.source_key,
                destination_prefix + line.key,
                Reason.NOT_ATTEMPTED,
                detail,
            )

    def _leave_behind(self) -> Iterator[PlannedCopy]:
        """Take from the workers what they have not finished: whatever comes of it then is not written any more."""
        for number, settling in enumerate(self._settling):
            with settling:
                line, self._in_work[number] = self._in_work[number], None
            if line is not None:
                yield line

    def _progress(self) -> CopyProgress:
        copied, present, missing, failed_, size = self._sums()
        now = time.monotonic()
        objects_per_second, bytes_per_second = self._rate.add(now, copied + present + missing + failed_, size)
        return CopyProgress(
            total=self._total,
            total_bytes=self._total_bytes,
            copied=copied,
            present=present,
            missing=missing,
            failed=failed_,
            bytes=size,
            seconds=now - self._started,
            objects_per_second=objects_per_second,
            bytes_per_second=bytes_per_second,
            source_window=self._source.window.size,
            destination_window=self._destination.window.size,
        )

    def _sums(self) -> tuple[int, int, int, int, int]:
        """Return copied, present, missing and failed objects, and bytes, over all workers."""
        return (
            sum(tally.copied for tally in self._tallies),
            sum(tally.present for tally in self._tallies),
            sum(tally.missing for tally in self._tallies),
            sum(tally.failed for tally in self._tallies) + self._left,
            sum(tally.bytes for tally in self._tallies),
        )

    def _counts(self) -> CopyCounts:
        copied, present, missing, failed_, size = self._sums()
        return CopyCounts(
            copied=copied,
            present=present,
            missing=missing,
            failed=failed_,
            bytes=size,
            copied_on_server=0 if self._on_server is None else self._on_server.copied,
            seconds=time.monotonic() - self._started,
            source=SideCounts.of(self._source),
            destination=SideCounts.of(self._destination),
            stopped=self._stopped,
        )


def _plan_totals(folder: Path) -> tuple[int, int]:
    """Return the number of a plan's lines, and their bytes as far as known."""
    lines = size = 0
    with pa.OSFile(str(folder / TO_COPY), "rb") as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            lines += batch.num_rows
            size += sum(filter(None, batch.column("size").to_pylist()))
    return lines, size
