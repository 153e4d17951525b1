"""A storage under load: its window, its rate limits, its retries, its circuit breaker."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from mastosync_dagster.copy.limits import RateLimit, Window
from mastosync_dagster.s3.errors import Aside, StorageError
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from typing_extensions import Self

    from mastosync_dagster.s3.loop import Loop
    from mastosync_dagster.s3.retry import RetryPolicy
    from mastosync_dagster.s3.storage import Storage

_T = TypeVar("_T")

_SHRINKS = frozenset({Reason.THROTTLED, Reason.TIMEOUT})

_REFUSALS = 100
"""So many objects in a row that may not be read, or written, are no matter of single objects."""
_OUTAGES = 32
"""So many objects in a row that failed in spite of all attempts are none either ..."""
_OUTAGE_SECONDS = 30.0
"""... if this long no request succeeded."""


class EndpointError(Aside):
    """A request to one endpoint failed for good."""

    def __init__(self, endpoint: Endpoint, error: StorageError) -> None:
        super().__init__(str(error))
        self.endpoint = endpoint
        self.error = error


class Endpoint:
    """A storage under load. Its requests belong into an ``async with`` block, which takes a slot of the window.

    The waits between retries do too: a request that waits because a server asked for it does not make room for another.
    Lives in the loop's thread.

    Args:
        requests: Requests a second at most; None: no limit.
        bytes_: Bytes a second at most; None: no limit.

    Attributes:
        bytes: Limit of bytes a second; None: no limit.
        retries: Requests that were retried, by the reason of the failure.
    """

    def __init__(
        self,
        storage: Storage,
        loop: Loop,
        window: Window,
        policy: RetryPolicy,
        *,
        requests: float | None = None,
        bytes_: float | None = None,
    ) -> None:
        self.storage = storage
        self.loop = loop
        self.client = storage.client_on(loop)
        self.window = window
        self.policy = policy
        self._requests = RateLimit(requests) if requests else None
        self.bytes = RateLimit(bytes_) if bytes_ else None
        self.retries: Counter[Reason] = Counter()
        self._worked = False
        self._in_a_row = 0
        self._since = 0.0

    async def __aenter__(self) -> Self:
        """Take a slot of the window, and wait for one where there is none."""
        await self.window.enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give the slot back."""
        self.window.leave()

    async def take_bytes(self, size: int) -> None:
        """Wait until so many more bytes may pass."""
        if self.bytes is not None:
            wait = self.bytes.reserve(size)
            if wait > 0:
                await self.loop.sleep(wait)

    async def send(self, key: str, action: Callable[..., Coroutine[Any, Any, _T]], /, *arguments: Any) -> _T:
        """Send a request until it succeeds: exponential backoff with jitter, as long as the server asks, not for ever.

        The key is relative to the key prefix; ``action`` sends the request once.

        Raises:
            EndpointError: It failed for good, or too often.
        """
        retries: RetryState | None = None
        while True:
            epoch = self.window.epoch
            if self._requests is not None:
                await self.permit()
            try:
                result = await action(*arguments)
            except Aside:
                raise
            except Exception as problem:
                error = self.storage.error(problem, key)
                retries = retries or RetryState(self)
                if not await retries.pause(error, epoch):
                    raise EndpointError(self, error) from problem
                continue
            self.succeeded()
            return result

    async def permit(self) -> None:
        """Wait until one more request may be sent."""
        if self._requests is not None:
            wait = self._requests.reserve(1)
            if wait > 0:
                await self.loop.sleep(wait)

    def succeeded(self) -> None:
        """Note that a request has succeeded."""
        self._worked = True
        self._in_a_row = 0
        if self.window.growing:
            self.window.on_success()

    def trip_on(self, error: StorageError) -> StorageError | None:
        """Judge the failure of an object: does it end the run (a circuit breaker)?

        Returns:
            What the run ends with; None where the failure concerns this object alone, as far as one can tell.
        """
        # After it has worked, one such answer may be temporary, and many in a row are not.
        if error.permanent and not (error.may_pass and self._worked):
            return error
        if not error.may_pass and not error.retryable:
            return None
        if self._in_a_row == 0:
            self._since = time.monotonic()
        self._in_a_row += 1
        row = self._in_a_row
        lasting = time.monotonic() - self._since >= _OUTAGE_SECONDS
        if row >= (_REFUSALS if error.may_pass else _OUTAGES) and (error.may_pass or lasting):
            return StorageError(f"{error} ({row} objects in a row)", reason=error.reason, permanent=True)
        return None


class RetryState:
    """The failures of one request so far."""

    __slots__ = ("_endpoint", "_failures", "_started")

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._failures = 0
        self._started = time.monotonic()

    async def pause(self, error: StorageError, epoch: int) -> bool:
        """Count a failure, shrink the window where it asks for that, and wait before the next attempt.

        Returns:
            False where there is to be none.
        """
        self._failures += 1
        endpoint = self._endpoint
        if error.reason in _SHRINKS:
            endpoint.window.on_throttle(epoch)
        # A whole run is not ended by one refusal: the request is retried once. Others may have succeeded meanwhile.
        doubtful = error.permanent and error.may_pass and self._failures == 1
        hopeful = error.retryable and not error.permanent
        pause = endpoint.policy.pause(self._failures, error.retry_after, time.monotonic() - self._started)
        if pause is None or not (hopeful or doubtful):
            return False
        endpoint.retries[error.reason] += 1
        await endpoint.loop.sleep(pause)
        return True
