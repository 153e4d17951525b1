"""The second step of a run: set ACLs, copy, fetch what is missing elsewhere."""

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence

from mastosync_dagster.copy.acl_changes import AclCounts, turn
from mastosync_dagster.copy.engine import CopyCounts, CopyProgress, copy_plan
from mastosync_dagster.escaping import plain
from mastosync_dagster.expected.privacy import Privacy
from mastosync_dagster.expected.source_check import Witnesses, look_for_originals, wrong_source
from mastosync_dagster.mastodon import (
    TABLES,
    PrivateRows,
    read_schema,
)
from mastosync_dagster.records.doubts import DoubtLine
from mastosync_dagster.refetch.fetch import FetchSettings
from mastosync_dagster.refetch.origins import refetch_missing
from mastosync_dagster.refetch.refetch import RefetchCounts
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.doubts import add_to_list
from mastosync_dagster.runs.manifests import Passed
from mastosync_dagster.runs.progress import Watcher
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.probes import prove_private
from mastosync_dagster.shield import run_shielded
from mastosync_dagster.sync.config import CopyConfig
from mastosync_dagster.sync.models import Copied, Planned
from mastosync_dagster.sync.plan_step import make_run_plan
from mastosync_dagster.sync.privacy_watch import PrivacyWatch
from mastosync_dagster.sync.publication import publish


def copy_planned(run: RunContext, config: CopyConfig, planned: Planned, web: FetchSettings) -> Copied:
    """Carry out a plan. One of another run (re-execution from failure) is made again, for it may be stale."""
    if planned.run_id != run.run_id:
        scope = planned.scope
        planned = make_run_plan(run, lambda *_: scope, planned.config, claims=bool(scope.claims))
    try:
        with run.progress.watch(run.log) as watcher, _privacy_watch(run, planned) as watch:
            turned, counts = _carry_out(run, planned, config, watcher, watch)
            refetched = RefetchCounts()
            stopped = turned.stopped or counts.stopped
            wrong = None if stopped else _look_at_source(run, planned, counts)
            if config.refetch and not (stopped or wrong):
                refetched = _refetch(run, planned, config, watcher, web)
    except BaseException:
        # Terminated, or worse: what was done must be looked up all the same.
        try:
            # Nor may a further signal end this: nobody would learn what had become of the objects.
            run_shielded(lambda: publish(run, planned, Passed(), went_through=False), lambda _: None)
        except Exception as problem:  # noqa: BLE001  (whatever it is, it must not take the place of what ended the run)
            run.log.warning(f"what was done until here could not be put on record: {plain(str(problem))}")
        raise
    if any(counts.repeated.values()):
        told = ", ".join(f"{number:,} to the {name}" for name, number in counts.repeated.items())
        run.log.info(f"requests that had to be repeated: {told}")
    return Copied(planned=planned, config=config, counts=counts, turned=turned, refetched=refetched, wrong_source=wrong)


def _carry_out(
    run: RunContext,
    planned: Planned,
    config: CopyConfig,
    watcher: Watcher,
    watch: PrivacyWatch | None,
) -> tuple[AclCounts, CopyCounts]:
    """Set the ACLs that are to be set, then copy. What ends the first leaves the copies not attempted."""
    source, destination, stop = run.source, run.destination, threading.Event()
    folder, settings = run.folder, config.copy_settings()

    def on_progress(progress: CopyProgress) -> None:
        watcher.copied(progress)
        if watch is not None:
            watch.tick()

    interrupt: BaseException | None = None
    turned = AclCounts()
    try:
        refused = _try_probes(run, planned, refetch=config.refetch)
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
def _privacy_watch(run: RunContext, planned: Planned) -> Iterator[PrivacyWatch | None]:
    """Give a watch over the rows that may become private while the plan is carried out; None where none can."""
    tables = [each.table for each in planned.scope.selections if TABLES[each.table].owners]
    writes = planned.counts.to_copy or planned.counts.to_turn
    destination = run.destination
    by_rows = Privacy(planned.config.privacy) is Privacy.MASTODON
    if not tables or not writes or not by_rows or not destination.settings.has_acls:
        yield None
        return
    # Media attachments are the only table whose rows an owner makes private.
    (table,) = tables
    place, supplements = run.list_place(planned.scope.partition), itertools.count(1)

    def put_on_list(lines: Sequence[DoubtLine]) -> None:
        add_to_list(place, table, lines, next(supplements))

    with run.database.session() as connect:
        with contextlib.closing(connect()) as connection:
            schema = read_schema(connection, [table])
        with PrivateRows(connect, schema, table) as rows:
            yield PrivacyWatch(rows, destination, put_on_list, run.log.warning)


def _try_probes(run: RunContext, planned: Planned, *, refetch: bool) -> StorageError | None:
    """Return why nothing private may be written, and no ACL be set; None: it may."""
    folders = planned.counts.private_folders
    if refetch and (run.destination.settings.has_acls or planned.config.wants_private()):
        folders |= planned.counts.private_missing_folders
    try:
        # With a storage of its own: the first of the real objects is looked at once more.
        prove_private(
            run.destination_bucket.storage(),
            folders,
            sets_acls=bool(planned.counts.to_turn),
            halt=threading.Event(),
            warn=run.log.warning,
        )
    except StorageError as error:
        return error
    if folders:
        run.log.info(
            f"probes in {', '.join(sorted(folders))}: what is written private there is not given out without a"
            " signature by the endpoint; other addresses of the bucket were not asked"
        )
    return None


def _look_at_source(run: RunContext, planned: Planned, counts: CopyCounts) -> StorageError | None:
    """Return the error that ends a run whose source is not the one that the rows speak of; None: it may be."""
    plan, selections = planned.counts, planned.scope.selections
    source, destination = run.source, run.destination

    def look() -> Witnesses:
        with run.database.session() as connect:
            return look_for_originals(connect, source, destination, {selection.table for selection in selections})

    return wrong_source(
        plan.missing + plan.only_at_destination + counts.missing + counts.present,
        plan.objects,
        look,
        (source, destination),
        run.log.warning,
        once=any(selection.changed_since is None for selection in selections),
    )


def _refetch(
    run: RunContext, planned: Planned, config: CopyConfig, watcher: Watcher, web: FetchSettings
) -> RefetchCounts:
    """Fetch what is missing from the servers that it is a copy of."""
    destination = run.destination
    counts = refetch_missing(
        run.folder,
        run.database,
        destination,
        web,
        memory_mb=config.memory_mb,
        keep_private=Privacy(planned.config.privacy) is not Privacy.NONE,
        take_private=bool(planned.config.wants_private() or destination.settings.has_acls),
        stop=threading.Event(),
        on_progress=lambda now: watcher.told(f"{now.refetched:,} missing objects fetched, {now.refused:,} not"),
    )
    run.log.info(
        f"{counts.refetched:,} missing objects fetched from their servers ({counts.bytes / 1e6:,.1f} MB),"
        f" {counts.refused:,} not; the manifest says why"
    )
    return counts
