"""What the ops of a run do, and how a run that is re-executed makes good for what it was not handed on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.expected.policy import policy_of
from mastosync_dagster.mastodon import Selection
from mastosync_dagster.ranges.partitions import FileType, range_of_run
from mastosync_dagster.runs.doubts import CHANGES
from mastosync_dagster.runs.watermarks import believable
from mastosync_dagster.sync.config import ChangesConfig, CopyConfig, PlanConfig
from mastosync_dagster.sync.copy_step import copy_planned
from mastosync_dagster.sync.incremental import checked_history
from mastosync_dagster.sync.models import Copied, Planned, Scope, config_of, hand_on, handed_on
from mastosync_dagster.sync.plan_step import make_run_plan
from mastosync_dagster.sync.publication import finish

if TYPE_CHECKING:
    import dagster as dg
    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.refetch.fetch import FetchSettings
    from mastosync_dagster.runs.context import RunContext
    from mastosync_dagster.sync.clocks import Reading
    from mastosync_dagster.sync.events import RunReport


def plan_range(context: dg.OpExecutionContext, run: RunContext, config: PlanConfig) -> None:
    """Plan one ID range of the asset that the op runs for."""
    hand_on(run, _range_plan(context, run, config))


def plan_changes(context: dg.OpExecutionContext, run: RunContext, config: ChangesConfig) -> None:
    """Plan the rows that the config selects, of several file types."""
    hand_on(run, _rows_plan(context, run, config))


def copy(context: dg.OpExecutionContext, run: RunContext, config: CopyConfig, web: FetchSettings) -> None:
    """Carry out the plan."""
    hand_on(run, copy_planned(run, config, _planned(context, run), web))


def report(context: dg.OpExecutionContext, run: RunContext, web: FetchSettings) -> RunReport:
    """Publish the results of the run."""
    return finish(run, _copied(context, run, web))


def _range_plan(context: dg.OpExecutionContext, run: RunContext, config: PlanConfig) -> Planned:
    """Plan one ID range of the asset that the op runs for."""
    file_type = FileType(context.assets_def.key.to_user_string())
    table, policy = file_type.value, policy_of(config)
    ids = range_of_run(context, file_type)

    def scope_at(_: Connection, reading: Reading) -> Scope:
        rows = Selection(table, ids=ids, remote=policy.window(table, reading.read_at))
        return Scope(table, context.partition_key, selections=(rows,), policy=policy)

    return make_run_plan(run, scope_at, config, claims=False)


def _rows_plan(context: dg.OpExecutionContext, run: RunContext, config: ChangesConfig) -> Planned:
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


def _planned(context: dg.OpExecutionContext, run: RunContext) -> Planned:
    """Return the run's plan. Re-executed from failure it makes one: that of the other run is stale, or elsewhere."""
    if (planned := handed_on(run, Planned)) is not None:
        return planned
    if (config := config_of(context, "plan_changes", ChangesConfig)) is not None:
        return _rows_plan(context, run, config)
    return _range_plan(context, run, config_of(context, "plan", PlanConfig) or PlanConfig())


def _copied(context: dg.OpExecutionContext, run: RunContext, web: FetchSettings) -> Copied:
    """Return what the run has copied. One that is re-executed from the failure of its last step copies the rest."""
    if (copied := handed_on(run, Copied)) is not None:
        return copied
    config = config_of(context, "copy", CopyConfig) or CopyConfig()
    return copy_planned(run, config, _planned(context, run), web)
