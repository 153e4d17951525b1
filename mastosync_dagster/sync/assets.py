"""A graph asset per file type, the chain of ops over one ID range; and the jobs that run it."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (Dagster reads the return annotation)
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.summaries import CHECK_NAME
from mastosync_dagster.sync.ops import copy, plan, plan_changes, report, report_changes

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

_DESCRIPTIONS = {
    FileType.MEDIA_ATTACHMENTS: "Pictures, videos and sounds of posts, with their previews and thumbnails.",
    FileType.ACCOUNTS: "Avatars and headers.",
    FileType.CUSTOM_EMOJIS: "Custom emoji, with their static pictures.",
    FileType.PREVIEW_CARDS: "Pictures of link previews.",
    FileType.SITE_UPLOADS: "The instance's own pictures: thumbnail, icons, mascot. A few rows, one ID range.",
    FileType.BACKUPS: "Archives that people have asked for; private. Few rows, one ID range.",
}


def _file_type_asset(file_type: FileType) -> dg.AssetsDefinition:
    """Return the asset of a file type: its objects at the destination, a partition per ID range of its table."""

    @dg.graph_asset(
        name=file_type.value,
        description=_DESCRIPTIONS[file_type],
        group_name="mastodon",
        kinds={"s3", "postgres"},
        partitions_def=file_type.partitions,
        check_specs=[
            dg.AssetCheckSpec(
                CHECK_NAME, asset=file_type.value, description="Nothing is missing (a warning) or failed (an error)."
            )
        ],
    )
    def asset() -> Mapping[str, object]:
        result, complete = report(copy(plan()))
        return {"result": result, f"{file_type.value}_{CHECK_NAME}": complete}

    return asset


def all_assets() -> list[dg.AssetsDefinition]:
    """Return the assets of all file types."""
    return [_file_type_asset(file_type) for file_type in FileType]


@dg.job(description="Copy the objects of changed rows, or of a few rows for a trial, of all file types or some.")
def sync_changes() -> None:
    """Run the chain once over the rows that the config of ``plan_changes`` selects."""
    report_changes(copy(plan_changes()))


def sync_jobs() -> list[UnresolvedAssetJobDefinition]:
    """Return the partitioned jobs ``sync_<asset>``: a run is one ID range."""
    return [
        dg.define_asset_job(
            f"sync_{file_type.value}",
            selection=dg.AssetSelection.assets(file_type.value),
            description=f"Copy the objects of one ID range of {file_type.value}.",
        )
        for file_type in FileType
    ]
