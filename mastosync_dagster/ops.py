"""The chain of every job: plan what is to be copied, copy it, report what became of it.

Each op is a step of its own in the UI. They pass on small descriptions; the plan itself lies in files of the run's
folder, so that nothing in memory grows with the table.
"""

# Without `from __future__ import annotations`: Dagster reads the annotations of ops, and takes no text for a config.

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
from psycopg2.extensions import connection as Connection  # noqa: N812  (a class with a lower-case name)

from mastosync_dagster import reports, workfolder
from mastosync_dagster.alerts import FIRST_REASONS
from mastosync_dagster.failures import plain_failures
from mastosync_dagster.history import (
    COVERED_SINCE,
    DATABASE_BYTES,
    DESTINATION,
    EVERY_ROW,
    NEWEST_AT,
    NEWEST_ID,
    OVERLAP,
    READ_AT,
    WATERMARK,
    believable,
    new_after,
    place_of,
    read_until_tags,
    watermark,
)
from mastosync_dagster.incremental import Claim, known_now
from mastosync_dagster.manifests import About, Damaged, manifest_store
from mastosync_dagster.mastodon import NewestRow, Schema, Selection, newest_row_of, read_schema, walk_rows
from mastosync_dagster.outbox import Outbox
from mastosync_dagster.partitions import FileType, registered_range
from mastosync_dagster.privacy import Marks, Privacy, left_out_rows, private_rows
from mastosync_dagster.progress import ProgressReporter, Watcher
from mastosync_dagster.reading import Reading, begin_reading
from mastosync_dagster.refetching import refetch_missing
from mastosync_dagster.resources import MastodonDatabase, S3Bucket, ensure_different
from mastosync_dagster.run_lock import working
from mastosync_dagster.selection import Changes, Sizes, batches
from mastosync_dagster.settings import ChangesConfig, CopyConfig, PlanConfig
from mastosync_dagster.transfer.copying import CopyCounts, CopySettings, copy_plan
from mastosync_dagster.transfer.errors import StorageError
from mastosync_dagster.transfer.fetching import FetchSettings
from mastosync_dagster.transfer.manifest import merge, read_manifest
from mastosync_dagster.transfer.manifest_store import ManifestStoreError
from mastosync_dagster.transfer.outcomes import Outcome, Reason
from mastosync_dagster.transfer.planning import PlanCounts, make_plan
from mastosync_dagster.transfer.refetch import RefetchCounts
from mastosync_dagster.transfer.storage import Storage
from mastosync_dagster.transfer.turning import TurnCounts, turn
from mastosync_dagster.transfer.undisturbed import undisturbed
from mastosync_dagster.turned import with_turned
from mastosync_dagster.unrecorded import trust
from mastosync_dagster.verdicts import Repairs, repairs

CHANGES = "changes"
"""Stands for the partition where an unpartitioned run's manifest is filed."""


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
    claimable: bool = True
    newest: tuple[NewestRow, ...] = ()


@dataclass(frozen=True)
class Copied:
    """A plan that has been carried out.

    Attributes:
        planned: The plan.
        config: How it was carried out, so that it can be again.
        counts: What the copy counts.
        turned: What setting ACLs counts.
        refetched: What fetching missing objects elsewhere counts.
    """

    planned: Planned
    config: CopyConfig
    counts: CopyCounts
    turned: TurnCounts
    refetched: RefetchCounts

    @property
    def stopped(self) -> StorageError | None:
        """The permanent error that ended the run early; None: it went through."""
        return self.turned.stopped or self.counts.stopped or self.refetched.stopped


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


def _begin(
    context: dg.OpExecutionContext,
    connection: Connection,
    scope_at: _ScopeAt,
    config: PlanConfig,
    destination: Storage | None,
) -> tuple[Scope, Schema, Reading, tuple[NewestRow, ...]]:
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
    return scope, schema, reading, tuple(filter(None, newest))


