"""The first step of a run: read the rows, list both sides, write down what is to be done."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial

from psycopg2.extensions import connection as Connection  # noqa: N812  (a class with a lower-case name)

from mastosync_dagster.environment import retry_nights
from mastosync_dagster.expected.objects import Changes, Sizes, batches
from mastosync_dagster.expected.privacy import KnownState, Privacy
from mastosync_dagster.expected.records import Records
from mastosync_dagster.expected.source_check import hidden_source
from mastosync_dagster.mastodon import (
    Connect,
    NewestRow,
    Schema,
    Selection,
    database_now,
    newest_row_of,
    read_schema,
    walk_rows,
)
from mastosync_dagster.plan.items import Batch
from mastosync_dagster.plan.planner import PlanCounts, make_plan
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.manifest import FORMAT
from mastosync_dagster.runs import work_folder
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.doubts import CHANGES, RunDoubts, others_may_write
from mastosync_dagster.runs.history import (
    OVERLAP,
    SYNC_CHANGES,
    believable,
    new_after,
    read_until_tags,
    watermark,
)
from mastosync_dagster.runs.manifests import Damaged, passed
from mastosync_dagster.runs.outbox import Outbox
from mastosync_dagster.s3.acl import SourceAccess
from mastosync_dagster.sync.clocks import Reading, begin_reading
from mastosync_dagster.sync.config import PlanConfig
from mastosync_dagster.sync.convergence import Convergence, Counts, Rules
from mastosync_dagster.sync.models import Planned, Scope, ScopeAt, is_cut, settles
from mastosync_dagster.verify.inherited import look_at_inherited
from mastosync_dagster.verify.repairs import Repairs, repairs


@dataclass(frozen=True)
class Begun:
    """What is known before the first row is read.

    Attributes:
        scope: What the run is about.
        schema: What the database has.
        reading: The moment that reading it stands for.
        newest: The newest row of each table that the run may claim.
        clock_ahead: How far the database's clock is ahead of this machine's.
        at: When reading began, by `time.monotonic`.
    """

    scope: Scope
    schema: Schema
    reading: Reading
    newest: tuple[NewestRow, ...]
    clock_ahead: timedelta
    at: float


def _begin(
    run: RunContext,
    connection: Connection,
    scope_at: ScopeAt,
    config: PlanConfig,
    *,
    claims: bool,
) -> Begun:
    """Find out what a run is about, and what the database is, before the first row is read."""
    reading = begin_reading(
        connection,
        run.destination if claims else None,
        wait_seconds=config.wait_seconds,
        info=run.log.info,
        warn=run.log.warning,
    )
    scope = scope_at(connection, reading)
    tables = [selection.table for selection in scope.selections]
    schema = read_schema(connection, tables)
    newest = (newest_row_of(connection, schema, table) for table in tables if scope.claims)
    clock_ahead = database_now(connection) - datetime.now(timezone.utc)
    return Begun(scope, schema, reading, tuple(filter(None, newest)), clock_ahead, time.monotonic())


def make_run_plan(run: RunContext, scope_at: ScopeAt, config: PlanConfig, *, claims: bool) -> Planned:
    """Plan into the run's folder, from the rows and listings of both sides; ``claims``: it may move a watermark."""
    started, begun_at = time.monotonic(), datetime.now(timezone.utc)
    work_folder.create_work_folder(run.instance, run.run_id)
    run.ensure_different()
    store = run.store
    Outbox(run.instance).publish_waiting(store, run.log.warning)
    sizes = Sizes()
    with run.database.session() as connect:
        with contextlib.closing(connect()) as connection:
            begun = _begin(run, connection, scope_at, config, claims=claims)
        hidden = hidden_source(connect, run.source) if config.privacy == Privacy.SOURCE.value else None
        if hidden is not None:
            raise hidden
        counts = _plan_rows(run, config, begun, connect, sizes)
    planned = Planned(
        scope=begun.scope,
        config=config,
        run_id=run.run_id,
        counts=counts,
        read_at=begun.reading.read_at,
        seconds=time.monotonic() - started,
        database_bytes=sizes.bytes,
        begun=begun_at,
        remark=_remark(run, begun.scope, Privacy(config.privacy)) if counts.present else None,
        claimable=begun.reading.claimable,
        newest=begun.newest,
    )
    _note(run, planned, begun.reading.latest + timedelta(seconds=time.monotonic() - begun.at))
    return planned


