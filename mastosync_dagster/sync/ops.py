"""The chain of every job: plan what is to be copied, copy it, report what became of it.

Each op is a step of its own in the UI. They pass on small descriptions; the plan itself lies in files of the run's
folder, so that nothing in memory grows with the table.
"""

# Without `from __future__ import annotations`: Dagster reads the annotations of ops, and takes no text for a config.

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import dagster as dg
from psycopg2.extensions import connection as Connection  # noqa: N812  (a class with a lower-case name)

from mastosync_dagster.alerts import FIRST_REASONS
from mastosync_dagster.copy.acl_changes import TurnCounts, turn
from mastosync_dagster.copy.engine import CopyCounts, CopyProgress, copy_plan
from mastosync_dagster.environment import retry_nights
from mastosync_dagster.escaping import plain
from mastosync_dagster.expected.objects import Changes, Sizes, batches
from mastosync_dagster.expected.privacy import Marks, Privacy
from mastosync_dagster.expected.records import Records
from mastosync_dagster.expected.source_check import Witnesses, hidden_source, look_for_originals, wrong_source
from mastosync_dagster.mastodon import (
    TABLES,
    Connect,
    NewestRow,
    PrivateRows,
    Schema,
    Selection,
    database_now,
    newest_row_of,
    read_schema,
    walk_rows,
)
from mastosync_dagster.plan.items import Batch
from mastosync_dagster.plan.planner import PlanCounts, make_plan
from mastosync_dagster.ranges.partitions import FileType, registered_range
from mastosync_dagster.records import summaries
from mastosync_dagster.records.doubts import GROUP, DoubtLine
from mastosync_dagster.records.manifest import FORMAT, merge, read_manifest
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.store import ManifestStoreError
from mastosync_dagster.refetch.fetch import FetchSettings
from mastosync_dagster.refetch.origins import refetch_missing
from mastosync_dagster.refetch.refetch import RefetchCounts
from mastosync_dagster.resources import MastodonDatabase, S3Bucket, ensure_different
from mastosync_dagster.runs import work_folder
from mastosync_dagster.runs.doubts import CHANGES, ListPlace, RunDoubts, add_to_list, leave_doubts, others_may_write
from mastosync_dagster.runs.failures import plain_failures
from mastosync_dagster.runs.history import (
    COVERED_SINCE,
    DATABASE_BYTES,
    DESTINATION,
    EVERY_ROW,
    NEWEST_AT,
    NEWEST_ID,
    OVERLAP,
    READ_AT,
    SYNC_CHANGES,
    WATERMARK,
    believable,
    new_after,
    place_of,
    read_until_tags,
    watermark,
)
from mastosync_dagster.runs.manifests import About, Damaged, Passed, RunTimes, manifest_store, passed
from mastosync_dagster.runs.outbox import Outbox
from mastosync_dagster.runs.progress import ProgressReporter, Watcher
from mastosync_dagster.runs.run_lock import working
from mastosync_dagster.s3.acl import SourceAccess
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.probes import prove_private
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.storage import Storage
from mastosync_dagster.shield import undisturbed
from mastosync_dagster.sync.clocks import Reading, begin_reading
from mastosync_dagster.sync.config import ChangesConfig, CopyConfig, PlanConfig
from mastosync_dagster.sync.convergence import Convergence, Counts, Rules
from mastosync_dagster.sync.incremental import Claim, known_now
from mastosync_dagster.sync.privacy_watch import PrivacyWatch
from mastosync_dagster.verify.inherited import look_at_inherited
from mastosync_dagster.verify.repairs import Repairs, repairs


@dataclass(frozen=True)
class Scope:
    """What a run is about.

    Attributes:
        name: The asset, or the job where it is about several.
        partition: The ID range's key, or `CHANGES`.
        selections: The rows, a selection per table.
        claims: What the run's success says of the tables.
        place: The destination that the claims are about.
    """

    name: str
    partition: str
    selections: tuple[Selection, ...]
    claims: tuple[Claim, ...] = ()
    place: str = ""


