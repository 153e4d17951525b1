"""Carries out a plan: copies its objects with many coroutines, and records the outcome of each."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from mastosync_dagster.copy.endpoint import Endpoint, SilenceWatch
from mastosync_dagster.copy.hedging import Hedges
from mastosync_dagster.copy.integrity import DestinationProof
from mastosync_dagster.copy.limits import CopySettings, MemoryBudget, Window
from mastosync_dagster.copy.multipart import LargeObjects
from mastosync_dagster.copy.object_copier import ObjectCopier
from mastosync_dagster.copy.results import NOT_BEGUN, ResultWriter
from mastosync_dagster.copy.server_side import ServerSideCopies
from mastosync_dagster.copy.single import SingleObjects, TooLargeError
from mastosync_dagster.copy.spending import LARGER_THAN_THE_BUDGET, Admission, Budget, Spending, UsedUpError
from mastosync_dagster.copy.stats import CopyCounts, CopyProgress, EndpointCounts, Rate
from mastosync_dagster.process import collect_young, collecting_by_hand, limit_malloc_arenas
from mastosync_dagster.records.manifest import line_of
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.plan import COPIED, TO_COPY, read_plan
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.loop import Loop, ResourcesError, TaskCancelled
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.retry_policies import COPY
from mastosync_dagster.shield import run_shielded
from mastosync_dagster.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mastosync_dagster.records.manifest import ManifestLine
    from mastosync_dagster.records.plan import PlannedCopy
    from mastosync_dagster.s3.loop import Task
    from mastosync_dagster.s3.storage import Storage

__all__ = ["CopyCounts", "CopyProgress", "copy_plan"]

_PROGRESS_SECONDS = 1.0
_TICK_SECONDS = 0.1
_SHARE_SECONDS = 10.0
"""How often the run asks how many others share its rate limits."""
_GRACE_SECONDS = 1.0
"""How long a stopped run lets small objects arrive that are on their way."""
_CLEAN_UP_SECONDS = 10.0
"""How long it then takes to remove uploads that it has begun."""
_HURRY_SECONDS = 1.0
"""The same when it is stopped once more."""
_LARGE_WAITING = 4096
"""No further batch of the plan is read while so many large objects wait."""
_CANARY_OBJECTS, _CANARY_BYTES = 1000, 256 * MIB
"""From so many objects or bytes it pays to find out whether the destination checks bodies."""

_HOPELESS_SECONDS = 2.0
"""Where every endpoint with requests in flight has been silent for so long, none of that is waited for."""

STILL_IN_FLIGHT = "the run was stopped, and the request in flight was not answered in time"
UPLOAD_LEFT = "; an upload in parts of it may be left at the destination"


def copy_plan(
    folder: Path,
    source: Storage,
    destination: Storage,
    settings: CopySettings,
    *,
    on_progress: Callable[[CopyProgress], None],
    stop: threading.Event,
    on_line: Callable[[ManifestLine], None] | None = None,
    say: Callable[[str], object] = lambda _: None,
    sharing: Callable[[str], int] = lambda _: 1,
    pause: Callable[[], bool] = lambda: False,
) -> CopyCounts:
    """Copy what a plan says, and record the outcomes: ``to_copy.arrow`` to ``copied.parquet`` (see `records.plan`).

    Every line of the plan gets exactly one line there, also when the copy is stopped or fails: objects that were not
    attempted are failed with `Reason.NOT_ATTEMPTED`. One thread does the work; the calling one waits, and calls
    ``on_progress``.

    Args:
        folder: Holds the plan, gets the result.
        source: Where objects are read.
        destination: Where they are written.
        settings: How.
        on_progress: Called about once a second, and at the end.
        stop: Set from another thread, it ends the copy: small objects in flight have a second to arrive.
        on_line: Gets the line of each object, as it is done, in the loop's thread.
        say: Gets a sentence when a storage has fallen silent, and when it is back.
        sharing: Asked every ten seconds, in the calling thread: how many runs share the rate limits of a storage
            (``source``, ``destination``), this one included.
        pause: Asked every second, in the calling thread: whether no further object may begin for now.

    Raises:
        OSError: The folder is not readable or writable.
        BaseException: Whatever interrupts the calling thread, after the result is written.
    """
    limit_malloc_arenas()
    with collecting_by_hand():
        return _Run(folder, source, destination, settings, on_line, say=say, sharing=sharing, pause=pause).carry_out(
            on_progress, stop
        )


class _Sums:
    """What was done so far. Written by the loop's thread alone."""

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