def _plan_rows(
    run: RunContext,
    config: PlanConfig,
    begun: Begun,
    connect: Connect,
    sizes: Sizes,
) -> PlanCounts:
    """Make the plan, and publish what carrying it out puts in doubt."""
    source, destination, scope = run.source, run.destination, begun.scope
    lists = [_doubts(run, scope, selection) for selection in scope.selections]
    marks = _marks(run, scope, config, lists)
    with contextlib.ExitStack() as stack:
        watcher = stack.enter_context(run.progress.watch(run.log))
        for listed in lists:
            listed.open(stack)
        convergences = [
            Convergence(
                connect,
                begun.schema,
                listed,
                destination=destination,
                source=partial(SourceAccess, source) if marks.privacy is Privacy.SOURCE else None,
                rules=_rules(run, listed.table, config, marks, begun.reading.read_at),
            )
            for listed in lists
        ]
        counts = make_plan(
            itertools.chain.from_iterable(
                _wanted(run, config, begun, selection, convergence, connect=connect, sizes=sizes)
                for selection, convergence in zip(scope.selections, convergences, strict=True)
            ),
            source,
            destination,
            run.folder,
            listers=config.listers,
            copy_private=bool(config.wants_private()),
            keep_access=marks.privacy is Privacy.SOURCE,
            on_progress=watcher.planned,
            stop=threading.Event(),
            knowledge=_records(run, begun, connect).known,
            overwrite=config.overwrite,
        )
        for listed in lists:
            listed.add_planned(has_acls=destination.settings.has_acls)
    # Before the first object is written: whatever becomes of this run, what it makes doubtful is asked for.
    for listed in lists:
        listed.publish()
    for listed, convergence in zip(lists, convergences, strict=True):
        if convergence.counts != Counts():
            run.log.info(f"{listed.table}, in doubt: {convergence.counts}")
    # What was found private tonight is probed too: a policy of the bucket wins over ACLs, whenever it came.
    folders = counts.private_folders.union(*(convergence.folders for convergence in convergences))
    return replace(counts, private_folders=folders)


def _records(run: RunContext, begun: Begun, connect: Connect) -> Records:
    """Return what was last recorded of objects, for those whose bytes differ."""
    return Records(
        connect,
        begun.schema,
        store=run.store,
        origin=run.origin,
        prefix=run.destination.settings.prefix,
        warn=run.log.warning,
    )


def _note(run: RunContext, planned: Planned, read_until: datetime) -> None:
    """Note until when a run has read the rows, and tell what it has planned."""
    # Before the first object is copied, so that no run has copied something and lacks them.
    tags = read_until_tags((selection.table for selection in planned.scope.selections), read_until, run.run_id)
    run.instance.add_run_tags(run.run_id, tags)
    counts = planned.counts
    run.log.info(
        f"planned {counts.rows:,} rows, {counts.objects:,} objects in {planned.seconds:.1f} s: {counts.to_copy:,} to"
        f" copy ({counts.bytes_to_copy / 1e6:,.1f} MB), {counts.present:,} present, {counts.missing:,} missing,"
        f" {counts.failed:,} failed; {counts.list_requests:,} list and {counts.head_requests:,} head requests"
    )


