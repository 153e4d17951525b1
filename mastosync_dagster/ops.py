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

from mastosync_dagster import reports, workfolder
from mastosync_dagster.alerts import FIRST_REASONS
from mastosync_dagster.failures import plain_failures
from mastosync_dagster.history import (
    COVERED_SINCE,
    DATABASE_BYTES,
    DESTINATION,
    EVERY_ROW,
    READ_AT,
    SYNC_CHANGES,
    WATERMARK,
    new_after,
    place_of,
    read_until_tags,
    watermark,
)
from mastosync_dagster.incremental import Claim
from mastosync_dagster.launcher import PROCESS_TAG, RunProcess
from mastosync_dagster.manifests import About, Damaged, is_about, manifest_store
from mastosync_dagster.mastodon import Selection, database_now, read_schema, rows_as_of, walk_rows
from mastosync_dagster.outbox import Outbox
from mastosync_dagster.partitions import FileType, registered_range
from mastosync_dagster.privacy import Marks, Privacy, left_out_rows, private_rows
from mastosync_dagster.progress import ProgressReporter, Watcher
from mastosync_dagster.refetching import refetch_missing
from mastosync_dagster.resources import MastodonDatabase, S3Bucket, ensure_different
from mastosync_dagster.selection import Changes, Sizes, batches
from mastosync_dagster.settings import ChangesConfig, CopyConfig, PlanConfig
from mastosync_dagster.transfer.copying import CopyCounts, copy_plan
from mastosync_dagster.transfer.errors import StorageError
from mastosync_dagster.transfer.fetching import FetchSettings
from mastosync_dagster.transfer.inherited import look_at_inherited
from mastosync_dagster.transfer.manifest import FORMAT, merge, read_manifest
from mastosync_dagster.transfer.manifest_store import ManifestStoreError
from mastosync_dagster.transfer.outcomes import Outcome, Reason
from mastosync_dagster.transfer.planning import PlanCounts, make_plan
from mastosync_dagster.transfer.probe import prove_private
from mastosync_dagster.transfer.refetch import RefetchCounts
from mastosync_dagster.transfer.turning import TurnCounts, turn
from mastosync_dagster.transfer.undisturbed import undisturbed
from mastosync_dagster.turned import with_turned
from mastosync_dagster.unrecorded import trust
from mastosync_dagster.verdicts import Repairs, repairs
from mastosync_dagster.witnesses import look_for_originals