class _Queue:
    """What is left to copy, fed from the plan a batch at a time. Lives in the loop's thread.

    Large objects have a lane of their own with a limit, and go first as long as that allows: they take long, and must
    neither end the run alone nor fill the memory together.
    """

    def __init__(self, batches: Iterator[list[PlannedCopy]], limit: int, large_at_once: int) -> None:
        self._batches = batches
        self._limit = limit
        self._most_large = large_at_once
        self._common: deque[PlannedCopy] = deque()
        self._large: deque[PlannedCopy] = deque()
        self._large_running = 0
        self._exhausted = False

    def take(self) -> tuple[PlannedCopy, bool] | None:
        """Return the next object, and whether it is large: then `finish_large` must follow. None: see `has_more`."""
        while True:
            if self._large and self._large_running < self._most_large:
                self._large_running += 1
                return self._large.popleft(), True
            if self._common:
                return self._common.popleft(), False
            if self._exhausted or len(self._large) >= _LARGE_WAITING:
                return None
            self._read()

    def _read(self) -> None:
        lines = next(self._batches, None)
        self._exhausted = lines is None
        for line in lines or ():
            (self._large if line.size is not None and line.size > self._limit else self._common).append(line)

    def is_empty(self) -> bool:
        """Return whether nothing is left to begin."""
        while not (self._common or self._large or self._exhausted):
            self._read()
        return not (self._common or self._large)

    @property
    def has_more(self) -> bool:
        """Whether a part of the plan is not read yet. If not, whoever finishes a large object takes the next one."""
        return not self._exhausted

    def finish_large(self) -> None:
        """Note that a large object is done."""
        self._large_running -= 1

    def put_back(self, line: PlannedCopy) -> None:
        """Give back a line that has proved to be large, or is not to be copied any more."""
        self._large.append(line)

    def rest(self) -> Iterator[PlannedCopy]:
        """Yield what was not taken; no more is taken from now on."""
        yield from self._large
        yield from self._common
        for lines in self._batches:
            yield from lines


