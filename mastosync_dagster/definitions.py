"""Everything that Dagster loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.assets import all_assets
from mastosync_dagster.jobs import all_jobs
from mastosync_dagster.progress import LogProgress
from mastosync_dagster.resources import MastodonDatabase, S3Bucket

if TYPE_CHECKING:
    from mastosync_dagster.progress import ProgressReporter


def build_definitions(progress: ProgressReporter | None = None) -> dg.Definitions:
    """Return the definitions; what they need from the environment is read when a run starts.

    Args:
        progress: Who hears of a run's progress; by default a log line every ten seconds.
    """
    return dg.Definitions(
        assets=all_assets(),
        jobs=all_jobs(),
        resources={
            "mastodon_db": MastodonDatabase(),
            "source": S3Bucket.source(),
            "destination": S3Bucket.destination(),
            "progress": progress or LogProgress(),
        },
        # Runs of backfills take no job's executor, so it stands here. One process a run: a step's process would cost
        # seconds, and the parallelism is threads inside the copy and runs beside each other.
        executor=dg.in_process_executor,
    )


defs = build_definitions()
