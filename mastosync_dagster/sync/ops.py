"""The ops of every job: plan what is to be copied, copy it, report the result.

Each op is a step of its own in the UI. What they hand on lies in files of the run's own folder, so that nothing in
memory grows with the table, and no run needs a file of another one, which may lie on another machine.
"""

# Without `from __future__ import annotations`: Dagster reads the annotations of ops, and takes no text for a config.

from collections.abc import Iterator

import dagster as dg
from psycopg2.extensions import connection as Connection

from mastosync_dagster.alerts.nights import announce_start, announced_when_stopped
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
from mastosync_dagster.sync.models import Copied, Planned, Scope, config_of, hand_on, handed_on
from mastosync_dagster.sync.plan_step import make_run_plan
from mastosync_dagster.sync.report_step import finish

_PLANNING = "stopped while planning: nothing was copied"


def _plan_range(context: dg.OpExecutionContext, run: RunContext, config: PlanConfig) -> Planned:
    """Plan one ID range of the asset that the op runs for."""
    file_type = FileType(context.assets_def.key.to_user_string())
    table, policy = file_type.value, policy_of(config)
    ids = range_of_run(context, file_type)

    def scope_at(_: Connection, reading: Reading) -> Scope:
        rows = Selection(table, ids=ids, remote=policy.window(table, reading.read_at))
        return Scope(table, context.partition_key, selections=(rows,), policy=policy)

    return make_run_plan(run, scope_at, config, claims=False)


def _plan_rows(context: dg.OpExecutionContext, run: RunContext, config: ChangesConfig) -> Planned:
    """Plan the rows that the config selects, of several file types."""
    policy = policy_of(config)

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

    return make_run_plan(run, scope_at, config, claims=not any(rows.is_cut for rows in config.every_selection))


@dg.op(
    description="Read the rows of the ID range, list source and destination, and write down what is to be copied.",
    out=dg.Out(dg.Nothing),
)
def plan(
    context: dg.OpExecutionContext,
    config: PlanConfig,
    mastodon_db: MastodonDatabase,
    source: S3Bucket,
    destination: S3Bucket,
    progress: dg.ResourceParam[ProgressReporter],
) -> None:
    """Plan one ID range of the asset that the op runs for."""
    with plain_failures(), working(context.instance, context.run_id), noted_when_stopped(context.log, _PLANNING):
        run = RunContext.of(context, mastodon_db, source, destination, progress)
        hand_on(run, _plan_range(context, run, config))


@dg.op(
    description="Read changed rows (or a few rows) of the file types, and write down what is to be copied.",
    out=dg.Out(dg.Nothing),
)
def plan_changes(
    context: dg.OpExecutionContext,
    config: ChangesConfig,
    mastodon_db: MastodonDatabase,
    source: S3Bucket,
    destination: S3Bucket,
    progress: dg.ResourceParam[ProgressReporter],
) -> None:
    """Plan the rows that the config selects, of several file types."""
    with (
        plain_failures(),
        working(context.instance, context.run_id),
        noted_when_stopped(context.log, _PLANNING),
        announced_when_stopped(context.run, context.log),
    ):
        announce_start(context.run, context.log)
        run = RunContext.of(context, mastodon_db, source, destination, progress)
        hand_on(run, _plan_rows(context, run, config))


def _planned(context: dg.OpExecutionContext, run: RunContext) -> Planned:
    """Return the run's plan. Re-executed from failure it makes one: that of the other run is stale, or elsewhere."""
    if (planned := handed_on(run, Planned)) is not None:
        return planned
    if (config := config_of(context, "plan_changes", ChangesConfig)) is not None:
        return _plan_rows(context, run, config)
    return _plan_range(context, run, config_of(context, "plan", PlanConfig) or PlanConfig())


