"""A graph asset per file type, the chain of ops over one ID range; and the jobs that run it."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (Dagster reads the return annotation)
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.alerts.nights import announce_failed_night, announce_good_night
from mastosync_dagster.ranges.checks import SEE_EACH, range_check
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.summaries import CHECK_NAME
from mastosync_dagster.runs.watermarks import REPLICA
from mastosync_dagster.sync.ops import copy, plan, plan_changes, report, report_changes

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

GROUP = "copy"

_CHECK = f"No object of the ID range is missing at the source (a warning) or has failed (an error). {SEE_EACH}"

_CONTENTS = {
    FileType.MEDIA_ATTACHMENTS: "Pictures, videos and sounds of posts, with their previews and thumbnails.",
    FileType.ACCOUNTS: "Avatars and headers.",
    FileType.CUSTOM_EMOJIS: "Custom emoji, with their static pictures.",
    FileType.PREVIEW_CARDS: "Pictures of link previews.",
    FileType.SITE_UPLOADS: "The instance's own pictures: thumbnail, icons, mascot. A few rows, one ID range.",
    FileType.BACKUPS: "Archives that people have asked for; private. Few rows, one ID range.",
}

_DESCRIPTION = """\
{contents}

- **A partition is an ID range**: `1-50000` are the rows of `{table}` with these ids. `mastosync ranges` registers them.
- **To copy**: *Materialize…* at the top right, *Missing*, *Launch backfill* (of one range:
  *Launch 1 run*). The runs begin within half a minute.
- **Repeat it as often as you like**, and stop it whenever you like: what has arrived stays, and is not copied again.
- *Missing*, of an ID range: no run of it has succeeded yet. *Failed*: objects failed in its last run; launch it again.
- `copied`, of an object: by this run. `present`: it was at the destination already, and is equal.
- `missing`: the database says that it exists, and the source does not have it. `failed`: it has a reason.
- **The list** of missing and failed objects is on each ID range (tab *Partitions*), with what to do; the whole one:
  `mastosync report {table}`.
- **Is the copy whole?** Materialize [{table}_verification](/assets/{table}_verification).
"""

_REPLICA = """\
The copy as a whole: everything that was in the database at the *watermark*, and is wanted, is at the destination.

- **It is materialized by itself**, whenever `sync_changes` has gone through the changed rows of all file types, and no
  object has failed: each night, once the schedule `nightly_incremental` is on (*Automation*). A run into another
  destination, or of another part of the instance, than the settings say does not count.
{freshness}
- By hand: `mastosync sync --changed-since last` with all file types.
"""
_TURNS_RED = """\
- **It turns red** (*freshness*) when this has not happened for {hours} hours. Look at the newest run of `sync_changes`,
  and whether the daemon runs."""
_NEVER_RED = "- It does not turn red: `MASTOSYNC_NIGHTLY_CRON` names too few nights to say when one is late."
_A_NIGHT_TAKES = timedelta(hours=2)
"""How long after the usual time a night may end."""


def _file_type_asset(file_type: FileType) -> dg.AssetsDefinition:
    """Return the asset of a file type: its objects at the destination, a partition per ID range of its table."""

    @dg.graph_asset(
        name=file_type.value,
        description=_DESCRIPTION.format(contents=_CONTENTS[file_type], table=file_type.value),
        group_name=GROUP,
        kinds={"s3", "postgres"},
        partitions_def=file_type.partitions,
        check_specs=[range_check(CHECK_NAME, file_type.value, file_type, _CHECK)],
    )
    def asset() -> Mapping[str, object]:
        result, check = report(copy(plan()))
        return {"result": result, f"{file_type.value}_{CHECK_NAME}": check}

    return asset


def all_assets() -> list[dg.AssetsDefinition]:
    """Return the assets of all file types."""
    return [_file_type_asset(file_type) for file_type in FileType]


# What the launchpad shows when a run is launched: Dagster shows no default that is None, and a job's config is shown.
# Each null stands for what the field's description says: a variable, or no limit. The variable's value in its place
# would hide that of the machine which executes the run, and each later change.
_NULL = "In the launchpad null leaves a setting to its variable, or to no limit: the help beside the config says which."
_PLAN_SETTINGS = {"copy_private": None}
_CHANGES_SETTINGS = {
    "file_types": [file_type.value for file_type in FileType],
    "changed_since": None,
    "limit": None,
    **_PLAN_SETTINGS,
}
_COPY_SETTINGS = {
    "concurrency": None,
    "source_requests_per_second": None,
    "source_megabytes_per_second": None,
    "destination_requests_per_second": None,
    "destination_megabytes_per_second": None,
}


@dg.job(
    description=f"Copy the objects of changed rows, or of a few rows for a trial, of all file types or some. {_NULL}",
    config={"ops": {"plan_changes": {"config": _CHANGES_SETTINGS}, "copy": {"config": _COPY_SETTINGS}}},
)
def sync_changes() -> None:
    """Run the chain once over the rows that the config of ``plan_changes`` selects."""
    report_changes.with_hooks({announce_good_night, announce_failed_night})(
        copy.with_hooks({announce_failed_night})(plan_changes.with_hooks({announce_failed_night})())
    )


def replica(longest_gap: timedelta | None) -> dg.AssetSpec:
    """Return the asset ``replica``: materialized by each night that ends well, and red when one is two hours late.

    ``longest_gap`` is the longest time between nights; None: it is unknown, and then the asset is never red.
    """
    window = None if longest_gap is None else longest_gap + _A_NIGHT_TAKES
    freshness = _NEVER_RED if window is None else _TURNS_RED.format(hours=round(window.total_seconds() / 3600))
    return dg.AssetSpec(
        REPLICA,
        description=_REPLICA.format(freshness=freshness),
        group_name=GROUP,
        deps=[file_type.value for file_type in FileType],
        kinds={"s3"},
        freshness_policy=None if window is None else dg.FreshnessPolicy.time_window(fail_window=window),
    )


def sync_jobs() -> list[UnresolvedAssetJobDefinition]:
    """Return the partitioned jobs ``sync_<asset>``: a run is one ID range."""
    return [
        dg.define_asset_job(
            f"sync_{file_type.value}",
            selection=dg.AssetSelection.assets(file_type.value),
            config={
                "ops": {
                    file_type.value: {
                        "ops": {"plan": {"config": _PLAN_SETTINGS}, "copy": {"config": _COPY_SETTINGS}},
                    }
                }
            },
            description=f"Copy the objects of one ID range of {file_type.value}. {_NULL}",
        )
        for file_type in FileType
    ]