def _remark(run: RunContext, scope: Scope, privacy: Privacy) -> str | None:
    """Look at what another tool may have put at the destination, before the first run; None: nothing is to be said."""
    store, place = run.store, run.place
    tables = scope.tables
    unknown_whole, unknown_changed = set(tables.whole), set(tables.changed)
    group = SYNC_CHANGES if scope.partition == CHANGES else scope.name
    for manifest in reversed(store.of_partition(group, scope.partition)):
        if not unknown_whole and not unknown_changed:
            break
        earlier = passed(store, manifest, FORMAT, place)
        unknown_whole -= earlier.whole
        unknown_changed -= earlier.whole | earlier.changed
    unknown = unknown_whole | unknown_changed
    if not unknown:
        return None
    folder = run.folder
    found = look_at_inherited(
        folder,
        run.source,
        run.destination,
        groups=unknown,
        as_source=privacy is Privacy.SOURCE,
        stop=threading.Event(),
    )
    if not found.differ:
        return None
    remark = (
        f"{found.differ:,} of {found.looked:,} objects that were at the destination before, and were looked at, are not"
        " as a copy would have made them: another tool has put them there. Verify the ID ranges with headers: all and"
        " acls: all, then sync them again; docs/verify-and-prune.md says how"
    )
    run.log.warning(f"{remark}. {found.first}")
    return remark


def _doubts(run: RunContext, scope: Scope, selection: Selection) -> RunDoubts:
    return RunDoubts(
        run.list_place(scope.partition),
        selection.table,
        damaged=Damaged(run.log.warning),
        instance=run.instance,
        ids=None if scope.partition == CHANGES else selection.ids,
        settles=settles(selection),
        plans_all=selection.changed_since is None and not is_cut(selection),
    )


def _rules(run: RunContext, table: str, config: PlanConfig, marks: KnownState, read_at: datetime) -> Rules:
    return Rules(
        marks=marks,
        has_acls=run.destination.settings.has_acls,
        copy_private=config.wants_private(),
        retry_nights=retry_nights(),
        may_settle=not others_may_write(run.instance, FileType(table), run.run_id),
        day=read_at.toordinal(),
    )


def _wanted(
    run: RunContext,
    config: PlanConfig,
    begun: Begun,
    selection: Selection,
    convergence: Convergence,
    *,
    connect: Connect,
    sizes: Sizes,
) -> Iterator[Batch]:
    """Yield the objects of a selection's rows; where the run settles what is in doubt, that too."""
    pages = walk_rows(connect, begun.schema, selection, page_rows=config.page_rows)
    changes = _changes(run, selection, begun.reading, begun.clock_ahead)
    changed = batches(pages, changes, sizes, convergence.marks)
    return convergence.after(changed, page_rows=config.page_rows) if settles(selection) else changed


def _marks(
    run: RunContext,
    scope: Scope,
    config: PlanConfig,
    lists: Sequence[RunDoubts],
) -> KnownState:
    """Return what is known of the rows and objects that a run is about."""
    found = Repairs()
    if scope.partition != CHANGES:
        found = repairs(
            run.store,
            run.origin,
            run.destination.settings.prefix,
            FileType(scope.name),
            scope.partition,
            damaged=Damaged(run.log.warning),
        )
    doubtful = {listed.table: listed.doubts for listed in lists}
    return KnownState(privacy=Privacy(config.privacy), doubtful=doubtful, again=found.again, turn=found.turn)


def _changes(
    run: RunContext,
    selection: Selection,
    reading: Reading,
    clock_ahead: timedelta,
) -> Changes | None:
    """Return which objects of the selection's rows are wanted; None: all."""
    if selection.changed_since is None:
        return None
    file_type = FileType(selection.table)
    known = watermark(run.instance, file_type, run.place, believable(reading.earliest))
    return Changes(
        since=selection.changed_since,
        all_above=selection.all_above,
        new_after=new_after(run.instance, file_type, known, run_id=run.run_id),
        until=reading.latest + OVERLAP,
        clock_ahead=clock_ahead,
    )
