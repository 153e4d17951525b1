"""The retries of one request of the copy: whether another attempt is made, when, and how the window shrinks.

How often and how long is the policy's (`s3.retry_policies`). The requests themselves are sent by `copy.endpoint` and,
for a body that is read and written at the same time, `copy.single` and `copy.multipart`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from mastosync_dagster.copy.endpoint import Endpoint
    from mastosync_dagster.s3.errors import StorageError

_SHRINKS = frozenset({Reason.THROTTLED, Reason.TIMEOUT})


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
