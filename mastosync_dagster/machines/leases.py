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

# In one step each: between two, a lease may end, and another worker take it.
_RENEW = "return redis.call('get', KEYS[1]) == ARGV[1] and redis.call('pexpire', KEYS[1], ARGV[2]) or 0"
_GIVE_BACK = "return redis.call('get', KEYS[1]) == ARGV[1] and redis.call('del', KEYS[1]) or 0"


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
        return bool(self._redis.eval(_RENEW, 1, key, holder, self._milliseconds))

    def give_back(self, run_id: str, holder: str) -> None:
        """End a lease, if it is one's own."""
        self._redis.eval(_GIVE_BACK, 1, _PREFIX + run_id, holder)
