"""Which worker has a run: a key in Redis that vanishes unless the worker renews it.

At most one worker has the lease of a run, and only that one executes it: Redis may hand out a task twice.
"""

from __future__ import annotations

import redis

from mastosync_dagster.machines.broker import CONNECT_SECONDS, check_broker, keepalive

LEASE_SECONDS = 45.0
"""A worker that was silent for so long does not have the run any more."""
_RENEWALS = 9
"""How often a lease is renewed before it would end."""

_PREFIX = "mastosync:run:"


class Leases:
    """The leases that a Redis server knows.

    Each method raises `redis.RedisError` where the server does not answer within some seconds.

    Args:
        url: Of the broker.
        seconds: How long a lease lasts.
    """

    def __init__(self, url: str, seconds: float = LEASE_SECONDS) -> None:
        check_broker(url)
        self.renew_seconds = seconds / _RENEWALS
        self.silent_seconds = seconds - self.renew_seconds
        """For so long a process goes on that does not hear from its worker."""
        self._milliseconds = int(seconds * 1000)
        self._redis = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=CONNECT_SECONDS,
            socket_keepalive=True,
            socket_keepalive_options=keepalive(),
        )

    def holder(self, run_id: str) -> str | None:
        """Return who has the lease of a run; None: nobody."""
        holder = self._redis.get(_PREFIX + run_id)
        return None if holder is None else str(holder)

    def take(self, run_id: str, holder: str) -> bool:
        """Take the lease of a run that nobody has, or renew one's own; return whether it is one's own now."""
        key = _PREFIX + run_id
        if self._redis.set(key, holder, nx=True, px=self._milliseconds):
            return True
        if self._redis.get(key) != holder:
            return False
        # It may end right now: then nobody has it until it is renewed again.
        self._redis.pexpire(key, self._milliseconds)
        return True

    def give_back(self, run_id: str, holder: str) -> None:
        """End a lease, if it is one's own."""
        key = _PREFIX + run_id
        if self._redis.get(key) == holder:
            self._redis.delete(key)
