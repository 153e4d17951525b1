"""Everything that Dagster loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.alerts import alert_on_failure
from mastosync_dagster.process import keep_files_private
from mastosync_dagster.prune.ops import prune_job
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.refetch.fetch import FetchSettings
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.progress import LogProgress
from mastosync_dagster.runs.retention import delete_old_runs, delete_old_runs_daily
from mastosync_dagster.sync.assets import all_assets, sync_changes, sync_jobs
from mastosync_dagster.sync.automation import Nightly, new_ranges, nightly_incremental
from mastosync_dagster.verify.assets import all_verifications, verify_job

if TYPE_CHECKING:
    from mastosync_dagster.runs.progress import ProgressReporter

    defs: dg.Definitions


def build_definitions(
    progress: ProgressReporter | None = None, nightly: Nightly | None = None, web: FetchSettings | None = None
) -> dg.Definitions:
    """Return the definitions; what their runs need from the environment is read when a run starts.

    The process keeps its files private from now on: whoever loads the definitions goes on to run them.

    Args:
        progress: Who hears of a run's progress; by default a log line every ten seconds.
        nightly: When the nightly schedule runs; by default at three o'clock, UTC.
        web: How missing objects are fetched from other servers, where that is asked for.
    """
    keep_files_private()
    over_ranges = sync_jobs()  # the sensor has to hold the very same
    verify_jobs, prune_jobs = ([make(file_type) for file_type in FileType] for make in (verify_job, prune_job))
    return dg.Definitions(
        assets=[*all_assets(), *all_verifications()],
        jobs=[*over_ranges, *verify_jobs, *prune_jobs, sync_changes, delete_old_runs],
        # All are off until somebody switches them on.
        schedules=[nightly_incremental(nightly or Nightly()), delete_old_runs_daily],
        sensors=[new_ranges(over_ranges), alert_on_failure],
        resources={
            "mastodon_db": MastodonDatabase(),
            "source": S3Bucket.source(),
            "destination": S3Bucket.destination(),
            "progress": progress or LogProgress(),
            "web": web or FetchSettings(),
        },
        # Runs of backfills take no job's executor, so it stands here. One process a run: a step's process would cost
        # seconds, and the parallelism is threads inside the copy and runs beside each other.
        executor=dg.in_process_executor,
    )


def __getattr__(name: str) -> object:
    """Build ``defs`` when Dagster asks for it: a schedule's time is fixed by then, and an import reads no settings.

    Raises:
        SettingsError: The time of the nightly schedule is none.
    """
    if name == "defs":
        loaded = globals()["defs"] = build_definitions(nightly=Nightly.read())
        return loaded
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name the definitions, since Dagster finds them by looking through the module's members."""
    return sorted({*globals(), "defs"})
