"""Jobs: one per file type over its ID ranges, and one over changed rows of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.ops import copy, plan_changes, report_changes
from mastosync_dagster.partitions import FileType

if TYPE_CHECKING:
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


def all_jobs() -> list[UnresolvedAssetJobDefinition | dg.JobDefinition]:
    """Return every job."""
    return [*(sync_job(file_type) for file_type in FileType), sync_changes]
