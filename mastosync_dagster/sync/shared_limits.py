"""Rate limits that hold over all runs of an instance together, on whichever machines they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.runs.run_lock import HIDDEN_TAGS

if TYPE_CHECKING:
    from dagster import DagsterInstance

_SHARES = f"{HIDDEN_TAGS}shares-limits"
"""The tag of runs that copy with a rate limit. What all machines of an instance can see is its history."""


class SharedLimits:
    """Counts the runs that copy with a rate limit now; each of them takes an equal part of its own limit.

    A run whose process was killed counts until it is ended: until then the others are slower than they need be.
    """

    def __init__(self, instance: DagsterInstance, run_id: str) -> None:
        self._instance = instance
        self._run_id = run_id
        self._tagged = False

    def runs(self) -> int:
        """Return how many runs share the limits, this one included."""
        if not self._tagged:
            self._instance.add_run_tags(self._run_id, {_SHARES: "yes"})
            self._tagged = True
        # Not those that wait in the queue, nor those that are being ended.
        filters = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags={_SHARES: "yes"})
        return max(1, self._instance.get_runs_count(filters))