def _copied(context: dg.OpExecutionContext, run: RunContext, web: FetchSettings) -> Copied:
    """Return what the run has copied. One that is re-executed from the failure of its last step copies the rest."""
    if (copied := handed_on(run, Copied)) is not None:
        return copied
    config = config_of(context, "copy", CopyConfig) or CopyConfig()
    return copy_planned(run, config, _planned(context, run), web)


@dg.op(
    description="Stream the planned objects from the source to the destination, verified.",
    ins={"planned": dg.In(dg.Nothing)},
    out=dg.Out(dg.Nothing),
)
def copy(
    context: dg.OpExecutionContext,
    config: CopyConfig,
    mastodon_db: MastodonDatabase,
    source: S3Bucket,
    destination: S3Bucket,
    progress: dg.ResourceParam[ProgressReporter],
    web: dg.ResourceParam[FetchSettings],
) -> None:
    """Carry out the plan."""
    with (
        plain_failures(),
        working(context.instance, context.run_id),
        announced_when_stopped(context.run, context.log),
    ):
        run = RunContext.of(context, mastodon_db, source, destination, progress)
        hand_on(run, copy_planned(run, config, _planned(context, run), web))


@dg.op(
    description="Write the manifest, count, and report what is missing or failed.",
    ins={"copied": dg.In(dg.Nothing)},
    out={"result": dg.Out(dg.Nothing), summaries.CHECK_NAME: dg.Out(dg.Nothing)},
)
def report(
    context: dg.OpExecutionContext,
    mastodon_db: MastodonDatabase,
    source: S3Bucket,
    destination: S3Bucket,
    progress: dg.ResourceParam[ProgressReporter],
    web: dg.ResourceParam[FetchSettings],
) -> Iterator[dg.AssetCheckResult | dg.Output[None]]:
    """End a run of one ID range: the materialization and the asset check, or the check and a failure."""
    with plain_failures(), working(context.instance, context.run_id):
        run = RunContext.of(context, mastodon_db, source, destination, progress)
        result = finish(run, _copied(context, run, web))
    context.log.info(result.closing_line)
    check = check_result(
        result.summary.total,
        result.copied.planned.scope.name,
        failed=result.failed(result.summary.total),
        stopped=result.copied.stopped,
        remark=result.copied.planned.remark,
    )
    if result.has_failed:
        for event in result.range_events():
            context.log_event(event)
        yield check
        result.raise_if_failed()
    # The materialization first: the UI shows a check as evaluated where it is about the newest one.
    yield dg.Output(None, output_name="result", metadata=result.metadata())
    for event in result.range_events():
        context.log_event(event)
    yield check


def _destination_of_settings() -> str | None:
    """Return the destination that the settings name; None: they name none, and a run's config must."""
    try:
        return S3Bucket.destination().storage().settings.identity
    except AdminError:
        return None


@dg.op(
    description="Write the manifest, count, and note on each asset what was done for it.",
    ins={"copied": dg.In(dg.Nothing)},
    out=dg.Out(dg.Nothing),
)
def report_changes(
    context: dg.OpExecutionContext,
    mastodon_db: MastodonDatabase,
    source: S3Bucket,
    destination: S3Bucket,
    progress: dg.ResourceParam[ProgressReporter],
    web: dg.ResourceParam[FetchSettings],
) -> None:
    """End an unpartitioned run: an observation per file type, or a failure if an object failed."""
    with (
        plain_failures(),
        working(context.instance, context.run_id),
        announced_when_stopped(context.run, context.log),
    ):
        run = RunContext.of(context, mastodon_db, source, destination, progress)
        result = finish(run, _copied(context, run, web))
    context.log.info(result.closing_line)
    observations = [result.observation(selection) for selection in result.copied.planned.scope.selections]
    for observation in observations:
        context.log_event(observation)
    context.add_output_metadata(result.metadata())
    result.raise_if_failed()
    if (night := result.night(observations, instance_policy(), _destination_of_settings())) is not None:
        context.log_event(night)
