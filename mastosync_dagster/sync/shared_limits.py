"""Rate limits that hold over all runs of an instance together, on whichever machines they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.runs.run_lock import HIDDEN_TAGS

if TYPE_CHECKING:
    from dagster import DagsterInstance

_SHARES = f"{HIDDEN_TAGS}shares-limits"
"""The tag of runs that copy with a rate limit: at which storage. All machines of an instance can see its history."""
_BOTH = "yes"
"""Its value at both storages, and of runs of earlier versions, which did not say at which one."""


class SharedLimits:
    """Counts the runs that copy with a rate limit at the same storage now; each takes an equal part of its own limit.

    A run whose process was killed counts until it is ended: until then the others are slower than they need be.
    """

    def __init__(self, instance: DagsterInstance, run_id: str) -> None:
        self._instance = instance
        self._run_id = run_id
        self._storages: frozenset[str] = frozenset()

    def runs(self, storage: str) -> int:
        """Return how many runs share the limits of a storage (``source``, ``destination``), this one included."""
        if storage not in self._storages:
            self._storages |= {storage}
            self._instance.add_run_tags(self._run_id, {_SHARES: storage if len(self._storages) == 1 else _BOTH})
        # Not those that wait in the queue, nor those that are being ended.
        filters = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags={_SHARES: [storage, _BOTH]})
        return max(1, self._instance.get_runs_count(filters))
