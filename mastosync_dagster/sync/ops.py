"""The ops of every job: plan what is to be copied, copy it, report the result.

Each op is a step of its own in the UI. They pass on small descriptions; the plan itself lies in files of the run's
folder, so that nothing in memory grows with the table.
"""

# Without `from __future__ import annotations`: Dagster reads the annotations of ops, and takes no text for a config.

from collections.abc import Iterator

import dagster as dg
from psycopg2.extensions import connection as Connection

from mastosync_dagster.alerts.nights import announce_start
from mastosync_dagster.errors import AdminError
from mastosync_dagster.expected.policy import instance_policy, policy_of
from mastosync_dagster.mastodon import Selection
from mastosync_dagster.ranges.partitions import FileType, range_of_run
from mastosync_dagster.records import summaries
from mastosync_dagster.refetch.fetch import FetchSettings
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.doubts import CHANGES
from mastosync_dagster.runs.failures import noted_when_stopped, plain_failures
from mastosync_dagster.runs.progress import ProgressReporter
from mastosync_dagster.runs.run_lock import working
from mastosync_dagster.runs.watermarks import believable
from mastosync_dagster.sync.clocks import Reading
from mastosync_dagster.sync.config import ChangesConfig, CopyConfig, PlanConfig
from mastosync_dagster.sync.copy_step import copy_planned
from mastosync_dagster.sync.events import check_result
from mastosync_dagster.sync.incremental import checked_history
from mastosync_dagster.sync.models import Copied, Planned, Scope
from mastosync_dagster.sync.plan_step import make_run_plan
from mastosync_dagster.sync.report_step import finish

_PLANNING = "stopped while planning: nothing was copied"


@dg.op(description="Read the rows of the ID range, list source and destination, and write down what is to be copied.")
def plan(
    context: dg.OpExecutionContext,
    config: PlanConfig,
    mastodon_db: MastodonDatabase,
    source: S3Bucket,
    destination: S3Bucket,
    progress: dg.ResourceParam[ProgressReporter],
) -> Planned:
    """Plan one ID range of the asset that the op runs for."""
    with plain_failures(), working(context.instance, context.run_id), noted_when_stopped(context.log, _PLANNING):
        file_type = FileType(context.assets_def.key.to_user_string())
        table, policy = file_type.value, policy_of(config)
        ids = range_of_run(context, file_type)

        def scope_at(_: Connection, reading: Reading) -> Scope:
            rows = Selection(table, ids=ids, remote=policy.window(table, reading.read_at))
            return Scope(table, context.partition_key, selections=(rows,), policy=policy)

        run = RunContext.of(context, mastodon_db, source, destination, progress)
        return make_run_plan(run, scope_at, config, claims=False)


@dg.op(description="Read changed rows (or a few rows) of the file types, and write down what is to be copied.")
def plan_changes(
    context: dg.OpExecutionContext,
    config: ChangesConfig,
    mastodon_db: MastodonDatabase,
    source: S3Bucket,
    destination: S3Bucket,
    progress: dg.ResourceParam[ProgressReporter],
) -> Planned:
    """Plan the rows that the config selects, of several file types."""

    def scope_at(connection: Connection, reading: Reading) -> Scope:
        destination_id, latest = run.destination_id, believable(reading.earliest)
        history = checked_history(context.instance, destination_id, connection, latest, policy, reading.read_at)
        shares = config.shares(history, reading.read_at)
        restored = {file_type.value for file_type in history.restored} & {share.selection.table for share in shares}
        (context.log.warning if restored else context.log.info)("; ".join(share.why for share in shares))
        return Scope(
            name=context.job_name,
            partition=CHANGES,
            selections=tuple(share.selection for share in shares),
            claims=tuple(share.claim for share in shares if share.claim),
            destination_id=destination_id,
            policy=policy,
        )

    with plain_failures(), working(context.instance, context.run_id), noted_when_stopped(context.log, _PLANNING):
        announce_start(context.run, context.log)
        policy = policy_of(config)
        run = RunContext.of(context, mastodon_db, source, destination, progress)
        return make_run_plan(run, scope_at, config, claims=not any(rows.is_cut for rows in config.every_selection))


@dg.op(description="Stream the planned objects from the source to the destination, verified.")
def copy(
    context: dg.OpExecutionContext,
    config: CopyConfig,
    planned: Planned,
    mastodon_db: MastodonDatabase,
    source: S3Bucket,
    destination: S3Bucket,
    progress: dg.ResourceParam[ProgressReporter],
    web: dg.ResourceParam[FetchSettings],
) -> Copied:
    """Carry out the plan."""
    with plain_failures(), working(context.instance, context.run_id):
        return copy_planned(RunContext.of(context, mastodon_db, source, destination, progress), config, planned, web)


@dg.op(
    description="Write the manifest, count, and report what is missing or failed.",
    out={"result": dg.Out(dg.Nothing), summaries.CHECK_NAME: dg.Out(dg.Nothing)},
)
def report(
    context: dg.OpExecutionContext,
    copied: Copied,
    mastodon_db: MastodonDatabase,
    source: S3Bucket,
    destination: S3Bucket,
    progress: dg.ResourceParam[ProgressReporter],
    web: dg.ResourceParam[FetchSettings],
) -> Iterator[dg.AssetCheckResult | dg.Output[None]]:
    """End a run of one ID range: the materialization and the asset check, or the check and a failure."""
    with plain_failures(), working(context.instance, context.run_id):
        result = finish(RunContext.of(context, mastodon_db, source, destination, progress), copied, web)
    context.log.info(result.closing_line)
    check = check_result(
        result.summary.total,
        copied.planned.scope.name,
        failed=result.failed(result.summary.total),
        stopped=result.copied.stopped,
        remark=result.copied.planned.remark,
    )
    if result.has_failed:
        yield check
        result.raise_if_failed()
    # The materialization first: the UI shows a check as evaluated where it is about the newest one.
    yield dg.Output(None, output_name="result", metadata=result.metadata())
    yield check


def _destination_of_settings() -> str | None:
    """Return the destination that the settings name; None: they name none, and a run's config must."""
    try:
        return S3Bucket.destination().storage().settings.identity
    except AdminError:
        return None


@dg.op(description="Write the manifest, count, and note on each asset what was done for it.")
def report_changes(
    context: dg.OpExecutionContext,
    copied: Copied,
    mastodon_db: MastodonDatabase,
    source: S3Bucket,
    destination: S3Bucket,
    progress: dg.ResourceParam[ProgressReporter],
    web: dg.ResourceParam[FetchSettings],
) -> summaries.Summary:
    """End an unpartitioned run: an observation per file type, or a failure if an object failed."""
    with plain_failures(), working(context.instance, context.run_id):
        result = finish(RunContext.of(context, mastodon_db, source, destination, progress), copied, web)
    context.log.info(result.closing_line)
    observations = [result.observation(selection) for selection in copied.planned.scope.selections]
    for observation in observations:
        context.log_event(observation)
    context.add_output_metadata(result.metadata())
    result.raise_if_failed()
    if (night := result.night(observations, instance_policy(), _destination_of_settings())) is not None:
        context.log_event(night)
    return result.summary