def _make_plan(
    context: dg.OpExecutionContext, scope_at: _ScopeAt, config: PlanConfig, sides: _Sides, *, claims: bool
) -> Planned:
    """Plan into the run's folder, from the rows and listings of both sides; ``claims``: it may move a watermark."""
    started = time.monotonic()
    folder = workfolder.create_work_folder(context.instance, context.run_id)
    source, destination = sides.source.storage(), sides.destination.storage()
    ensure_different(sides.source, sides.destination)
    store = manifest_store(context.instance, sides.destination)
    Outbox(context.instance).publish_waiting(store, context.log.warning)
    with sides.database.session() as connect, sides.progress.watch(context.log) as watcher:
        with contextlib.closing(connect()) as connection:
            asked = destination if claims else None
            scope, schema, reading, newest = _begin(context, connection, scope_at, config, asked)
            begun = time.monotonic()
        sizes, marks = Sizes(), _marks(context, scope, config, sides.destination)
        wanted = itertools.chain.from_iterable(
            with_turned(
                batches(
                    walk_rows(connect, schema, selection, page_rows=config.page_rows),
                    _changes(context, selection, sides.destination, reading),
                    sizes,
                    marks,
                ),
                connect,
                schema,
                selection,
                marks,
                page_rows=config.page_rows,
            )
            for selection in scope.selections
        )
        counts = make_plan(
            wanted,
            source,
            destination,
            folder,
            listers=config.listers,
            copy_private=bool(config.wants_private()),
            keep_access=marks.privacy is Privacy.SOURCE,
            on_progress=watcher.planned,
            stop=threading.Event(),
        )
    planned = Planned(
        scope=scope,
        config=config,
        run_id=context.run_id,
        counts=counts,
        read_at=reading.read_at,
        seconds=time.monotonic() - started,
        database_bytes=sizes.bytes,
        claimable=reading.claimable,
        newest=newest,
    )
    _note(context, planned, reading.latest + timedelta(seconds=time.monotonic() - begun))
    return planned


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


def _about(destination: S3Bucket) -> About:
    return About(place=place_of(destination), acls=bool(destination.settings().permission))


def _marks(context: dg.OpExecutionContext, scope: Scope, config: PlanConfig, destination: S3Bucket) -> Marks:
    """Return what earlier runs know of the rows and objects that a run is about."""
    privacy, about = Privacy(config.privacy), _about(destination)
    store, damaged = manifest_store(context.instance, destination), Damaged(context.log.warning)
    partition, found = None, Repairs()
    if scope.partition != CHANGES:
        partition = scope.partition
        found = repairs(store, about, destination.settings().prefix, FileType(scope.name), partition, damaged=damaged)
    known, left_out = dict[str, set[int]](), dict[str, set[int]]()
    if privacy is Privacy.MASTODON and (about.acls or partition is None):
        for table in (selection.table for selection in scope.selections):
            trusted = trust(context.instance, store, FileType(table))
            known[table] = private_rows(store, about, table, damaged, trusted=trusted, partition=partition)
            if not about.acls:
                out = left_out_rows(store, about, table, damaged)
                known[table] |= out
                # As long as nobody has said that they may be left out, each run says it anew.
                left_out[table] = set() if config.wants_private() is False else out
    if privacy is Privacy.SOURCE:
        # Only a copy asks the source for an object's ACL.
        found = Repairs(again=found.again | found.turn)
    return Marks(privacy=privacy, known_private=known, left_out=left_out, again=found.again, turn=found.turn)