@dataclass(frozen=True)
class Planned:
    """A plan that lies in a run's folder.

    Attributes:
        scope: What it is about.
        config: How it was made, so that it can be made again.
        run_id: The run in whose folder it lies.
        counts: What it counts.
        read_at: The moment that reading the database stands for; see `Reading.read_at`.
        seconds: How long planning took.
        database_bytes: What the database says that the objects' originals weigh.
        begun: When planning began, by this machine's clock.
        remark: What is to be known of the objects that were at the destination before; None: nothing.
        claimable: Whether the run's success may claim ``read_at``.
        newest: The newest row of each table before the first one was read.
    """

    scope: Scope
    config: PlanConfig
    run_id: str
    counts: PlanCounts
    read_at: datetime
    seconds: float
    database_bytes: int
    begun: datetime
    remark: str | None = None
    claimable: bool = True
    newest: tuple[NewestRow, ...] = ()

    @property
    def times(self) -> RunTimes:
        """When the run looked."""
        return RunTimes(self.begun, self.read_at, self.read_at + timedelta(seconds=self.seconds))


@dataclass(frozen=True)
class Copied:
    """A plan that has been carried out.

    Attributes:
        planned: The plan.
        config: How it was carried out, so that it can be again.
        counts: What the copy counts.
        turned: What setting ACLs counts.
        refetched: What fetching missing objects elsewhere counts.
        wrong_source: Says that the source is not the one that the rows speak of; None: nothing shows that.
    """

    planned: Planned
    config: CopyConfig
    counts: CopyCounts
    turned: TurnCounts
    refetched: RefetchCounts
    wrong_source: StorageError | None = None

    @property
    def stopped(self) -> StorageError | None:
        """The permanent error that ended the run early, or lets nobody believe it; None: it went through."""
        return self.turned.stopped or self.counts.stopped or self.wrong_source or self.refetched.stopped


@dataclass(frozen=True)
class _Sides:
    """The servers of a run and who hears of its progress: what all ops are given.

    Attributes:
        web: How other servers are asked; ops that ask none have the default.
    """

    database: MastodonDatabase
    source: S3Bucket
    destination: S3Bucket
    progress: ProgressReporter
    web: FetchSettings = field(default_factory=FetchSettings)


_ScopeAt = Callable[[Connection, Reading], Scope]
"""Returns what a run is about, given a connection to the database and the moment at which it is read."""


@dataclass(frozen=True)
class _Begun:
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
    context: dg.OpExecutionContext,
    connection: Connection,
    scope_at: _ScopeAt,
    config: PlanConfig,
    destination: Storage | None,
) -> _Begun:
    """Find out what a run is about, and what the database is, before the first row is read."""
    reading = begin_reading(
        connection,
        destination,
        wait_seconds=config.wait_seconds,
        info=context.log.info,
        warn=context.log.warning,
    )
    scope = scope_at(connection, reading)
    tables = [selection.table for selection in scope.selections]
    schema = read_schema(connection, tables)
    newest = (newest_row_of(connection, schema, table) for table in tables if scope.claims)
    clock_ahead = database_now(connection) - datetime.now(timezone.utc)
    return _Begun(scope, schema, reading, tuple(filter(None, newest)), clock_ahead, time.monotonic())


def _make_plan(
    context: dg.OpExecutionContext, scope_at: _ScopeAt, config: PlanConfig, sides: _Sides, *, claims: bool
) -> Planned:
    """Plan into the run's folder, from the rows and listings of both sides; ``claims``: it may move a watermark."""
    started, begun_at = time.monotonic(), datetime.now(timezone.utc)
    work_folder.create_work_folder(context.instance, context.run_id)
    ensure_different(sides.source, sides.destination)
    store = manifest_store(context.instance, sides.destination, sides.source)
    Outbox(context.instance).publish_waiting(store, context.log.warning)
    sizes = Sizes()
    with sides.database.session() as connect:
        with contextlib.closing(connect()) as connection:
            asked = sides.destination.storage() if claims else None
            begun = _begin(context, connection, scope_at, config, asked)
        hidden = hidden_source(connect, sides.source.storage()) if config.privacy == Privacy.SOURCE.value else None
        if hidden is not None:
            raise hidden
        counts = _plan_rows(context, config, sides, begun, connect, sizes)
    planned = Planned(
        scope=begun.scope,
        config=config,
        run_id=context.run_id,
        counts=counts,
        read_at=begun.reading.read_at,
        seconds=time.monotonic() - started,
        database_bytes=sizes.bytes,
        begun=begun_at,
        remark=_remark(context, begun.scope, Privacy(config.privacy), sides) if counts.present else None,
        claimable=begun.reading.claimable,
        newest=begun.newest,
    )
    _note(context, planned, begun.reading.latest + timedelta(seconds=time.monotonic() - begun.at))
    return planned


