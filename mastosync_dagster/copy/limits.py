"""How a copy is limited: its settings, an adaptive window and pace, limits of requests and bandwidth, a memory budget.

All live in the loop's thread. `copy.endpoint` keeps to them; runs share the rates (`sync.shared_limits`).
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mastosync_dagster.s3.errors import Aside
from mastosync_dagster.s3.retry_policies import COPY

if TYPE_CHECKING:
    from collections.abc import Callable

    from mastosync_dagster.copy.spending import Budget
    from mastosync_dagster.s3.loop import Loop, Task


_KEPT = 0.8
"""The share of its rate that an endpoint gets after it has throttled ..."""
_MORE_A_SECOND, _SHARE_MORE_A_SECOND = 2.0, 0.03
"""... and each second after that so many requests a second more, and such a share of what it had then."""
_FASTER_AFTER_SECONDS = 10.0
"""After so long that is twice as many: what was throttled for seconds alone is soon as fast as before."""
_SLOWEST = 1.0
_MEASURED_SECONDS = 1.0
_CATCH_UP_SECONDS = 0.05
"""What a loop that was busy has missed of its rate, it sends at once."""


@dataclass(frozen=True, slots=True)
class CopySettings:
    """How objects are copied. Megabytes are 2^20 bytes.

    Attributes:
        concurrency: Requests in flight at each endpoint at most: so many objects are read while as many are written.
        min_concurrency: Requests in flight at an endpoint at least, however much it throttles.
        adaptive: Shrink and grow between these two as the endpoints bear it. False: always ``concurrency``.
        memory_mb: Megabytes of bodies held at the same time.
        large_object_mb: Objects above this many megabytes are streamed.
        large_in_flight: So many of those at the same time.
        single_put_mb: Objects up to this many megabytes go in one PUT, if they came to the source so. A request that
            breaks is sent again as a whole; providers take 5 GiB in one, proxies may take less.
        max_attempts: Requests of one kind for one object until it has failed.
        backoff_seconds: Wait before the second attempt at most; doubled for each further one.
        patience_seconds: No attempt starts later than this after the first failure.
        silence_seconds: The run ends when a storage has sent nothing for so long: no answer, and no acknowledgement.
        source_requests_per_second: Limit of this run and those that share it (`copy_plan`'s ``sharing``); None: none.
        budget: What may be copied and spent at the most; None: no limit.
    """

    concurrency: int = 64
    min_concurrency: int = 4
    adaptive: bool = True
    memory_mb: int = 128
    large_object_mb: int = 16
    large_in_flight: int = 4
    single_put_mb: int = 200
    max_attempts: int = COPY.attempts
    backoff_seconds: float = COPY.backoff
    patience_seconds: float = COPY.patience
    silence_seconds: float = 100.0
    source_requests_per_second: float | None = None
    source_bytes_per_second: float | None = None
    destination_requests_per_second: float | None = None
    destination_bytes_per_second: float | None = None
    budget: Budget | None = None


class _Waiter:
    """A coroutine that waits for a slot or memory, and may be cancelled between getting it and going on."""

    __slots__ = ("granted",)

    def __init__(self) -> None:
        self.granted = False


class Window:
    """How many requests an endpoint gets at once: one more after a window of successes, half as many when it throttles.

    A throttled request counts only if it was sent after the last reduction: of the many requests in flight when a
    server begins to refuse, the first halves the window and the rest say nothing new.

    Attributes:
        size: Requests allowed at once, at present.
        taken: Slots that are taken now.
        epoch: How often the server has asked for less so far; to be read before a request and handed to `on_throttle`.
        reductions: How often the window was halved for that; at the minimum it stays.
        growing: Whether successes are to be counted; false at the maximum.
        lowest: The smallest size it ever had.
    """

    def __init__(self, loop: Loop, maximum: int, *, minimum: int = 4, adaptive: bool = True) -> None:
        self._loop = loop
        self._maximum = maximum
        self._minimum = min(minimum, maximum)
        self._adaptive = adaptive
        self._credit = 0
        self._waiting: deque[tuple[tuple[Task[Any], int], _Waiter]] = deque()
        self.size = self.lowest = maximum
        self.taken = self.epoch = self.reductions = 0
        self.growing = False

    async def enter(self) -> None:
        """Take a slot for a request, and wait for one where there is none."""
        if self.taken < self.size:
            self.taken += 1
            return
        waiter = _Waiter()
        try:
            await self._loop.park(lambda parked: self._waiting.append((parked, waiter)))
        except BaseException:
            if waiter.granted:
                self.leave()
            raise

    def leave(self) -> None:
        """Give a slot back."""
        self.taken -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self.taken < self.size:
            parked, waiter = self._waiting.popleft()
            if self._loop.wake(parked):
                waiter.granted = True
                self.taken += 1

    def on_success(self) -> None:
        """Count one success; call it while `growing`."""
        self._credit += 1
        if self._credit < self.size or self.size >= self._maximum:
            return
        self._credit = 0
        self.size += 1
        self.growing = self.size < self._maximum
        self._let_in()

    def on_throttle(self, epoch: int) -> bool:
        """Halve the window, unless that was asked for since ``epoch`` was read; return whether it was not."""
        if epoch != self.epoch or not self._adaptive:
            return False
        self.epoch += 1
        if self.size > self._minimum:
            self.reductions += 1
            self._credit = 0
            self.size = max(self._minimum, self.size // 2)
            self.lowest = min(self.lowest, self.size)
            self.growing = True
        return True


class Pace:
    """How many requests a second an endpoint gets once it has throttled: fewer than it bore, and more again with time.

    A window alone is never small enough for a server that allows few requests and answers soon, least of all where
    several runs share what it allows. None of them knows of the others: each follows the answers that it gets.
    """

    def __init__(self, loop: Loop, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        # One at a time waits until it may, so that all behind it are sent at the rate of then.
        self._turn = Window(loop, 1)
        self._bore: float | None = None
        self._at = clock()
        self._answered = 0
        self._next = 0.0

    @property
    def limits(self) -> bool:
        """Whether the endpoint has throttled yet."""
        return self._bore is not None

    @property
    def rate(self) -> float:
        """Requests a second, now."""
        if self._bore is None:
            return math.inf
        # The fixed part lets the shares of several runs become equal.
        more = _MORE_A_SECOND + _SHARE_MORE_A_SECOND * self._bore
        since = self._clock() - self._at
        return _KEPT * self._bore + more * since * (1 + since / _FASTER_AFTER_SECONDS)

    def on_throttle(self, answered: int) -> None:
        """Slow down. ``answered`` is how many requests the endpoint has answered so far."""
        now = self._clock()
        since = now - self._at
        bore = self.rate
        if since >= _MEASURED_SECONDS or not self.limits:
            # It may have got fewer than it was allowed. Too short a time does not show how many that were.
            bore = min(bore, (answered - self._answered) / max(since, _MEASURED_SECONDS))
        self._bore = max(_SLOWEST, bore)
        self._at, self._answered = now, answered

    async def enter(self) -> None:
        """Wait until the next request may be sent."""
        await self._turn.enter()
        try:
            wait = self._next - self._clock()
            if wait > 0:
                await self._loop.sleep(wait)
            self._next = max(self._next, self._clock() - _CATCH_UP_SECONDS) + 1 / self.rate
        finally:
            self._turn.leave()


class RateLimit:
    """A token bucket: so many units a second, on average over a second.

    Amounts may exceed what the bucket holds: the bucket goes into debt and later callers wait longer. That keeps a
    large body from waiting for a bucket that never becomes so full.
    """

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._whole = self._rate = per_second
        self._clock = clock
        self._tokens = per_second
        self._at = clock()

    def share(self, runs: int) -> None:
        """Use one part of the rate from now on, where so many runs share it."""
        self._fill()
        self._rate = self._whole / runs

    def reserve(self, amount: float) -> float:
        """Take ``amount`` and return how many seconds the caller must wait before it goes on."""
        self._fill()
        self._tokens -= amount
        return max(0.0, -self._tokens / self._rate)

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._rate, self._tokens + (now - self._at) * self._rate)
        self._at = now


class NeedsRoomError(Aside):
    """A body, or a part, turns out to have more bytes than the memory that is held for it."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes")
        self.size = size


class MemoryBudget:
    """Bytes that bodies may occupy together. A coroutine that waits for some must not hold a slot of a window."""

    def __init__(self, loop: Loop, total: int) -> None:
        self._loop = loop
        self._total = self._free = total
        self._waiting: deque[tuple[tuple[Task[Any], int], _Waiter, int]] = deque()

    async def take(self, size: int) -> int:
        """Wait for so many bytes, in the order of asking; a body larger than the whole budget waits until it is alone.

        Returns:
            The bytes that are to be given back.
        """
        amount = min(size, self._total)
        if amount > self._free or self._waiting:
            waiter = _Waiter()
            try:
                await self._loop.park(lambda parked: self._waiting.append((parked, waiter, amount)))
            except BaseException:
                if waiter.granted:
                    self.give_back(amount)
                raise
        else:
            self._free -= amount
        return amount

    def give_back(self, amount: int) -> None:
        """Give back what `take` returned."""
        self._free += amount
        while self._waiting and self._waiting[0][2] <= self._free:
            parked, waiter, wanted = self._waiting.popleft()
            if self._loop.wake(parked):
                waiter.granted = True
                self._free -= wanted
