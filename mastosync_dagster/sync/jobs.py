"""Jobs: one per file type over its ID ranges, one over changed rows of all of them, and housekeeping."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.prune.ops import prune_job
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.runs.retention import delete_records
from mastosync_dagster.sync.ops import copy, plan_changes, report_changes
from mastosync_dagster.verify.assets import verify_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition


def sync_job(file_type: FileType) -> UnresolvedAssetJobDefinition:
    """Return the partitioned job ``sync_<asset>``: a run is one ID range."""
    return dg.define_asset_job(
        f"sync_{file_type.value}",
        selection=dg.AssetSelection.assets(file_type.value),
        description=f"Copy the objects of one ID range of {file_type.value}.",
    )


@dg.job(description="Copy the objects of changed rows, or of a few rows for a trial, of all file types or some.")
def sync_changes() -> None:
    """Run the chain once over the rows that the config of ``plan_changes`` selects."""
    report_changes(copy(plan_changes()))


@dg.job(description="Delete Dagster's records of old runs.")
def delete_old_runs() -> None:
    """Delete records that nobody asks for any more."""
    delete_records()


def sync_jobs() -> list[UnresolvedAssetJobDefinition]:
    """Return the jobs over ID ranges."""
    return [sync_job(file_type) for file_type in FileType]


def all_jobs(
    ranges: Sequence[UnresolvedAssetJobDefinition],
) -> list[UnresolvedAssetJobDefinition | dg.JobDefinition]:
    """Return every job.

    Args:
        ranges: `sync_jobs`: a sensor has to hold the very same.
    """
    looks = [verify_job(file_type) for file_type in FileType]
    prunes = [prune_job(file_type) for file_type in FileType]
    return [*ranges, *looks, *prunes, sync_changes, delete_old_runs]