def _plan_rows(
    context: dg.OpExecutionContext,
    config: PlanConfig,
    sides: _Sides,
    begun: _Begun,
    connect: Connect,
    sizes: Sizes,
) -> PlanCounts:
    """Make the plan, and publish what carrying it out puts in doubt."""
    source, destination, scope = sides.source.storage(), sides.destination.storage(), begun.scope
    lists = [_doubts(context, scope, selection, sides.destination) for selection in scope.selections]
    marks = _marks(context, scope, config, sides.destination, lists)
    with contextlib.ExitStack() as stack:
        watcher = stack.enter_context(sides.progress.watch(context.log))
        for listed in lists:
            listed.open(stack)
        convergences = [
            Convergence(
                connect,
                begun.schema,
                listed,
                destination=destination,
                source=partial(SourceAccess, source) if marks.privacy is Privacy.SOURCE else None,
                rules=_rules(context, listed.table, config, marks, destination, begun.reading.read_at),
            )
            for listed in lists
        ]
        counts = make_plan(
            itertools.chain.from_iterable(
                _wanted(context, config, sides, begun, connect, selection, convergence, sizes)
                for selection, convergence in zip(scope.selections, convergences, strict=True)
            ),
            source,
            destination,
            work_folder.work_folder(context.instance, context.run_id),
            listers=config.listers,
            copy_private=bool(config.wants_private()),
            keep_access=marks.privacy is Privacy.SOURCE,
            on_progress=watcher.planned,
            stop=threading.Event(),
            knowledge=_records(context, sides, begun, connect).known,
            overwrite=config.overwrite,
        )
        for listed in lists:
            listed.add_planned(has_acls=destination.settings.has_acls)
    # Before the first object is written: whatever becomes of this run, what it makes doubtful is asked for.
    for listed in lists:
        listed.publish()
    for listed, convergence in zip(lists, convergences, strict=True):
        if convergence.counts != Counts():
            context.log.info(f"{listed.table}, in doubt: {convergence.counts}")
    # What was found private tonight is probed too: a policy of the bucket wins over ACLs, whenever it came.
    folders = counts.private_folders.union(*(convergence.folders for convergence in convergences))
    return replace(counts, private_folders=folders)


def _records(context: dg.OpExecutionContext, sides: _Sides, begun: _Begun, connect: Connect) -> Records:
    """Return what was last recorded of objects, for those whose bytes differ."""
    return Records(
        connect,
        begun.schema,
        store=manifest_store(context.instance, sides.destination, sides.source),
        about=_about(sides.destination),
        prefix=sides.destination.settings().prefix,
        warn=context.log.warning,
    )


def _note(context: dg.OpExecutionContext, planned: Planned, read_until: datetime) -> None:
    """Note until when a run has read the rows, and tell what it has planned."""
    # Before the first object is copied, so that no run has copied something and lacks them.
    tags = read_until_tags((selection.table for selection in planned.scope.selections), read_until, context.run_id)
    context.instance.add_run_tags(context.run_id, tags)
    counts = planned.counts
    context.log.info(
        f"planned {counts.rows:,} rows, {counts.objects:,} objects in {planned.seconds:.1f} s: {counts.to_copy:,} to"
        f" copy ({counts.bytes_to_copy / 1e6:,.1f} MB), {counts.present:,} present, {counts.missing:,} missing,"
        f" {counts.failed:,} failed; {counts.list_requests:,} list and {counts.head_requests:,} head requests"
    )


