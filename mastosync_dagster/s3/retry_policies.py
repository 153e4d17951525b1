"""How long a failed request is retried: the policies, beside each other.

The loops that follow them are `copy.endpoint.Endpoint.ask` (an object's requests during a copy), `copy.multipart` (a
body that is read and written at the same time) and `s3.storage.Storage.ask` (everything else).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a request that failed for a passing reason is sent again.

    Attributes:
        attempts: Requests at most.
        backoff: Seconds before the second one at most; doubled for each further one.
        longest: Seconds between two at most, but for a server that asks for more.
        longest_asked: Seconds that a server may ask for (Retry-After).
        patience: Seconds after the first failure; no attempt starts later.
    """

    attempts: int
    backoff: float
    longest: float = 30.0
    longest_asked: float = 30.0
    patience: float = math.inf

    def pause(self, failures: int, asked: float | None, elapsed: float = 0.0) -> float | None:
        """Return the seconds to wait before the next attempt; None: there is to be none.

        ``asked`` is what the server asks to wait, ``elapsed`` the seconds since the first failure.
        """
        if failures >= self.attempts:
            return None
        pause: float = min(self.backoff * 2 ** (failures - 1), self.longest)
        pause *= 0.5 + random.random() / 2  # noqa: S311  (jitter is no secret)
        if asked is not None:
            pause = max(pause, min(asked, self.longest_asked))
        return pause if elapsed + pause <= self.patience else None


SINGLE = RetryPolicy(attempts=4, backoff=0.2)
"""A small request beside the copy: a HEAD, an ACL."""

CHECK = RetryPolicy(attempts=3, backoff=0.5)
"""A check is to say within seconds that nobody is there."""

LISTING = RetryPolicy(attempts=7, backoff=0.5)
"""A page of a listing: half a minute in all."""

COPY = RetryPolicy(attempts=6, backoff=1.0, longest_asked=120.0, patience=900.0)
"""A request of the copy, unless the run config says otherwise, and of a run's probes."""
