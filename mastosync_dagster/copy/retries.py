"""The retries of one request of the copy, and when failures end the run: throttling, backoff, the circuit breaker.

How often and how long is the policy's (`s3.retry_policies`). The loop that sends a request again is in `copy.endpoint`
and, for a body that is read and written at the same time, in `copy.multipart`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from mastosync_dagster.copy.endpoint import Endpoint

_SHRINKS = frozenset({Reason.THROTTLED, Reason.TIMEOUT})

_REFUSALS = 100
"""So many objects in a row that may not be read, or written, are no matter of single objects."""
_OUTAGES = 32
"""So many objects in a row that failed in spite of all attempts are none either ..."""
_OUTAGE_SECONDS = 30.0
"""... if this long no request succeeded."""


class RetryState:
    """The failures of one request so far."""

    __slots__ = ("_endpoint", "_failures", "_started")

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._failures = 0
        self._started = time.monotonic()

    async def pause(self, error: StorageError, epoch: int) -> bool:
        """Count a failure, send fewer requests where it asks for that, and wait before the next attempt.

        Returns:
            False where there is to be none.
        """
        self._failures += 1
        endpoint = self._endpoint
        if error.reason in _SHRINKS and endpoint.window.on_throttle(epoch) and error.reason is Reason.THROTTLED:
            endpoint.pace.on_throttle(endpoint.client.answers)
        # A whole run is not ended by one refusal: the request is retried once. Others may have succeeded meanwhile.
        doubtful = error.permanent and error.may_pass and self._failures == 1
        hopeful = error.retryable and not error.permanent
        pause = endpoint.policy.pause(self._failures, error.retry_after, time.monotonic() - self._started)
        if pause is None or not (hopeful or doubtful):
            return False
        endpoint.retries[error.reason] += 1
        await endpoint.loop.sleep(pause)
        return True


class CircuitBreaker:
    """Judges failed objects of one storage: does the run end with them?"""

    def __init__(self) -> None:
        self._worked = False
        self._in_a_row = 0
        self._since = 0.0

    def succeeded(self) -> None:
        """Note that a request has succeeded."""
        self._worked = True
        self._in_a_row = 0

    def trip_on(self, error: StorageError) -> StorageError | None:
        """Return what the run ends with; None: the failure concerns this object alone, as far as one can tell."""
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
