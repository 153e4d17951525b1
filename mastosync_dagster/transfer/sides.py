"""What each side bears: its window, its limits, its failures, and how long a request to it is repeated."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from mastosync_dagster.transfer.errors import Aside, StorageError, is_failure
from mastosync_dagster.transfer.outcomes import Reason
from mastosync_dagster.transfer.window import RateLimit, Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from mastosync_dagster.transfer.storage import Storage
    from mastosync_dagster.transfer.window import Gate

_P = ParamSpec("_P")
_T = TypeVar("_T")

_LONGEST_WAIT = 30.0
"""Seconds between two attempts, but for a server that asks for more."""
_LONGEST_ASKED_WAIT = 120.0
"""Seconds that a server may ask for with Retry-After."""
_SHRINKS = frozenset({Reason.THROTTLED, Reason.TIMEOUT})

_PASSING_REFUSALS = frozenset({Reason.ACCESS_DENIED, Reason.NO_SUCH_BUCKET, Reason.WRONG_REGION})
_REFUSALS = 100
"""So many objects in a row that may not be read, or written, are no matter of single objects."""
_OUTAGES = 32
"""So many objects in a row that failed in spite of all attempts are none either ..."""
_OUTAGE_SECONDS = 30.0
"""... if this long no request succeeded."""


class HaltedError(Aside):
    """The run ends before this object is done. Nothing of it is left behind."""


class SideError(Aside):
    """A request to one side failed for good.

    Attributes:
        side: Which side.
        error: What happened.
    """

    def __init__(self, side: Side, error: StorageError) -> None:
        super().__init__(str(error))
        self.side = side
        self.error = error


class Side:
    """One side of a running copy. Its requests belong into a ``with`` block, which takes a place in the window.

    The waits between repetitions do too: who waits because a server asked for it does not make room for somebody else.

    Attributes:
        storage: Where it is.
        window: How many requests it gets at once.
        requests: Limit of requests per second; None: no limit.
        bytes: Limit of bytes per second; None: no limit.
        retries: Requests that were repeated, by the reason of the failure.
    """

    def __init__(
        self, storage: Storage, window: Window, *, requests: float | None = None, bytes_: float | None = None
    ) -> None:
        self.storage = storage
        self.window = window
        self.requests = RateLimit(requests) if requests else None
        self.bytes = RateLimit(bytes_) if bytes_ else None
        self.retries: Counter[Reason] = Counter()
        self._worked = False
        self._in_a_row = 0
        self._since = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Take a place in the window, and wait for one where there is none.

        Raises:
            HaltedError: The run ends before there is one.
        """
        if not self.window.enter():
            raise HaltedError
        return self

    def __exit__(self, *_: object) -> None:
        """Give the place back."""
        self.window.leave()

    def success(self) -> None:
        """Note that a request succeeded."""
        self._worked = True
        self._in_a_row = 0

    def retried(self, reason: Reason) -> None:
        """Count a request that is repeated."""
        with self._lock:
            self.retries[reason] += 1

    def verdict(self, error: StorageError) -> StorageError | None:
        """Judge the failure of an object: does it end the run?

        Returns:
            What the run ends with; None where the failure concerns this object alone, as far as one can tell.
        """
        # Once the side has worked, one such answer is a server's bad moment, and many in a row are not.
        denied = error.reason in _PASSING_REFUSALS
        if error.permanent and not (denied and self._worked):
            return error
        with self._lock:
            if not denied and not error.retryable:
                return None
            if self._in_a_row == 0:
                self._since = time.monotonic()
            self._in_a_row += 1
            row = self._in_a_row
            lasting = time.monotonic() - self._since >= _OUTAGE_SECONDS
        if row >= (_REFUSALS if denied else _OUTAGES) and (denied or lasting):
            return StorageError(f"{error} ({row} objects in a row)", reason=error.reason, permanent=True)
        return None


class Persistence:
    """Repeats failed requests: exponential backoff with jitter, as long as the server asks, and not for ever.

    Args:
        attempts: Requests at most.
        backoff: Seconds before the second request at most; doubled for each further one.
        seconds: No attempt starts later than this after the first failure.
        gate: Told when a window changes.
        halt: Set when the run is to end: no further attempt.
    """

    def __init__(self, *, attempts: int, backoff: float, seconds: float, gate: Gate, halt: threading.Event) -> None:
        self._attempts = attempts
        self._backoff = backoff
        self._seconds = seconds
        self._gate = gate
        self._halt = halt

    def run(
        self,
        side: Side,
        key: str,
        action: Callable[_P, _T],
        visible: Callable[_P, _T] | None,
        /,
        *arguments: _P.args,
        **named: _P.kwargs,
    ) -> _T:
        """Send a request until it succeeds.

        Args:
            side: Where it goes.
            key: The object it is about, relative to the key prefix.
            action: Sends it once.
            visible: Sends it in a way that shows the headers of a refusal. It takes over when the side throttles:
                obstore hides Retry-After.
            arguments: For ``action``.
            named: For ``action``.

        Raises:
            SideError: It failed for good, or too often.
        """
        trouble = None
        while True:
            window = side.window
            epoch = window.epoch
            if side.requests is not None:
                side.requests.take(1, self._halt)
            try:
                result = action(*arguments, **named)
            except Aside:
                raise
            except BaseException as problem:
                if not is_failure(problem):
                    raise
                error = side.storage.error(problem, key)
                trouble = trouble or Trouble(self)
                if not trouble.pause(side, error, epoch):
                    raise SideError(side, error) from problem
                if visible is not None and error.reason is Reason.THROTTLED:
                    action = visible
                continue
            side.success()
            if window.growing and window.success():
                self._gate.refresh()
            return result

    def again(self, side: Side, error: StorageError, epoch: int, failures: int, started: float) -> bool:
        """Shrink the side's window where the error asks for it, and wait before the next attempt.

        Returns:
            False where there is to be none.
        """
        if error.reason in _SHRINKS and side.window.trouble(epoch):
            self._gate.refresh()
        # A whole run is not ended by one refusal: it is asked for once more. Others may have been served meanwhile.
        doubtful = error.permanent and error.reason in _PASSING_REFUSALS and failures == 1
        hopeful = error.retryable and not error.permanent
        if not (hopeful or doubtful) or failures >= self._attempts or self._halt.is_set():
            return False
        pause = min(self._backoff * 2 ** (failures - 1), _LONGEST_WAIT)
        pause *= 0.5 + random.random() / 2  # noqa: S311  (jitter is no secret)
        if error.retry_after is not None:
            pause = max(pause, min(error.retry_after, _LONGEST_ASKED_WAIT))
        if time.monotonic() + pause > started + self._seconds:
            return False
        side.retried(error.reason)
        return not self._halt.wait(pause)


class Trouble:
    """The failures of one request so far."""

    __slots__ = ("_failures", "_persistence", "_started")

    def __init__(self, persistence: Persistence) -> None:
        self._persistence = persistence
        self._failures = 0
        self._started = time.monotonic()

    def pause(self, side: Side, error: StorageError, epoch: int) -> bool:
        """Count a failure and wait before the next attempt. Returns False where there is to be none."""
        self._failures += 1
        return self._persistence.again(side, error, epoch, self._failures, self._started)
