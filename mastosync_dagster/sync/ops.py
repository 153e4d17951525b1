"""The ops of every job: plan what is to be copied, copy it, report the result.

Each op is a step of its own in the UI. What they hand on lies in files of the run's own folder, so that nothing in
memory grows with the table, and no run needs a file of another one, which may lie on another machine.

What an op does is imported when it runs: the services that load the ops to show and start them never need it, and it
takes 35 MB, a third of which no other process can share.
"""

# Without `from __future__ import annotations`: Dagster reads the annotations of ops, and takes no text for a config.

from collections.abc import Iterator

import dagster as dg

from mastosync_dagster.alerts.nights import announce_start, announced_when_stopped
from mastosync_dagster.errors import AdminError
from mastosync_dagster.expected.policy import instance_policy
from mastosync_dagster.records import summaries
from mastosync_dagster.refetch.fetch import FetchSettings
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.failures import noted_when_stopped, plain_failures
from mastosync_dagster.runs.progress import ProgressReporter
from mastosync_dagster.runs.run_lock import working
from mastosync_dagster.shield import load_shielded
from mastosync_dagster.sync.config import ChangesConfig, CopyConfig, PlanConfig

_PLANNING = "stopped while planning: nothing was copied"


def _run(
    context: dg.OpExecutionContext,
    mastodon_db: MastodonDatabase,
    source: S3Bucket,
    destination: S3Bucket,
    progress: ProgressReporter,
) -> RunContext:
    """Return what the op's run is given, when what it does is loaded."""
    load_shielded("mastosync_dagster.sync.steps")
    return RunContext.of(context, mastodon_db, source, destination, progress)


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
        run = _run(context, mastodon_db, source, destination, progress)
        from mastosync_dagster.sync import steps

        steps.plan_range(context, run, config)


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
        run = _run(context, mastodon_db, source, destination, progress)
        from mastosync_dagster.sync import steps

        steps.plan_changes(context, run, config)


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
        run = _run(context, mastodon_db, source, destination, progress)
        from mastosync_dagster.sync import steps

        steps.copy(context, run, config, web)


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
        run = _run(context, mastodon_db, source, destination, progress)
        from mastosync_dagster.sync import steps

        result = steps.report(context, run, web)
    context.log.info(result.closing_line)
    check = result.check()
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
        run = _run(context, mastodon_db, source, destination, progress)
        from mastosync_dagster.sync import steps

        result = steps.report(context, run, web)
    context.log.info(result.closing_line)
    observations = [result.observation(selection) for selection in result.copied.planned.scope.selections]
    for observation in observations:
        context.log_event(observation)
    context.add_output_metadata(result.metadata())
    result.raise_if_failed()
    if (night := result.night(observations, instance_policy(), _destination_of_settings())) is not None:
        context.log_event(night)