_MANY = 20
"""Objects of a run from which on it is looked whether the source is the right one, if it lacks most of them. A range of
fewer is looked at where it lacks all of them: a range that is materialized is not run again."""

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
        read_at: The moment whose rows the database showed before the first one was read, by its clock.
        seconds: How long planning took.
        database_bytes: What the database says that the objects' originals weigh.
        remark: What is to be known of the objects that were at the destination before; None: nothing.
    """

    scope: Scope
    config: PlanConfig
    run_id: str
    counts: PlanCounts
    read_at: datetime
    seconds: float
    database_bytes: int
    remark: str | None = None


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


def _make_plan(
    context: dg.OpExecutionContext,
    scope_at: Callable[[datetime], Scope],
    config: PlanConfig,
    sides: _Sides,
) -> Planned:
    """Plan into the run's folder, from the rows of the database and listings of both sides.

    Args:
        context: Of the op.
        scope_at: Returns what the run is about, given the database's clock.
        config: Of the op.
        sides: The servers.
    """
    started = time.monotonic()
    context.instance.add_run_tags(context.run_id, {PROCESS_TAG: str(RunProcess.current(context.run_id))})
    source, destination = sides.source.storage(), sides.destination.storage()
    ensure_different(sides.source, sides.destination)
    store = manifest_store(context.instance, sides.destination)
    Outbox(context.instance).publish_waiting(store, context.log.warning)
    folder = workfolder.create_work_folder(context.instance, context.run_id)
    with sides.database.session() as connect, sides.progress.watch(context.log) as watcher:
        with contextlib.closing(connect()) as connection:
            read_at, now, reading = rows_as_of(connection), database_now(connection), time.monotonic()
            scope = scope_at(read_at)
            schema = read_schema(connection, [selection.table for selection in scope.selections])
        sizes, marks = Sizes(), _marks(context, scope, config, sides.destination)
        wanted = itertools.chain.from_iterable(
            with_turned(
                batches(
                    walk_rows(connect, schema, selection, page_rows=config.page_rows),
                    _changes(context, selection, sides.destination),
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
        read_at=read_at,
        seconds=time.monotonic() - started,
        database_bytes=sizes.bytes,
        remark=_remark(context, scope, marks.privacy, sides) if counts.present else None,
    )
    # Before the first object is copied, so that no run has copied something and lacks them.
    read_until = now + timedelta(seconds=time.monotonic() - reading)
    tags = read_until_tags((selection.table for selection in scope.selections), read_until, context.run_id)
    context.instance.add_run_tags(context.run_id, tags)
    context.log.info(
        f"planned {counts.rows:,} rows, {counts.objects:,} objects in {planned.seconds:.1f} s: {counts.to_copy:,} to"
        f" copy ({counts.bytes_to_copy / 1e6:,.1f} MB), {counts.present:,} present, {counts.missing:,} missing,"
        f" {counts.failed:,} failed; {counts.list_requests:,} list and {counts.head_requests:,} head requests"
    )
    return planned


def _remark(context: dg.OpExecutionContext, scope: Scope, privacy: Privacy, sides: _Sides) -> str | None:
    """Look at what another tool may have put at the destination, before the first run; None: nothing is to be said."""
    store, place = manifest_store(context.instance, sides.destination), place_of(sides.destination)
    if scope.partition == CHANGES:
        earlier = reversed(store.in_order(SYNC_CHANGES))
    else:
        newest = store.newest_of(scope.name, scope.partition)
        earlier = iter([newest] if newest else [])
    if any(is_about(store, manifest, FORMAT, place) for manifest in earlier):
        return None
    folder = workfolder.work_folder(context.instance, context.run_id)
    found = look_at_inherited(
        folder,
        sides.source.storage(),
        sides.destination.storage(),
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


def _about(destination: S3Bucket) -> About:
    return About(place=place_of(destination), acls=destination.settings().has_acls)


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


def _changes(context: dg.OpExecutionContext, selection: Selection, destination: S3Bucket) -> Changes | None:
    """Return which objects of the selection's rows are wanted; None: all."""
    if selection.changed_since is None:
        return None
    file_type = FileType(selection.table)
    known = watermark(context.instance, file_type, place_of(destination))
    return Changes(
        since=selection.changed_since,
        all_above=selection.all_above,
        new_after=new_after(context.instance, file_type, known, run_id=context.run_id),
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
    with plain_failures():
        file_type = FileType(context.assets_def.key.to_user_string())
        ids = registered_range(context.instance, file_type, context.partition_key)
        scope = Scope(
            name=file_type.value,
            partition=context.partition_key,
            selections=(Selection(table=file_type.value, ids=ids),),
        )
        return _make_plan(context, lambda _: scope, config, _Sides(mastodon_db, source, destination, progress))


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

    def scope_at(now: datetime) -> Scope:
        place = place_of(destination)
        shares = config.shares(context.instance, place, now)
        context.log.info("; ".join(share.why for share in shares))
        return Scope(
            name=context.job_name,
            partition=CHANGES,
            selections=tuple(share.selection for share in shares),
            claims=tuple(share.claim for share in shares if share.claim),
            place=place,
        )

    with plain_failures():
        return _make_plan(context, scope_at, config, _Sides(mastodon_db, source, destination, progress))


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
    with plain_failures():
        return _copy(context, config, planned, _Sides(mastodon_db, source, destination, progress, web))


def _copy(context: dg.OpExecutionContext, config: CopyConfig, planned: Planned, sides: _Sides) -> Copied:
    """Carry out a plan. One of another run (re-execution from failure) is made again, for it may be stale."""
    if planned.run_id != context.run_id:
        scope = planned.scope
        planned = _make_plan(context, lambda _: scope, planned.config, sides)
    folder = workfolder.work_folder(context.instance, context.run_id)
    try:
        with sides.progress.watch(context.log) as watcher:
            turned, counts = _carry_out(context, planned, sides, config, watcher)
            refetched = RefetchCounts()
            stopped = turned.stopped or counts.stopped
            wrong = None if stopped else _look_at_source(context, planned, counts, sides)
            if config.refetch and not (stopped or wrong):
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
    return Copied(planned=planned, config=config, counts=counts, turned=turned, refetched=refetched, wrong_source=wrong)


def _carry_out(
    context: dg.OpExecutionContext, planned: Planned, sides: _Sides, config: CopyConfig, watcher: Watcher
) -> tuple[TurnCounts, CopyCounts]:
    """Set the ACLs that are to be set, then copy. What ends the first leaves the copies not attempted."""
    source, destination, stop = sides.source.storage(), sides.destination.storage(), threading.Event()
    folder, settings = workfolder.work_folder(context.instance, context.run_id), config.copy_settings()
    interrupt: BaseException | None = None
    turned = TurnCounts()
    try:
        refused = _try_probes(context, planned, sides, refetch=config.refetch)
        # First of all: what is private now must not stay readable while other objects are copied.
        turned = turn(folder, source.settings.prefix, destination, stop=stop, refused=refused)
    except BaseException as error:  # noqa: BLE001  (raised again when the copies are written down)
        interrupt = error
    if interrupt is not None or turned.stopped is not None:
        stop.set()
    counts = copy_plan(folder, source, destination, settings, on_progress=watcher.copied, stop=stop)
    if interrupt is not None:
        raise interrupt
    return turned, counts


def _try_probes(
    context: dg.OpExecutionContext, planned: Planned, sides: _Sides, *, refetch: bool
) -> StorageError | None:
    """Return why nothing private may be written, and no ACL be set; None: it may."""
    folders = planned.counts.private_folders
    if refetch:
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
    """Return the error that ends a run whose source is not the one that the rows speak of; None: it may be.

    Most of what a run wants may be absent from the right source: a cache was cleared, Mastodon writes to the
    destination by now. So other rows are asked.
    """
    plan, is_range = planned.counts, planned.scope.partition != CHANGES
    lacking = plan.missing + plan.only_at_destination + counts.missing + counts.present
    many = 2 * lacking > plan.objects >= _MANY
    if not many and not (is_range and lacking == plan.objects > 0):
        return None
    source, destination = sides.source.storage(), sides.destination.storage()
    with sides.database.session() as connect:
        tables = {selection.table for selection in planned.scope.selections}
        found = look_for_originals(connect, source, destination, tables)
    told = f"the source lacks {lacking:,} of the {plan.objects:,} objects of this run"
    if not found.speak_against:
        context.log.warning(f"{told}; of {found.asked:,} originals of other rows it has {found.at_source:,}")
        return None
    return StorageError(f"{told}: {found.complaint(source, destination)}", reason=Reason.UNEXPECTED, permanent=True)


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
            reports.ONLY_THERE: self.summary.total.only_at_destination,
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
        tally = self.summary.groups.get(table, reports.Tally())
        metadata: dict[str, dg.RawMetadataValue] = {
            **reports.counts(tally),
            reports.ONLY_THERE: tally.only_at_destination,
            **self.read(),
        }
        if selection.changed_since is not None:
            metadata["changed_since"] = dg.MetadataValue.timestamp(selection.changed_since)
        scope = self.copied.planned.scope
        # Re-executed from failure into another bucket, the run takes the rows that the first one lacked.
        claims = {claim.table: claim for claim in scope.claims if scope.place == self.place}
        # A file type whose objects all have a good end is done, whatever becomes of the others.
        if table in claims and not self.failed(tally) and not self.copied.stopped:
            metadata[WATERMARK] = dg.MetadataValue.timestamp(self.copied.planned.read_at)
            metadata[EVERY_ROW] = dg.MetadataValue.bool(claims[table].every_row)
            covered_since = claims[table].covered_since or self.copied.planned.read_at
            metadata[COVERED_SINCE] = dg.MetadataValue.timestamp(covered_since)
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
    with plain_failures():
        told = _report(context, copied, _Sides(mastodon_db, source, destination, progress, web))
    check = reports.check_result(
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
) -> reports.Summary:
    """End an unpartitioned run: an observation per file type, or a failure if an object failed."""
    with plain_failures():
        told = _report(context, copied, _Sides(mastodon_db, source, destination, progress, web))
    for selection in copied.planned.scope.selections:
        context.log_event(told.observation(selection))
    context.add_output_metadata(told.metadata())
    told.raise_if_failed()
    return told.summary
