"""How much may be in flight: adaptive windows, rate limits, and a budget of memory.

Everything here is asked once per request by up to hundreds of threads, so the common case, nothing throttles and
nothing is limited, costs a comparison of attributes, and at most a lock that nobody holds for long.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Protocol

from mastosync_dagster.transfer.errors import Aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_CHECK_SECONDS = 0.2
"""How often a waiting thread looks whether the run was stopped."""


class Window:
    """How many requests one side gets at once: one more after a window of successes, half as many on trouble.

    A signal of trouble counts only if its request was sent after the last reduction: of the many requests in flight
    when a server begins to refuse, the first halves the window and the rest say nothing new.

    Attributes:
        size: Requests allowed at once, at the moment.
        taken: Places that are taken now.
        epoch: Number of reductions so far; to be read before a request and handed to `trouble`.
        growing: Whether successes are to be told; false at the maximum.
        lowest: The smallest size it ever had.
    """

    __slots__ = (
        "_closed",
        "_credit",
        "_lock",
        "_maximum",
        "_minimum",
        "_places",
        "_waiting",
        "epoch",
        "growing",
        "lowest",
        "size",
        "taken",
    )

    def __init__(self, maximum: int, *, minimum: int = 4, adaptive: bool = True) -> None:
        self._maximum = maximum
        self._minimum = min(minimum, maximum) if adaptive else maximum
        self._credit = 0
        self._lock = threading.Lock()
        self._places = threading.Condition(self._lock)
        self._waiting = 0
        self._closed = False
        self.size = self.lowest = maximum
        self.taken = 0
        self.epoch = 0
        self.growing = False

    def enter(self) -> bool:
        """Take a place for a request, and wait for one where there is none. Returns False once it is closed."""
        with self._lock:
            while self.taken >= self.size and not self._closed:
                self._waiting += 1
                try:
                    self._places.wait()
                finally:
                    self._waiting -= 1
            if self._closed:
                return False
            self.taken += 1
            return True

    def leave(self) -> None:
        """Give a place back."""
        with self._lock:
            self.taken -= 1
            if self._waiting:
                self._places.notify()

    def close(self) -> None:
        """Let nobody in any more, and nobody wait."""
        with self._lock:
            self._closed = True
            self._places.notify_all()

    @property
    def reductions(self) -> int:
        """How many times the window was reduced."""
        return self.epoch

    def success(self) -> bool:
        """Count one success; call it while `growing`. Returns whether the window grew."""
        with self._lock:
            self._credit += 1
            if self._credit < self.size or self.size >= self._maximum:
                return False
            self._credit = 0
            self.size += 1
            self.growing = self.size < self._maximum
            self._places.notify()
            return True

    def trouble(self, epoch: int) -> bool:
        """Halve the window, unless that happened since ``epoch`` was read. Returns whether it shrank."""
        with self._lock:
            if epoch != self.epoch or self.size <= self._minimum:
                return False
            self.epoch += 1
            self._credit = 0
            self.size = max(self._minimum, self.size // 2)
            self.lowest = min(self.lowest, self.size)
            self.growing = True
            return True


class Limit(Protocol):
    """How many may be at work at once, for some reason."""

    @property
    def size(self) -> int:
        """How many."""


class Gate:
    """Lets worker number *n* work while *n* is below what is of use.

    A worker is at one side at a time. So no more workers are of use than both windows have places for; which side
    they are at, the windows decide. A worker compares only its own number before each object.

    Attributes:
        active: Workers with a number below this may work.
    """

    __slots__ = ("_condition", "_pace", "_released", "_windows", "active")

    def __init__(self, windows: Sequence[Limit], pace: Limit) -> None:
        self._windows = windows
        self._pace = pace
        self._condition = threading.Condition()
        self._released = False
        self.active = self._of_use()

    def _of_use(self) -> int:
        return min(self._pace.size, sum(window.size for window in self._windows))

    def refresh(self) -> None:
        """Take over the limits' sizes; call it after one has changed."""
        with self._condition:
            self.active = self._of_use()
            self._condition.notify_all()

    def wait(self, number: int) -> None:
        """Wait until worker ``number`` may work, or until `release`."""
        with self._condition:
            self._condition.wait_for(lambda: number < self.active or self._released)

    def release(self) -> None:
        """Let everybody through from now on: what is left to do is decided elsewhere."""
        with self._condition:
            self._released = True
            self._condition.notify_all()


class RateLimit:
    """A token bucket: so many units a second, on average over a second.

    Amounts may exceed what the bucket holds: the bucket goes into debt and later callers wait longer. That keeps a
    large body from waiting for a bucket that never becomes so full.
    """

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = per_second
        self._at = clock()

    def reserve(self, amount: float) -> float:
        """Take ``amount`` and return how many seconds the caller must wait before it goes on."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._rate, self._tokens + (now - self._at) * self._rate)
            self._at = now
            self._tokens -= amount
            return max(0.0, -self._tokens / self._rate)

    def take(self, amount: float, stop: threading.Event) -> None:
        """Take ``amount`` and wait as long as that costs, or until ``stop``."""
        seconds = self.reserve(amount)
        if seconds > 0:
            stop.wait(seconds)


class NeedsRoomError(Aside):
    """A body turns out to be larger than what is held for it.

    Attributes:
        size: What it takes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes")
        self.size = size


class MemoryBudget:
    """Bytes that bodies may occupy together.

    Bodies up to `share` are not counted: each of the threads may hold one such body from its own share of the first
    half of the budget. Larger ones take their size from the other half, and wait while it is used up. So the common
    small object costs no lock, and the sum still stays below the budget.

    Whoever waits for some has no place in a window: those who have one, and a body, would wait for each other.

    Attributes:
        share: Bodies up to this many bytes need no `hold`.
    """

    def __init__(self, total: int, threads: int) -> None:
        self.share = total // (2 * threads)
        self._shared = total - self.share * threads
        self._free = self._shared
        self._condition = threading.Condition()

    @contextlib.contextmanager
    def hold(self, size: int, stop: threading.Event) -> Iterator[int]:
        """Hold ``size`` bytes of the budget while the block runs; wait for them first, or until ``stop``.

        Gives the bytes that are held: a body larger than the whole budget waits until it is alone.
        """
        amount = min(size, self._shared)
        with self._condition:
            while self._free < amount and not stop.is_set():
                self._condition.wait(_CHECK_SECONDS)
            self._free -= amount
        try:
            yield amount
        finally:
            with self._condition:
                self._free += amount
                self._condition.notify_all()

    def check(self, size: int, held: int) -> None:
        """Make sure that what is held suffices for a body.

        Raises:
            NeedsRoomError: It does not.
        """
        if size > self.share and min(size, self._shared) > held:
            raise NeedsRoomError(size)