def _remark(context: dg.OpExecutionContext, scope: Scope, privacy: Privacy, sides: _Sides) -> str | None:
    """Look at what another tool may have put at the destination, before the first run; None: nothing is to be said."""
    store, place = manifest_store(context.instance, sides.destination), place_of(sides.destination)
    tables = _tables(scope)
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
    folder = work_folder.work_folder(context.instance, context.run_id)
    found = look_at_inherited(
        folder,
        sides.source.storage(),
        sides.destination.storage(),
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
    context.log.warning(f"{remark}. {found.first}")
    return remark


def _tables(scope: Scope) -> Passed:
    """Return the tables that a run goes through, if it comes to its end and is no trial."""
    whole = frozenset(each.table for each in scope.selections if each.changed_since is None)
    return Passed(whole, frozenset(each.table for each in scope.selections) - whole)


def _about(destination: S3Bucket) -> About:
    return About(place=place_of(destination), acls=destination.settings().has_acls)


def _settles(selection: Selection) -> bool:
    """Tell whether a run over these rows also asks for what is in doubt: a night's does, a trial does not."""
    return selection.changed_since is not None and selection.limit is None and not selection.offset


def _list_place(context: dg.OpExecutionContext, scope: Scope, destination: S3Bucket) -> ListPlace:
    return ListPlace(
        store=manifest_store(context.instance, destination),
        about=_about(destination),
        destination_prefix=destination.settings().prefix,
        partition=scope.partition,
        run_id=context.run_id,
        folder=work_folder.work_folder(context.instance, context.run_id),
    )


def _doubts(context: dg.OpExecutionContext, scope: Scope, selection: Selection, destination: S3Bucket) -> RunDoubts:
    return RunDoubts(
        _list_place(context, scope, destination),
        selection.table,
        damaged=Damaged(context.log.warning),
        instance=context.instance,
        ids=None if scope.partition == CHANGES else selection.ids,
        settles=_settles(selection),
        plans_all=selection.changed_since is None and selection.limit is None and not selection.offset,
    )


def _rules(
    context: dg.OpExecutionContext,
    table: str,
    config: PlanConfig,
    marks: Marks,
    destination: Storage,
    read_at: datetime,
) -> Rules:
    return Rules(
        marks=marks,
        has_acls=destination.settings.has_acls,
        copy_private=config.wants_private(),
        retry_nights=retry_nights(),
        may_settle=not others_may_write(context.instance, FileType(table), context.run_id),
        day=read_at.toordinal(),
    )


def _wanted(
    context: dg.OpExecutionContext,
    config: PlanConfig,
    sides: _Sides,
    begun: _Begun,
    connect: Connect,
    selection: Selection,
    convergence: Convergence,
    sizes: Sizes,
) -> Iterator[Batch]:
    """Yield the objects of a selection's rows; where the run settles what is in doubt, that too."""
    pages = walk_rows(connect, begun.schema, selection, page_rows=config.page_rows)
    changes = _changes(context, selection, sides.destination, begun.reading, begun.clock_ahead)
    changed = batches(pages, changes, sizes, convergence.marks)
    return convergence.after(changed, page_rows=config.page_rows) if _settles(selection) else changed


def _marks(
    context: dg.OpExecutionContext,
    scope: Scope,
    config: PlanConfig,
    destination: S3Bucket,
    lists: Sequence[RunDoubts],
) -> Marks:
    """Return what is known of the rows and objects that a run is about."""
    found = Repairs()
    if scope.partition != CHANGES:
        found = repairs(
            manifest_store(context.instance, destination),
            _about(destination),
            destination.settings().prefix,
            FileType(scope.name),
            scope.partition,
            damaged=Damaged(context.log.warning),
        )
    doubtful = {listed.table: listed.doubts for listed in lists}
    return Marks(privacy=Privacy(config.privacy), doubtful=doubtful, again=found.again, turn=found.turn)


def _changes(
    context: dg.OpExecutionContext,
    selection: Selection,
    destination: S3Bucket,
    reading: Reading,
    clock_ahead: timedelta,
) -> Changes | None:
    """Return which objects of the selection's rows are wanted; None: all."""
    if selection.changed_since is None:
        return None
    file_type = FileType(selection.table)
    known = watermark(context.instance, file_type, place_of(destination), believable(reading.earliest))
    return Changes(
        since=selection.changed_since,
        all_above=selection.all_above,
        new_after=new_after(context.instance, file_type, known, run_id=context.run_id),
        until=reading.latest + OVERLAP,
        clock_ahead=clock_ahead,
    )


@dg.op(description="Read the rows of the ID range, list both sides, and write down what is to be copied.")
def plan(
    context: dg.OpExecutionContext,
    config: PlanConfig,
    mastodon_db: MastodonDatabase,
    source: S3Bucket,
    destination: S3Bucket,
    progress: dg.ResourceParam[ProgressReporter],
) -> Planned:
    """Plan one ID range of the asset that the op runs for."""
    with plain_failures(), working(context.instance, context.run_id):
        file_type = FileType(context.assets_def.key.to_user_string())
        ids = registered_range(context.instance, file_type, context.partition_key)
        scope = Scope(
            name=file_type.value,
            partition=context.partition_key,
            selections=(Selection(table=file_type.value, ids=ids),),
        )
        sides = _Sides(mastodon_db, source, destination, progress)
        return _make_plan(context, lambda *_: scope, config, sides, claims=False)


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
        place = place_of(destination)
        known = known_now(context.instance, place, connection, config.asked, believable(reading.earliest))
        shares = config.shares(context.instance, place, reading.read_at, known)
        (context.log.warning if known.restored else context.log.info)("; ".join(share.why for share in shares))
        return Scope(
            name=context.job_name,
            partition=CHANGES,
            selections=tuple(share.selection for share in shares),
            claims=tuple(share.claim for share in shares if share.claim),
            place=place,
        )

    with plain_failures(), working(context.instance, context.run_id):
        sides = _Sides(mastodon_db, source, destination, progress)
        return _make_plan(context, scope_at, config, sides, claims=config.part.is_whole)


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
        return _copy(context, config, planned, _Sides(mastodon_db, source, destination, progress, web))


def _copy(context: dg.OpExecutionContext, config: CopyConfig, planned: Planned, sides: _Sides) -> Copied:
    """Carry out a plan. One of another run (re-execution from failure) is made again, for it may be stale."""
    if planned.run_id != context.run_id:
        scope = planned.scope
        planned = _make_plan(context, lambda *_: scope, planned.config, sides, claims=bool(scope.claims))
    folder = work_folder.work_folder(context.instance, context.run_id)
    try:
        with sides.progress.watch(context.log) as watcher, _privacy_watch(context, planned, sides) as watch:
            turned, counts = _carry_out(context, planned, sides, config, watcher, watch)
            refetched = RefetchCounts()
            stopped = turned.stopped or counts.stopped
            wrong = None if stopped else _look_at_source(context, planned, counts, sides)
            if config.refetch and not (stopped or wrong):
                refetched = _refetch(context, folder, sides, planned, config, watcher)
    except BaseException:
        # Terminated, or worse: what was done must be looked up all the same.
        try:
            # Nor may a further signal end this: nobody would learn what had become of the objects.
            undisturbed(lambda: _publish(context, planned, sides, Passed(), went_through=False), lambda _: None)
        except Exception as problem:  # noqa: BLE001  (whatever it is, it must not take the place of what ended the run)
            context.log.warning(f"what was done until here could not be put on record: {plain(str(problem))}")
        raise
    if any(counts.repeated.values()):
        told = ", ".join(f"{number:,} to the {name}" for name, number in counts.repeated.items())
        context.log.info(f"requests that had to be repeated: {told}")
    return Copied(planned=planned, config=config, counts=counts, turned=turned, refetched=refetched, wrong_source=wrong)


def _carry_out(
    context: dg.OpExecutionContext,
    planned: Planned,
    sides: _Sides,
    config: CopyConfig,
    watcher: Watcher,
    watch: PrivacyWatch | None,
) -> tuple[TurnCounts, CopyCounts]:
    """Set the ACLs that are to be set, then copy. What ends the first leaves the copies not attempted."""
    source, destination, stop = sides.source.storage(), sides.destination.storage(), threading.Event()
    folder, settings = work_folder.work_folder(context.instance, context.run_id), config.copy_settings()

    def on_progress(progress: CopyProgress) -> None:
        watcher.copied(progress)
        if watch is not None:
            watch.tick()

    interrupt: BaseException | None = None
    turned = TurnCounts()
    try:
        refused = _try_probes(context, planned, sides, refetch=config.refetch)
        # First of all: what is private now must not stay readable while other objects are copied.
        turned = turn(
            folder,
            source.settings.prefix,
            destination,
            stop=stop,
            refused=refused,
            on_line=None if watch is None else watch.wrote,
        )
    except BaseException as error:  # noqa: BLE001  (raised again when the copies are written down)
        interrupt = error
    if interrupt is not None or turned.stopped is not None:
        stop.set()
    counts = copy_plan(
        folder,
        source,
        destination,
        settings,
        on_progress=on_progress,
        stop=stop,
        on_line=None if watch is None else watch.wrote,
    )
    if interrupt is not None:
        raise interrupt
    if watch is not None:
        watch.look()
    return turned, counts


@contextlib.contextmanager
def _privacy_watch(context: dg.OpExecutionContext, planned: Planned, sides: _Sides) -> Iterator[PrivacyWatch | None]:
    """Give a watch over the rows that may become private while the plan is carried out; None where none can."""
    tables = [each.table for each in planned.scope.selections if TABLES[each.table].owners]
    writes = planned.counts.to_copy or planned.counts.to_turn
    destination = sides.destination.storage()
    by_rows = Privacy(planned.config.privacy) is Privacy.MASTODON
    if not tables or not writes or not by_rows or not destination.settings.has_acls:
        yield None
        return
    # Media attachments are the only table whose rows an owner makes private.
    (table,) = tables
    place, supplements = _list_place(context, planned.scope, sides.destination), itertools.count(1)

    def put_on_list(lines: Sequence[DoubtLine]) -> None:
        add_to_list(place, table, lines, next(supplements))

    with sides.database.session() as connect:
        with contextlib.closing(connect()) as connection:
            schema = read_schema(connection, [table])
        with PrivateRows(connect, schema, table) as rows:
            yield PrivacyWatch(rows, destination, put_on_list, context.log.warning)


def _try_probes(
    context: dg.OpExecutionContext, planned: Planned, sides: _Sides, *, refetch: bool
) -> StorageError | None:
    """Return why nothing private may be written, and no ACL be set; None: it may."""
    folders = planned.counts.private_folders
    if refetch and (sides.destination.settings().has_acls or planned.config.wants_private()):
        folders |= planned.counts.private_missing_folders
    try:
        # With a storage of its own: the first of the real objects is looked at once more.
        prove_private(
            sides.destination.storage(),
            folders,
            sets_acls=bool(planned.counts.to_turn),
            halt=threading.Event(),
            warn=context.log.warning,
        )
    except StorageError as error:
        return error
    if folders:
        context.log.info(
            f"probes in {', '.join(sorted(folders))}: what is written private there is not given out without a"
            " signature by the endpoint; other addresses of the bucket were not asked"
        )
    return None


def _look_at_source(
    context: dg.OpExecutionContext, planned: Planned, counts: CopyCounts, sides: _Sides
) -> StorageError | None:
    """Return the error that ends a run whose source is not the one that the rows speak of; None: it may be."""
    plan, selections = planned.counts, planned.scope.selections
    source, destination = sides.source.storage(), sides.destination.storage()

    def look() -> Witnesses:
        with sides.database.session() as connect:
            return look_for_originals(connect, source, destination, {selection.table for selection in selections})

    return wrong_source(
        plan.missing + plan.only_at_destination + counts.missing + counts.present,
        plan.objects,
        look,
        (source, destination),
        context.log.warning,
        once=any(selection.changed_since is None for selection in selections),
    )


def _refetch(
    context: dg.OpExecutionContext, folder: Path, sides: _Sides, planned: Planned, config: CopyConfig, watcher: Watcher
) -> RefetchCounts:
    """Fetch what is missing from the servers that it is a copy of."""
    destination = sides.destination.storage()
    counts = refetch_missing(
        folder,
        sides.database,
        destination,
        sides.web,
        memory_mb=config.memory_mb,
        keep_private=Privacy(planned.config.privacy) is not Privacy.NONE,
        take_private=bool(planned.config.wants_private() or destination.settings.has_acls),
        stop=threading.Event(),
        on_progress=lambda now: watcher.told(f"{now.refetched:,} missing objects fetched, {now.refused:,} not"),
    )
    context.log.info(
        f"{counts.refetched:,} missing objects fetched from their servers ({counts.bytes / 1e6:,.1f} MB),"
        f" {counts.refused:,} not; the manifest says why"
    )
    return counts


@dataclass(frozen=True)
class _Report:
    """What the end of a run is told from."""

    summary: summaries.Summary
    manifest: str
    place: str
    copied: Copied

    def metadata(self) -> dict[str, dg.MetadataValue]:
        """Return the numbers that the UI plots, the first lines of what went wrong, and the manifest's place."""
        counts, planned = self.copied.counts, self.copied.planned
        seconds = planned.seconds + counts.seconds + self.copied.refetched.seconds
        numbers: dict[str, int | float] = {
            "rows": planned.counts.rows,
            **summaries.counts(self.summary.total),
            summaries.ONLY_THERE: self.summary.total.only_at_destination,
            "seconds": round(seconds, 3),
            **summaries.rates(self.summary.total, seconds),
            **counts.figures(),
            "acls_set": self.copied.turned.turned,
            "refetched": self.copied.refetched.refetched,
            "list_requests": planned.counts.list_requests,
            "head_requests": planned.counts.head_requests,
            DATABASE_BYTES: planned.database_bytes,
        }
        return {
            **{
                name: dg.MetadataValue.int(value) if isinstance(value, int) else dg.MetadataValue.float(value)
                for name, value in numbers.items()
            },
            "missing and failed": dg.MetadataValue.md(summaries.markdown(self.summary)),
            **({"already there": dg.MetadataValue.text(planned.remark)} if planned.remark else {}),
            "manifest": dg.MetadataValue.path(self.manifest),
            **self.read(),
        }

    def read(self) -> dict[str, dg.MetadataValue]:
        """Return what history asks of a run: when it read the database, and where its copies are."""
        return {
            READ_AT: dg.MetadataValue.timestamp(self.copied.planned.read_at),
            DESTINATION: dg.MetadataValue.text(self.place),
        }

    def observation(self, selection: Selection) -> dg.AssetObservation:
        """Return what is noted on an asset about its share of a run."""
        table = selection.table
        tally = self.summary.groups.get(table, summaries.Tally())
        metadata: dict[str, dg.RawMetadataValue] = {
            **summaries.counts(tally),
            summaries.ONLY_THERE: tally.only_at_destination,
            **self.read(),
        }
        if selection.changed_since is not None:
            metadata["changed_since"] = dg.MetadataValue.timestamp(selection.changed_since)
        scope = self.copied.planned.scope
        # Re-executed from failure into another bucket, the run takes the rows that the first one lacked.
        claims = {claim.table: claim for claim in scope.claims if scope.place == self.place}
        planned = self.copied.planned
        # What has failed is on the doubt list, so that the nights ask for it; if they do not, it holds the watermark.
        settled = not self.failed(tally) or retry_nights() > 0
        if table in claims and planned.claimable and settled and not self.copied.stopped:
            metadata[WATERMARK] = dg.MetadataValue.timestamp(self.copied.planned.read_at)
            metadata[EVERY_ROW] = dg.MetadataValue.bool(claims[table].every_row)
            covered_since = claims[table].covered_since or self.copied.planned.read_at
            metadata[COVERED_SINCE] = dg.MetadataValue.timestamp(covered_since)
            for newest in planned.newest:
                if newest.table == table:
                    metadata[NEWEST_ID] = dg.MetadataValue.int(newest.row_id)
                    metadata[NEWEST_AT] = dg.MetadataValue.float(newest.created_at)
        return dg.AssetObservation(table, metadata=metadata)

    @property
    def left_out(self) -> bool:
        """Whether somebody has said that private objects are left out: then it is no failure."""
        return self.copied.planned.config.wants_private() is False

    def failed(self, tally: summaries.Tally) -> int:
        """Return how many objects of a tally failed."""
        return tally.outcomes[Outcome.FAILED] - (tally.reasons[Reason.PRIVATE_NOT_COPIED] if self.left_out else 0)

    @property
    def has_failed(self) -> bool:
        """Whether an object failed, or a permanent error stopped the run."""
        return bool(self.failed(self.summary.total) or self.copied.stopped)

    def raise_if_failed(self) -> None:
        """Raise the failure that ends a run in which an object failed, or which a permanent error stopped."""
        if self.has_failed:
            stopped = self.copied.stopped
            raise dg.Failure(
                description=summaries.failure_text(self.summary, plain(str(stopped)) if stopped else None),
                metadata={
                    **self.metadata(),
                    FIRST_REASONS: dg.MetadataValue.text(summaries.first_reasons(self.summary)),
                },
                allow_retries=False,
            )


def _publish(
    context: dg.OpExecutionContext, planned: Planned, sides: _Sides, gone_through: Passed, *, went_through: bool
) -> tuple[summaries.Summary, str]:
    """Put the manifest where it stays, and remove the run's folder."""
    merged = merge(
        work_folder.work_folder(context.instance, context.run_id),
        {**_about(sides.destination).metadata(), **planned.times.metadata(), **gone_through.metadata()},
        source_prefix=sides.source.settings().prefix,
        destination_prefix=sides.destination.settings().prefix,
    )
    summary = summaries.summarize(read_manifest(merged))
    store, scope = manifest_store(context.instance, sides.destination, sides.source), planned.scope
    outbox = Outbox(context.instance)
    problems: list[Exception] = []
    lists = _left_doubts(context, planned, sides, merged, went_through=went_through)
    location = ""
    # The lists even if the manifest could not be published: what waits here, a later run publishes.
    for file, group in [(merged, scope.name), *lists]:
        try:
            published = outbox.publish(store, file, group, scope.partition, context.run_id)
            location = location or published
        except (ManifestStoreError, StorageError) as problem:  # noqa: PERF203  (a handful of files)
            problems.append(problem)
    work_folder.remove_work_folder(context.instance, context.run_id)
    if problems:
        context.log.warning("the run's manifest could not be published: it waits, and the next run publishes it")
        raise problems[0]
    return summary, location


def _left_doubts(
    context: dg.OpExecutionContext, planned: Planned, sides: _Sides, manifest: Path, *, went_through: bool
) -> list[tuple[Path, str]]:
    """Return the lists of what the run leaves in doubt, each with its group."""
    place = _list_place(context, planned.scope, sides.destination)
    has_acls = sides.destination.settings().has_acls
    found = []
    for selection in planned.scope.selections:
        table, is_night = selection.table, went_through and _settles(selection)
        try:
            file = leave_doubts(place, table, manifest, has_acls=has_acls, is_night=is_night)
        except (ManifestStoreError, StorageError) as problem:
            # What it has put there before it began stays: objects are asked for that need not be.
            context.log.warning(f"the list of what is in doubt could not be brought up to date: {problem}")
            continue
        if file is not None:
            found.append((file, GROUP.format(table=table)))
    return found


def _report(context: dg.OpExecutionContext, copied: Copied, sides: _Sides) -> _Report:
    if copied.planned.run_id != context.run_id:
        # Re-executed from failure: what another run has copied is in its own manifest, and what it has not is wanted.
        copied = _copy(context, copied.config, copied.planned, sides)
    interrupts: list[BaseException] = []
    scope = copied.planned.scope
    # What it has not come to may be another tool's as well.
    partial = copied.stopped is not None or any(each.limit is not None or each.offset for each in scope.selections)
    gone_through = Passed() if partial else _tables(scope)
    summary, location = undisturbed(
        lambda: _publish(context, copied.planned, sides, gone_through, went_through=copied.stopped is None),
        interrupts.append,
    )
    if interrupts:
        raise interrupts[0]
    return _Report(summary=summary, manifest=location, place=place_of(sides.destination), copied=copied)


@dg.op(
    description="Write the manifest, count, and say what is missing or failed.",
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
        told = _report(context, copied, _Sides(mastodon_db, source, destination, progress, web))
    check = summaries.check_result(
        told.summary,
        copied.planned.scope.name,
        failed=told.failed(told.summary.total),
        stopped=told.copied.stopped,
        remark=told.copied.planned.remark,
    )
    if told.has_failed:
        yield check
        told.raise_if_failed()
    # The materialization first: the UI shows a check as evaluated where it is about the newest one.
    yield dg.Output(None, output_name="result", metadata=told.metadata())
    yield check


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
        told = _report(context, copied, _Sides(mastodon_db, source, destination, progress, web))
    for selection in copied.planned.scope.selections:
        context.log_event(told.observation(selection))
    context.add_output_metadata(told.metadata())
    told.raise_if_failed()
    return told.summary