class _Run:
    """One call of `copy_plan`."""

    def __init__(
        self,
        folder: Path,
        source: Storage,
        destination: Storage,
        settings: CopySettings,
        on_line: Callable[[ManifestLine], None] | None,
        *,
        say: Callable[[str], object],
        sharing: Callable[[str], int],
        pause: Callable[[], bool],
    ) -> None:
        self._say = say
        self._pause = pause
        self._paused = False
        self._sharing = sharing
        self._said: deque[str] = deque()
        self._settings = settings
        self._storages = (source, destination)
        self._on_line = on_line
        self._started = time.monotonic()
        self._total, self._total_bytes = _plan_totals(folder)
        self._prefixes = (source.settings.prefix, destination.settings.prefix)
        self._queue = _Queue(read_plan(folder), settings.large_object_mb * MIB, settings.large_in_flight)
        self._writer = ResultWriter(folder / COPIED)
        self._sums = _Sums()
        self._spending = None if settings.budget is None else Spending(settings.budget)
        self._used_up = False
        self._left = 0
        self._rate = Rate(self._started)
        self._loop = Loop("copy")
        self._endpoints: tuple[Endpoint, Endpoint] | None = None
        self._on_server: ServerSideCopies | None = None
        self._proof: DestinationProof | None = None
        self._hedges: Hedges | None = None
        self._large: LargeObjects | None = None
        self._workers: dict[int, Task[None]] = {}
        self._in_work: dict[int, tuple[PlannedCopy, bool]] = {}
        self._cancelled: set[int] = set()
        self._ending = False
        self._stopped: StorageError | None = None
        self._crash: BaseException | None = None
        self._all_done = threading.Event()
        self._hurry = threading.Event()
        self._watches: list[SilenceWatch] = []

    def carry_out(self, on_progress: Callable[[CopyProgress], None], stop: threading.Event) -> CopyCounts:
        """Do everything."""
        self._writer.start()
        interrupts: list[BaseException] = []

        def interrupted(error: BaseException) -> None:
            interrupts.append(error)
            if len(interrupts) > 1:
                # A second interrupt means that the admin does not want to wait.
                self._hurry.set()

        try:
            self._watch(on_progress, stop)
        except BaseException as error:  # noqa: BLE001  (raised again when the result is written)
            interrupts.append(error)
        run_shielded(self._finish, interrupted)
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
        try:
            self._loop.call(lambda: self._begin(copier))
        except ResourcesError as error:
            self._stopped = self._storages[0].error(error)
            self._all_done.set()
            return
        next_progress = time.monotonic() + _PROGRESS_SECONDS
        next_share = time.monotonic()
        while not self._all_done.wait(_TICK_SECONDS):
            # Said here, in the thread that may log.
            while self._said:
                self._say(self._said.popleft())
            if stop.is_set() or self._ending or self._writer.error is not None:
                break
            if time.monotonic() >= next_share:
                next_share += _SHARE_SECONDS
                self._share_limits()
            if time.monotonic() >= next_progress:
                next_progress += _PROGRESS_SECONDS
                self._paused = self._pause()
                # Paused, it has no progress; what is said about that goes to a disk that may be nearly full.
                if not self._paused:
                    on_progress(self._progress())
                # Errors are in cycles with what they came through.
                collect_young()

    def _share_limits(self) -> None:
        limited = [endpoint for endpoint in self._endpoints or () if endpoint.has_limits]
        if not limited:
            return
        shares = [(endpoint, max(1, self._sharing(endpoint.storage.settings.name))) for endpoint in limited]

        def share() -> None:
            for endpoint, runs in shares:
                endpoint.share_limits(runs)

        self._loop.call(share)

    def _copier(self) -> ObjectCopier | None:
        """Open both endpoints; None where that fails."""
        settings, loop = self._settings, self._loop
        policy = replace(
            COPY,
            attempts=settings.max_attempts,
            backoff=settings.backoff_seconds,
            patience=settings.patience_seconds,
        )

        def endpoint(storage: Storage, requests: float | None, bytes_: float | None) -> Endpoint:
            window = Window(loop, settings.concurrency, minimum=settings.min_concurrency, adaptive=settings.adaptive)
            return Endpoint(storage, loop, window, policy, requests=requests, bytes_=bytes_)

        from_storage, to_storage = self._storages
        try:
            source = endpoint(from_storage, settings.source_requests_per_second, settings.source_bytes_per_second)
            destination = endpoint(
                to_storage, settings.destination_requests_per_second, settings.destination_bytes_per_second
            )
        except StorageError as error:
            self._stopped = error
            return None
        self._endpoints = (source, destination)
        budget = MemoryBudget(loop, settings.memory_mb * MIB)
        proof = self._proof = DestinationProof(destination)
        hedges = self._hedges = Hedges(source)
        self._large = LargeObjects(source, destination, proof, budget, settings.single_put_mb * MIB)
        if source.storage.same_server(destination.storage):
            self._on_server = ServerSideCopies(source, destination)
        return ObjectCopier(
            source=source,
            destination=destination,
            single=SingleObjects(source, destination, proof, budget, hedges, settings.large_object_mb * MIB),
            large=self._large,
            on_server=self._on_server,
            end_run=self._end_with,
        )

    # ---- within the loop ----

    def _begin(self, copier: ObjectCopier) -> None:
        if self._hedges is not None:
            self._loop.spawn(self._hedges.watch())
        for endpoint in self._endpoints or ():
            longest = self._settings.silence_seconds
            say, end_run = self._said.append, self._end_with
            watch = SilenceWatch(endpoint, longest=longest, say=say, end_run=end_run, pauses=lambda: self._paused)
            self._watches.append(watch)
            self._loop.spawn(watch.watch(self._loop))
        if self._proof is not None and (self._total >= _CANARY_OBJECTS or self._total_bytes >= _CANARY_BYTES):
            self._loop.spawn(self._proof.try_canary())
        # Reading and writing overlap: while one endpoint has all the requests that it gets, so can the other.
        for number in range(min(2 * self._settings.concurrency, max(1, self._total))):
            self._workers[number] = self._loop.spawn(self._work(number, copier))

    async def _work(self, number: int, copier: ObjectCopier) -> None:
        """Copy objects until none is left."""
        queue = self._queue
        try:
            while not (self._ending or self._used_up):
                paused = self._paused and not queue.is_empty()
                taken = None if paused else queue.take()
                if taken is None:
                    if not (paused or queue.has_more):
                        break
                    # Paused, or enough large objects wait: small ones may follow those, and want all workers.
                    await self._loop.sleep(_PROGRESS_SECONDS)
                    continue
                line, large = taken
                self._in_work[number] = taken
                try:
                    result = await self._copy_within_budget(copier, line, large=large)
                except (TooLargeError, UsedUpError):
                    queue.put_back(line)
                    del self._in_work[number]
                else:
                    del self._in_work[number]
                    self._settle(result)
                finally:
                    if large:
                        queue.finish_large()
        except TaskCancelled:
            pass  # its line is still in `_in_work`
        except BaseException as error:  # noqa: BLE001  (raised again in the main thread)
            self._crash = error
            self._ending = True
        finally:
            del self._workers[number]
            if not self._workers:
                self._all_done.set()

    async def _copy_within_budget(self, copier: ObjectCopier, line: PlannedCopy, *, large: bool) -> ManifestLine:
        """Copy an object, if the budget allows it. UsedUpError: it does not, and the run takes no further one."""
        copy = copier.copy_large if large else copier.copy
        spending = self._spending
        if spending is None:
            return await copy(line)
        size = await copier.size_at_source(line)
        admission = spending.admit(size)
        while admission is Admission.WAIT and not (self._used_up or self._ending):
            # What is under way may take less than was set aside for it.
            await self._loop.sleep(_TICK_SECONDS)
            admission = spending.admit(size)
        if admission is Admission.NEVER:
            return self._not_attempted(line, LARGER_THAN_THE_BUDGET)
        if admission is Admission.NO:
            self._use_up(spending.budget)
        if admission is not Admission.YES:
            raise UsedUpError
        copied = 0
        try:
            result = await copy(line)
            copied = (result.size or 0) if result.outcome is Outcome.COPIED else 0
        finally:
            spending.settle(size, copied)
        return result

    def _use_up(self, budget: Budget) -> None:
        """Take no further object. Those under way are paid for, and come to their end."""
        self._used_up = True
        text = f"the run has copied what it may ({budget}): a further run takes the rest"
        self._stopped = self._stopped or StorageError(text, reason=Reason.NOT_ATTEMPTED, permanent=True)

    def _settle(self, line: ManifestLine) -> None:
        self._sums.take(line)
        self._writer.put(line)
        if self._on_line is not None:
            self._on_line(line)

    def _end_with(self, error: StorageError) -> None:
        """End the run because of an error; the first one counts."""
        self._stopped = self._stopped or error
        self._ending = True

    def _cancel(self, *, large: bool) -> None:
        """Cancel workers at what they are doing; those with a small object only if ``large`` is not all."""
        for number, task in tuple(self._workers.items()):
            if number not in self._cancelled and (not large or number not in self._in_work or self._in_work[number][1]):
                # Once: it may be removing an upload since.
                self._cancelled.add(number)
                self._loop.cancel(task)

    # ---- in the calling thread ----

    def _finish(self) -> None:
        """Begin nothing new, end what is under way, and record the outcome of everything."""
        self._ending = True
        if not self._all_done.is_set():
            self._loop.call(lambda: self._cancel(large=True))
            self._wait(_GRACE_SECONDS)
        if not self._all_done.is_set():
            self._loop.call(lambda: self._cancel(large=False))
            self._wait(_CLEAN_UP_SECONDS)
        self._loop.close()
        self._crash = self._crash or self._loop.fault
        self._writer.finish(self._rest())

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._all_done.wait(_TICK_SECONDS):
            now = time.monotonic()
            if now >= until or (self._hurry.is_set() and now >= until - seconds + _HURRY_SECONDS):
                return
            silences = [each for watch in self._watches if (each := watch.seconds()) is not None]
            if silences and min(silences) >= _HOPELESS_SECONDS:
                return  # nothing that is under way will arrive

    def _rest(self) -> Iterator[ManifestLine]:
        """Yield the lines of objects that were not finished, and count them."""
        uploads = set() if self._large is None else self._large.left
        left = (
            (line, f"{STILL_IN_FLIGHT}{UPLOAD_LEFT if line.key in uploads else ''}")
            for line, _ in self._in_work.values()
        )
        not_begun = str(self._stopped) if self._used_up else NOT_BEGUN
        for line, detail in itertools.chain(left, ((line, not_begun) for line in self._queue.rest())):
            self._left += 1
            yield self._not_attempted(line, detail)

    def _not_attempted(self, line: PlannedCopy, detail: str) -> ManifestLine:
        source_prefix, destination_prefix = self._prefixes
        return line_of(
            line,
            Outcome.FAILED,
            destination_prefix + line.key,
            source_prefix + line.source_key,
            reason=Reason.NOT_ATTEMPTED,
            detail=detail,
            size=line.size,
        )

    def _progress(self) -> CopyProgress:
        sums, now = self._sums, time.monotonic()
        failed = sums.failed + self._left
        done = sums.copied + sums.present + sums.missing + failed
        objects_per_second, bytes_per_second = self._rate.add(now, done, sums.bytes)
        windows = [0, 0] if self._endpoints is None else [endpoint.window.size for endpoint in self._endpoints]
        return CopyProgress(
            total=self._total,
            total_bytes=self._total_bytes,
            copied=sums.copied,
            present=sums.present,
            missing=sums.missing,
            failed=failed,
            bytes=sums.bytes,
            seconds=now - self._started,
            objects_per_second=objects_per_second,
            bytes_per_second=bytes_per_second,
            source_window=windows[0],
            destination_window=windows[1],
        )

    def _counts(self) -> CopyCounts:
        sums = self._sums
        nothing = EndpointCounts(window=0, lowest_window=0, reductions=0, retries={})
        source, destination = (nothing, nothing) if self._endpoints is None else map(EndpointCounts.of, self._endpoints)
        return CopyCounts(
            copied=sums.copied,
            present=sums.present,
            missing=sums.missing,
            failed=sums.failed + self._left,
            bytes=sums.bytes,
            copied_on_server=0 if self._on_server is None else self._on_server.copied,
            hedged=0 if self._hedges is None else self._hedges.sent,
            hashed_bytes=0 if self._proof is None else self._proof.hashed_bytes,
            seconds=time.monotonic() - self._started,
            source=source,
            destination=destination,
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
