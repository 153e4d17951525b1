"""Proof that a copy is whole: an asset per file type whose partitions are the verifications of its ID ranges.

A run compares one range at both storages, changes nothing, and writes a file of findings. As an asset of its own, it
shows in the UI which ranges have been verified, and which have been synced since.
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets.

from collections.abc import Iterator

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from mastosync_dagster.ranges.partitions import FileType, range_of_run
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.failures import plain_failures
from mastosync_dagster.runs.progress import ProgressReporter
from mastosync_dagster.runs.run_lock import working
from mastosync_dagster.verify.config import VerifyConfig
from mastosync_dagster.verify.events import CHECK_NAME
from mastosync_dagster.verify.run import verify

GROUP = "verification"


def verification_asset(file_type: FileType) -> dg.AssetsDefinition:
    """Return the asset ``<asset>_verification``: what was found at the destination, a partition per ID range."""

    @dg.asset(
        name=f"{file_type.value}_verification",
        description=f"Which ID ranges of {file_type.value} are proven whole at the destination, and what was found.",
        group_name=GROUP,
        kinds={"s3", "postgres"},
        partitions_def=file_type.partitions,
        deps=[file_type.value],
        check_specs=[
            dg.AssetCheckSpec(
                CHECK_NAME,
                asset=f"{file_type.value}_verification",
                description="What the source has is at the destination as it must be (else an error), and nothing that"
                " no row expects, nor is the source damaged (a warning).",
            )
        ],
    )
    def asset(  # noqa: PLR0917  (Dagster passes config and resources by name)
        context: dg.AssetExecutionContext,
        config: VerifyConfig,
        mastodon_db: MastodonDatabase,
        source: S3Bucket,
        destination: S3Bucket,
        progress: dg.ResourceParam[ProgressReporter],
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
        with plain_failures(), working(context.instance, context.run.run_id):
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


def verify_job(file_type: FileType) -> UnresolvedAssetJobDefinition:
    """Return the partitioned job ``verify_<asset>``: a run is one ID range."""
    return dg.define_asset_job(
        f"verify_{file_type.value}",
        selection=dg.AssetSelection.assets(f"{file_type.value}_verification"),
        description=f"Compare the destination with rows and source, for one ID range of {file_type.value}.",
    )
