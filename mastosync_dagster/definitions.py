"""Everything that Dagster loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.alerts.sensors import alert_on_failed_tick, alert_on_failure
from mastosync_dagster.process import keep_files_private
from mastosync_dagster.prune.automation import monthly_prune
from mastosync_dagster.prune.ops import prune_every_range, prune_jobs
from mastosync_dagster.ranges.command_line import refuse_without_range
from mastosync_dagster.refetch.fetch import FetchSettings
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.progress import LogProgress
from mastosync_dagster.runs.retention import delete_old_runs, delete_old_runs_daily
from mastosync_dagster.sync.assets import all_assets, replica, sync_changes, sync_jobs
from mastosync_dagster.sync.automation import Nightly, new_ranges, nightly_incremental
from mastosync_dagster.verify.assets import all_verifications, verify_jobs

if TYPE_CHECKING:
    from mastosync_dagster.runs.progress import ProgressReporter

    defs: dg.Definitions


def build_definitions(
    progress: ProgressReporter | None = None, nightly: Nightly | None = None, web: FetchSettings | None = None
) -> dg.Definitions:
    """Return the definitions. Runs read the environment when they start.

    From now on the process keeps its files private: it goes on to run what it has loaded. By default progress is a log
    line every ten seconds, and the nightly schedule runs at three o'clock, UTC.
    """
    keep_files_private()
    nightly = nightly or Nightly()
    range_jobs = sync_jobs()  # the sensor must be given the same job objects
    return dg.Definitions(
        assets=[*all_assets(), replica(nightly.longest_gap()), *all_verifications()],
        jobs=[*range_jobs, *verify_jobs(), *prune_jobs(), sync_changes, prune_every_range, delete_old_runs],
        # Schedules are off until somebody switches them on.
        schedules=[nightly_incremental(nightly, sync_changes), monthly_prune(nightly.timezone), delete_old_runs_daily],
        sensors=[new_ranges(range_jobs), alert_on_failure, alert_on_failed_tick],
        resources={
            "mastodon_db": MastodonDatabase(),
            "source": S3Bucket.source(),
            "destination": S3Bucket.destination(),
            "progress": progress or LogProgress(),
            "web": web or FetchSettings(),
        },
        # Set here, since runs of backfills ignore the executor of a job. One process a run: a process for each step
        # costs seconds, and the copy is concurrent inside its process.
        executor=dg.in_process_executor,
    )


def __getattr__(name: str) -> object:
    """Build ``defs`` when Dagster asks for it, since an import must read no settings."""
    if name == "defs":
        refuse_without_range()
        loaded = globals()["defs"] = build_definitions(nightly=Nightly.read())
        return loaded
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name ``defs``: Dagster looks through the module's members."""
    return sorted({*globals(), "defs"})
