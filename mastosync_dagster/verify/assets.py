"""Proof that a copy is whole: an asset per file type whose partitions are the verifications of its ID ranges.

A run compares one range at both storages, changes nothing, and writes a file of findings. As an asset of its own, it
shows in the UI which ranges have been verified, and which have been synced since.
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets.

from collections.abc import Iterator

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from mastosync_dagster.ranges.checks import SEE_EACH, range_check
from mastosync_dagster.ranges.partitions import FileType, range_of_run
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.failures import noted_when_stopped, plain_failures
from mastosync_dagster.runs.progress import ProgressReporter
from mastosync_dagster.runs.run_lock import working
from mastosync_dagster.shield import load_shielded
from mastosync_dagster.verify.config import VerifyConfig
from mastosync_dagster.verify.settings import CHECK_NAME

GROUP = "verify"

_CHECK = (
    "What the source has is at the destination as it must be (else an error). Nothing is there that no row expects, and"
    f" the source is not damaged (else a warning). {SEE_EACH}"
)

_DESCRIPTION = """\
Proof that the copy of [{table}](/assets/{table}) is whole: which ID ranges were compared, and what was found.

- **A partition is an ID range** of `{table}`, as it was copied.
- **To verify**: *Materialize…* at the top right, *All*, *Launch backfill* (of one range:
  *Launch 1 run*). The runs begin within half a minute.
- **It changes nothing**, neither at the source nor at the destination: repeat it as often as you like.
- It compares the rows of the database with listings of both storages; by *Config* also headers, ACLs or bodies.
- *Missing*, of an ID range: it was never verified. *Failed*: objects are not as they must be: sync this ID range again.
- `equal` objects are as they must be; `absent`: the source has it, the destination does not; `missing`: neither has it.
- **The list** of what differs is on each ID range (tab *Partitions*); the whole one is in the file `findings`.
"""


def verification_asset(file_type: FileType) -> dg.AssetsDefinition:
    """Return the asset ``<asset>_verification``: what was found at the destination, a partition per ID range."""

    @dg.asset(
        name=f"{file_type.value}_verification",
        description=_DESCRIPTION.format(table=file_type.value),
        group_name=GROUP,
        kinds={"s3", "postgres"},
        partitions_def=file_type.partitions,
        deps=[file_type.value],
        check_specs=[range_check(CHECK_NAME, f"{file_type.value}_verification", file_type, _CHECK)],
    )
    def asset(  # noqa: PLR0917  (Dagster passes config and resources by name)
        context: dg.AssetExecutionContext,
        config: VerifyConfig,
        mastodon_db: MastodonDatabase,
        source: S3Bucket,
        destination: S3Bucket,
        progress: dg.ResourceParam[ProgressReporter],
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
        stopped = noted_when_stopped(context.log, "stopped while comparing: nothing was changed, no findings are kept")
        with plain_failures(), working(context.instance, context.run.run_id), stopped:
            load_shielded("mastosync_dagster.verify.run")
            from mastosync_dagster.verify.run import verify

            ids = range_of_run(context, file_type)
            run = RunContext.of(context, mastodon_db, source, destination, progress)
            report = verify(run, config, file_type, ids)
        failure = report.failure()
        if failure is not None:
            # There is no materialization.
            yield report.check()
            raise failure
        yield dg.MaterializeResult(metadata=report.metadata())
        # A check is about the newest materialization before it, so it comes after this one.
        yield report.check()

    return asset


def all_verifications() -> list[dg.AssetsDefinition]:
    """Return the verifications of all file types."""
    return [verification_asset(file_type) for file_type in FileType]


def verify_jobs() -> list[UnresolvedAssetJobDefinition]:
    """Return the partitioned jobs ``verify_<asset>``: a run is one ID range."""
    return [
        dg.define_asset_job(
            f"verify_{file_type.value}",
            selection=dg.AssetSelection.assets(f"{file_type.value}_verification"),
            description=f"Compare the destination with rows and source, for one ID range of {file_type.value}.",
        )
        for file_type in FileType
    ]
