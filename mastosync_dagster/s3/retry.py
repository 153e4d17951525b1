"""How long a request is repeated: the policies, beside each other."""

from __future__ import annotations

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
    """

    attempts: int
    backoff: float
    longest: float = 30.0
    longest_asked: float = 30.0

    def pause(self, failures: int, asked: float | None) -> float | None:
        """Return the seconds to wait after so many failures; None: it is given up."""
        if failures >= self.attempts:
            return None
        pause: float = min(self.backoff * 2 ** (failures - 1), self.longest)
        pause *= 0.5 + random.random() / 2  # noqa: S311  (jitter is no secret)
        return pause if asked is None else max(pause, min(asked, self.longest_asked))


SINGLE = RetryPolicy(attempts=4, backoff=0.2)
"""A small request beside the copy: a HEAD, an ACL."""

LISTING = RetryPolicy(attempts=7, backoff=0.5)
"""A page of a listing: half a minute in all."""
