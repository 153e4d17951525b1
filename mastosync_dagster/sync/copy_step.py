"""The second step of a run: set ACLs, copy, fetch what is missing elsewhere."""

import contextlib
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from mastosync_dagster.copy.acl_changes import AclCounts, set_acls
from mastosync_dagster.copy.engine import CopyCounts, CopyProgress, copy_plan
from mastosync_dagster.escaping import plain
from mastosync_dagster.expected.privacy import Privacy
from mastosync_dagster.expected.source_check import OriginalsCheck, check_originals, wrong_source
from mastosync_dagster.history.postgres import history_may_fail, is_history_error, stop_soon
from mastosync_dagster.mastodon import TABLES, Database, PrivateRows
from mastosync_dagster.records import summaries
from mastosync_dagster.records.doubts import DoubtLine
from mastosync_dagster.refetch.fetch import FetchSettings
from mastosync_dagster.refetch.origins import refetch_missing
from mastosync_dagster.refetch.refetch import RefetchCounts
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.disk_room import Room
from mastosync_dagster.runs.doubts import add_to_list
from mastosync_dagster.runs.manifests import Passed
from mastosync_dagster.runs.progress import Watcher
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.probes import ExposedError, prove_private
from mastosync_dagster.s3.retry_policies import COPY
from mastosync_dagster.shield import run_shielded
from mastosync_dagster.sync.config import CopyConfig
from mastosync_dagster.sync.events import log_finished_ranges
from mastosync_dagster.sync.finished_ranges import RangeCounts
from mastosync_dagster.sync.models import Copied, Planned
from mastosync_dagster.sync.privacy_watch import PrivacyWatch
from mastosync_dagster.sync.publication import publish
from mastosync_dagster.sync.shared_limits import SharedLimits
from mastosync_dagster.units import MEGABYTE


def copy_planned(run: RunContext, config: CopyConfig, planned: Planned, web: FetchSettings) -> Copied:
    """Carry out the run's plan."""
    try:
        with run.progress.watch(run.log) as watcher, _privacy_watch(run, planned) as watch:
            acls, counts = _carry_out(run, planned, config, watcher, watch)
            refetched = RefetchCounts()
            stopped = acls.stopped or counts.stopped
            wrong = None if stopped else _check_source(run, planned, counts)
            if config.refetch and not (stopped or wrong):
                refetched = _refetch(run, planned, config, watcher, web)
    except BaseException as error:
        # Terminated, or worse: the manifest must have what was done all the same.
        terminated = not isinstance(error, Exception)
        if terminated:
            stop_soon()
        # A history that does not answer must not hide the error that ended the run.
        with history_may_fail():
            try:
                # Shielded: a further signal would lose the outcome of every object.
                run_shielded(lambda: _publish_what_is_done(run, planned, terminated=terminated), lambda _: None)
            except Exception as problem:
                if is_history_error(problem):
                    raise
                # Whatever it is, it must not hide that error either.
                run.log.warning(
                    f"the outcome of what was done until here could not be published: {plain(str(problem))}"
                )
        raise
    if any(counts.repeated.values()):
        repeated = ", ".join(f"{number:,} to the {name}" for name, number in counts.repeated.items())
        run.log.info(f"requests that had to be repeated: {repeated}")
    return Copied(planned=planned, counts=counts, acls=acls, refetched=refetched, wrong_source=wrong)


def _publish_what_is_done(run: RunContext, planned: Planned, *, terminated: bool) -> None:
    """Publish the records of a run that has ended early, and only then say so in Dagster's history."""
    ranges = RangeCounts(planned.ranges)
    summary, location = publish(run, planned, Passed(), ranges, went_through=False)
    log_finished_ranges(run, planned, ranges, summary, location, unchecked=True)
    if terminated:
        run.log.info(summaries.stopped_text(summary))


def _carry_out(
    run: RunContext, planned: Planned, config: CopyConfig, watcher: Watcher, watch: PrivacyWatch | None
) -> tuple[AclCounts, CopyCounts]:
    """Set the ACLs that are to be set, then copy. If the first ends early, the copies are recorded as not attempted."""
    source, destination, stop = run.source, run.destination, threading.Event()
    counts_planned = planned.counts
    budget = config.budget(
        lists=counts_planned.list_requests, gets=counts_planned.head_requests, acls=counts_planned.to_set_acls
    )
    settings, on_line = config.copy_settings(budget), None if watch is None else watch.wrote

    def on_progress(progress: CopyProgress) -> None:
        watcher.copied(progress)
        if watch is not None:
            watch.tell()

    interrupt: BaseException | None = None
    acls = AclCounts()
    try:
        refused = _try_probes(run, planned, refetch=config.refetch)
        # An ACL hides what a policy does not show.
        no_acls = None if isinstance(refused, ExposedError) else refused
        # First of all: what is private now must not stay readable while other objects are copied.
        acls = set_acls(run.folder, source.settings.prefix, destination, refused=no_acls, on_line=on_line)
        acls = replace(acls, stopped=acls.stopped or refused)
    except BaseException as error:  # noqa: BLE001  (raised again when the copies are recorded)
        interrupt = error
    if interrupt is not None or acls.stopped is not None:
        stop.set()
    with contextlib.nullcontext() if watch is None else watch.beside(stop):
        counts = copy_plan(
            run.folder,
            source,
            destination,
            settings,
            on_progress=on_progress,
            stop=stop,
            on_line=on_line,
            say=run.warn,
            sharing=SharedLimits(run.instance, run.run_id).runs,
            pause=Room(run.instance, run.warn).lacks,
        )
    if interrupt is not None:
        raise interrupt
    if watch is not None:
        try:
            watch.check()
        finally:
            watch.tell()
    return acls, counts