def _changes(
    context: dg.OpExecutionContext, selection: Selection, destination: S3Bucket, reading: Reading
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
    folder = workfolder.work_folder(context.instance, context.run_id)
    try:
        with sides.progress.watch(context.log) as watcher:
            turned, counts = _carry_out(folder, sides, config.copy_settings(), watcher)
            refetched = RefetchCounts()
            if config.refetch and turned.stopped is None and counts.stopped is None:
                refetched = _refetch(context, folder, sides, planned, config, watcher)
    except BaseException:
        # Terminated, or worse: what was done must be looked up all the same.
        try:
            # Nor may a further signal end this: nobody would learn what had become of the objects.
            undisturbed(lambda: _publish(context, planned, sides), lambda _: None)
        except Exception as problem:  # noqa: BLE001  (whatever it is, it must not take the place of what ended the run)
            context.log.warning(f"what was done until here could not be put on record: {problem}")
        raise
    if any(counts.repeated.values()):
        told = ", ".join(f"{number:,} to the {name}" for name, number in counts.repeated.items())
        context.log.info(f"requests that had to be repeated: {told}")
    return Copied(planned=planned, config=config, counts=counts, turned=turned, refetched=refetched)


def _carry_out(folder: Path, sides: _Sides, settings: CopySettings, watcher: Watcher) -> tuple[TurnCounts, CopyCounts]:
    """Set the ACLs that are to be set, then copy. What ends the first leaves the copies not attempted."""
    source, destination, stop = sides.source.storage(), sides.destination.storage(), threading.Event()
    interrupt: BaseException | None = None
    turned = TurnCounts()
    try:
        # First of all: what is private now must not stay readable while other objects are copied.
        turned = turn(folder, source.settings.prefix, destination, stop=stop)
    except BaseException as error:  # noqa: BLE001  (raised again when the copies are written down)
        interrupt = error
    if interrupt is not None or turned.stopped is not None:
        stop.set()
    counts = copy_plan(folder, source, destination, settings, on_progress=watcher.copied, stop=stop)
    if interrupt is not None:
        raise interrupt
    return turned, counts


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
        take_private=bool(planned.config.wants_private() or destination.settings.permission),
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

    summary: reports.Summary
    manifest: str
    place: str
    copied: Copied

    def metadata(self) -> dict[str, dg.MetadataValue]:
        """Return the numbers that the UI plots, the first lines of what went wrong, and the manifest's place."""
        counts, planned = self.copied.counts, self.copied.planned
        seconds = planned.seconds + counts.seconds + self.copied.refetched.seconds
        numbers: dict[str, int | float] = {
            "rows": planned.counts.rows,
            **reports.counts(self.summary.total),
            "seconds": round(seconds, 3),
            **reports.rates(self.summary.total, seconds),
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
            "missing and failed": dg.MetadataValue.md(reports.markdown(self.summary)),
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
        tally = self.summary.groups.get(table, reports.Tally())
        metadata: dict[str, dg.RawMetadataValue] = {**reports.counts(tally), **self.read()}
        if selection.changed_since is not None:
            metadata["changed_since"] = dg.MetadataValue.timestamp(selection.changed_since)
        scope = self.copied.planned.scope
        # Re-executed from failure into another bucket, the run takes the rows that the first one lacked.
        claims = {claim.table: claim for claim in scope.claims if scope.place == self.place}
        # A file type whose objects all have a good end is done, whatever becomes of the others.
        planned = self.copied.planned
        if table in claims and planned.claimable and not self.failed(tally) and not self.copied.stopped:
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

    def failed(self, tally: reports.Tally) -> int:
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
                description=reports.failure_text(self.summary, str(stopped) if stopped else None),
                metadata={
                    **self.metadata(),
                    FIRST_REASONS: dg.MetadataValue.text(reports.first_reasons(self.summary)),
                },
                allow_retries=False,
            )


def _publish(context: dg.OpExecutionContext, planned: Planned, sides: _Sides) -> tuple[reports.Summary, str]:
    """Put the manifest where it stays, and remove the run's folder."""
    merged = merge(
        workfolder.work_folder(context.instance, context.run_id),
        _about(sides.destination).metadata(),
        source_prefix=sides.source.settings().prefix,
        destination_prefix=sides.destination.settings().prefix,
    )
    summary = reports.summarize(read_manifest(merged))
    store, scope = manifest_store(context.instance, sides.destination), planned.scope
    try:
        location = Outbox(context.instance).publish(store, merged, scope.name, scope.partition, context.run_id)
    except (ManifestStoreError, StorageError):
        context.log.warning("the run's manifest could not be published: it waits, and the next run publishes it")
        workfolder.remove_work_folder(context.instance, context.run_id)
        raise
    workfolder.remove_work_folder(context.instance, context.run_id)
    return summary, location


def _report(context: dg.OpExecutionContext, copied: Copied, sides: _Sides) -> _Report:
    if copied.planned.run_id != context.run_id:
        # Re-executed from failure: what another run has copied is in its own manifest, and what it has not is wanted.
        copied = _copy(context, copied.config, copied.planned, sides)
    interrupts: list[BaseException] = []
    summary, location = undisturbed(lambda: _publish(context, copied.planned, sides), interrupts.append)
    if interrupts:
        raise interrupts[0]
    return _Report(summary=summary, manifest=location, place=place_of(sides.destination), copied=copied)


@dg.op(
    description="Write the manifest, count, and say what is missing or failed.",
    out={"result": dg.Out(dg.Nothing), reports.CHECK_NAME: dg.Out(dg.Nothing)},
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
    check = reports.check_result(told.summary, copied.planned.scope.name, failed=told.failed(told.summary.total))
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
) -> reports.Summary:
    """End an unpartitioned run: an observation per file type, or a failure if an object failed."""
    with plain_failures(), working(context.instance, context.run_id):
        told = _report(context, copied, _Sides(mastodon_db, source, destination, progress, web))
    for selection in copied.planned.scope.selections:
        context.log_event(told.observation(selection))
    context.add_output_metadata(told.metadata())
    told.raise_if_failed()
    return told.summary
