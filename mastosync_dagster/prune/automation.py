"""Deletions follow once a month: the schedule over all ID ranges."""

# Without `from __future__ import annotations`: Dagster reads the annotations of schedules.

import dagster as dg

from mastosync_dagster.prune.ops import prune_every_range


def monthly_prune(timezone: str) -> dg.ScheduleDefinition:
    """Return the schedule ``monthly_prune``, which is off until an admin switches it on, and deletes from then on."""
    return dg.ScheduleDefinition(
        name="monthly_prune",
        job=prune_every_range,
        cron_schedule="0 6 1 * *",
        execution_timezone=timezone,
        run_config={"ops": {"prune_all": {"config": {"delete": True}}}},
        description="Deletes at the destination what no row expects any more, on the first of each month, under the"
        " guards of a prune. Nights delete nothing.",
    )