@contextlib.contextmanager
def _privacy_watch(run: RunContext, planned: Planned) -> Iterator[PrivacyWatch | None]:
    """Yield a watch over the rows that may become private while the plan is carried out; None where none can."""
    tables = [each.table for each in planned.scope.selections if TABLES[each.table].owners]
    writes = planned.counts.to_copy or planned.counts.to_set_acls
    by_rows = planned.config.privacy is Privacy.mastodon
    if not tables or not writes or not by_rows or not run.destination.settings.has_acls:
        yield None
        return
    # Media attachments are the only table whose rows an owner makes private.
    (table,) = tables
    supplements = itertools.count(1)

    def put_on_list(lines: Sequence[DoubtLine]) -> None:
        add_to_list(run, planned.scope.partition, table, lines, next(supplements))

    with run.connections() as connect, PrivateRows(Database.open(connect, [table]), table) as rows:
        prove = partial(_prove_private, run, sets_acls=True)
        yield PrivacyWatch(rows, run.destination, put_on_list, prove, run.log.warning)


def _try_probes(run: RunContext, planned: Planned, *, refetch: bool) -> StorageError | None:
    """Return why nothing private may be written, nor an ACL be set unless it is an `ExposedError`; None: both may."""
    patterns = planned.counts.private_patterns
    if refetch and (run.destination.settings.has_acls or planned.config.copy_private):
        patterns |= planned.counts.private_missing_patterns
    try:
        _prove_private(run, patterns, sets_acls=bool(planned.counts.to_set_acls))
    except StorageError as error:
        return error
    if patterns:
        folders = sorted({pattern.partition("/*")[0] for pattern in patterns})
        run.log.info(
            f"probes in {', '.join(folders)}: what is written private there is not readable without a"
            " signature at the endpoint; other addresses of the bucket were not checked"
        )
    return None


def _prove_private(run: RunContext, patterns: Iterable[str], *, sets_acls: bool) -> None:
    """Try probes; raises as `prove_private`."""
    # With a storage of its own: the proof of ACLs is made again with the first of the real objects.
    storage = run.destination_bucket.storage()
    # What passes must not end a run that would wait for it with the first object.
    storage.tell(run.warn, at_once=False)
    storage.policy = COPY
    prove_private(storage, patterns, sets_acls=sets_acls, warn=run.log.warning)


def _check_source(run: RunContext, planned: Planned, counts: CopyCounts) -> StorageError | None:
    """Return the error that ends a run whose source is not the one that the rows are about; None: it may be."""
    plan, selections = planned.counts, planned.scope.selections
    source, destination = run.source, run.destination

    def check() -> OriginalsCheck:
        with run.connections() as connect:
            tables = {selection.table for selection in selections}
            return check_originals(Database.open(connect), source, destination, tables)

    return wrong_source(
        plan.missing + plan.only_at_destination + counts.missing + counts.present,
        plan.objects - plan.acl_only,
        check,
        (source, destination),
        run.log.warning,
        once=any(selection.changed_since is None for selection in selections),
    )


def _refetch(
    run: RunContext, planned: Planned, config: CopyConfig, watcher: Watcher, web: FetchSettings
) -> RefetchCounts:
    """Fetch missing objects from the servers that they are copies of."""
    counts = refetch_missing(
        run.folder,
        run.database,
        run.destination,
        web,
        memory_mb=config.copy_settings().memory_mb,
        keep_private=planned.config.privacy is not Privacy.none,
        copy_private=bool(planned.config.copy_private or run.destination.settings.has_acls),
        on_progress=lambda now: watcher.message(f"{now.refetched:,} missing objects fetched, {now.refused:,} not"),
    )
    run.log.info(
        f"{counts.refetched:,} missing objects fetched from their servers ({counts.bytes / MEGABYTE:,.1f} MB),"
        f" {counts.refused:,} not; the manifest says why"
    )
    return counts
