"""The first step of a run: read the rows, list source and destination, write down what is to be done."""

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from psycopg2.extensions import connection as Connection

from mastosync_dagster.environment import rows_per_partition
from mastosync_dagster.escaping import plain
from mastosync_dagster.expected.objects import Changes, Sizes, batches
from mastosync_dagster.expected.privacy import KnownState, Privacy
from mastosync_dagster.expected.records import Records
from mastosync_dagster.expected.source_check import hidden_source
from mastosync_dagster.mastodon import (
    Connect,
    Database,
    IdRange,
    NewestRow,
    Selection,
    database_now,
    newest_row_of,
    read_over,
    read_schema,
    walk_rows,
)
from mastosync_dagster.plan.items import Batch
from mastosync_dagster.plan.planner import PlanCounts, make_plan
from mastosync_dagster.ranges.partitions import FileType, RangeIndex, find_ranges, registered_ranges
from mastosync_dagster.records.doubts import CONTENT, Doubt
from mastosync_dagster.records.folded import level
from mastosync_dagster.records.store import ManifestStoreError
from mastosync_dagster.runs import work_folder
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.doubts import CHANGES, RunDoubts
from mastosync_dagster.runs.manifests import Damaged, passed
from mastosync_dagster.runs.outbox import Outbox
from mastosync_dagster.runs.watermarks import (
    OVERLAP,
    SYNC_CHANGES,
    Wanted,
    believable,
    new_after,
    read_until_tags,
    watermark,
)
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.sync.clocks import Reading, begin_reading, destination_clock
from mastosync_dagster.sync.config import PlanConfig
from mastosync_dagster.sync.doubt_checks import Counts, DoubtChecks
from mastosync_dagster.sync.finished_ranges import PlannedRange
from mastosync_dagster.sync.models import Planned, Scope, ScopeAt, takes_every_row
from mastosync_dagster.units import MEGABYTE
from mastosync_dagster.verify.inherited import check_inherited
from mastosync_dagster.verify.repairs import Repairs, repairs


@dataclass(frozen=True)
class Begun:
    """What is known before the first row is read.

    Attributes:
        newest: The newest row of each table that the run may claim.
        clock_ahead: How far the database's clock is ahead of this machine's.
        at: When reading began, by `time.monotonic`.
    """

    database: Database
    scope: Scope
    reading: Reading
    newest: tuple[NewestRow, ...]
    clock_ahead: timedelta
    at: float


def _begin(run: RunContext, connect: Connect, scope_at: ScopeAt, config: PlanConfig, *, claims: bool) -> Begun:
    """Determine what a run is about, and the state of the database, before the first row is read."""
    # Before the connection: the server would end one that is idle while a slow destination is asked.
    destination_time = destination_clock(run.destination) if claims else None

    def begin(connection: Connection) -> Begun:
        reading = begin_reading(
            connection,
            destination_time,
            claims=claims,
            wait_seconds=config.wait_seconds,
            info=run.log.info,
            warn=run.log.warning,
        )
        scope = scope_at(connection, reading)
        tables = [selection.table for selection in scope.selections]
        database = Database(connect, read_schema(connection, tables))
        rows = [newest_row_of(connection, database.schema, table) for table in tables if scope.claims]
        clock_ahead = database_now(connection) - datetime.now(timezone.utc)
        newest = tuple(row for row in rows if row is not None)
        return Begun(database, scope, reading, newest, clock_ahead, time.monotonic())

    return read_over(connect, begin)


def make_run_plan(run: RunContext, scope_at: ScopeAt, config: PlanConfig, *, claims: bool) -> Planned:
    """Plan into the run's folder, from the rows and both listings; ``claims``: the run may move a watermark."""
    started, begun_at = time.monotonic(), datetime.now(timezone.utc)
    work_folder.create_work_folder(run.instance, run.run_id, run.warn)
    run.log_remarks()
    run.ensure_different()
    Outbox(run.instance, run.log.warning).publish_waiting(run.store)
    if claims:
        _fold_earlier(run)
    with run.connections(first=True) as connect:
        begun, listed = _with_doubts(run, _begin(run, connect, scope_at, config, claims=claims))
        new = {each.table: _new_ranges(run, connect, each) for each in begun.scope.selections if takes_every_row(each)}
        sizes = _sizes(run, begun.scope, new)
        hidden = hidden_source(begun.database, run.source) if config.privacy is Privacy.source else None
        if hidden is not None:
            raise hidden
        counts = _plan_rows(run, config, begun, listed, sizes)
    ranges = {
        table: tuple(
            PlannedRange(ids, size.by_range[ids], size.left_out_by_range[ids], new=ids in new.get(table, ()))
            for ids in size.ranges.ranges
        )
        for table, size in sizes.items()
    }
    planned = Planned(
        scope=begun.scope,
        config=config,
        run_id=run.run_id,
        counts=counts,
        read_at=begun.reading.read_at,
        seconds=time.monotonic() - started,
        database_bytes=sum(size.bytes for size in sizes.values()),
        begun=begun_at,
        remark=_remark(run, begun.scope, config.privacy) if counts.present else None,
        claimable=begun.reading.claimable,
        newest=begun.newest,
        ranges=ranges,
        left_out={table: size.left_out for table, size in sizes.items()},
    )
    _note(run, planned, begun.reading.latest + timedelta(seconds=time.monotonic() - begun.at))
    return planned


def _fold_earlier(run: RunContext) -> None:
    """Fold the manifests of earlier incremental runs, so that no command has to read one for each night."""
    from mastosync_dagster.records.folding import fold_manifests  # noqa: PLC0415  (9 MB that an ID range's run saves)

    try:
        fold_manifests(run.store, SYNC_CHANGES, CHANGES, run.log.warning)
    except (ManifestStoreError, StorageError, OSError) as error:
        run.log.warning(f"the manifests of earlier runs are not folded, a later run does it: {plain(str(error))}")


def _new_ranges(run: RunContext, connect: Connect, selection: Selection) -> list[IdRange]:
    """Return the ranges that a run over a whole table registers when it ends.

    Not before: a night takes the whole of a table without ranges, so that what a killed run had left is not forgotten.
    """
    file_type = FileType(selection.table)
    # What is above the last range is no range until it fills one: many runs would make many small ones.
    full_only = bool(registered_ranges(run.instance, file_type))
    return find_ranges(run.instance, file_type, connect, rows_per_partition=rows_per_partition(), full_only=full_only)


def _sizes(run: RunContext, scope: Scope, new: Mapping[str, Sequence[IdRange]]) -> dict[str, Sizes]:
    """Return sums to be made for each table; by ID range, where all rows of all of its ranges are planned."""

    def ranges(selection: Selection) -> RangeIndex:
        if not takes_every_row(selection):
            return RangeIndex()
        return RangeIndex([*registered_ranges(run.instance, FileType(selection.table)), *new[selection.table]])

    return {selection.table: Sizes(ranges=ranges(selection)) for selection in scope.selections}


def _with_doubts(run: RunContext, begun: Begun) -> tuple[Begun, list[RunDoubts]]:
    """Read the doubt lists. Of a table of which one cannot be read, the run takes every row."""
    partition, selections = begun.scope.partition, begun.scope.selections
    listed = [RunDoubts(run, partition, selection) for selection in selections]
    scope = begun.scope.with_every_row([each.table for each in listed if not each.is_whole])
    for each, rows in zip(listed, scope.selections, strict=True):
        if rows.changed_since is None:
            each.plan_all_rows()
    return replace(begun, scope=scope), listed


def _plan_rows(
    run: RunContext, config: PlanConfig, begun: Begun, listed: Sequence[RunDoubts], sizes: Mapping[str, Sizes]
) -> PlanCounts:
    """Make the plan, and publish what carrying it out puts in doubt."""
    checks = [_doubt_checks(run, config, begun, *each) for each in zip(begun.scope.selections, listed, strict=True)]
    with contextlib.ExitStack() as stack:
        watcher = stack.enter_context(run.progress.watch(run.log))
        for each in checks:
            each.listed.open(stack)
        counts = make_plan(
            itertools.chain.from_iterable(
                _wanted(run, config, begun, each, sizes[each.listed.table]) for each in checks
            ),
            run.source,
            run.destination,
            run.folder,
            listers=config.listers,
            copy_private=bool(config.copy_private),
            acls_from_source=config.privacy is Privacy.source,
            on_progress=watcher.planned,
            knowledge=Records.of(run, begun.database).known,
            overwrite=config.overwrite,
        )
        for each in checks:
            each.listed.add_planned()
    # Before the first object is written: however this run ends, a later one checks what it makes doubtful.
    for each in checks:
        each.listed.publish()
        if each.counts != Counts():
            run.log.info(f"{each.listed.table}, in doubt: {each.counts}")
    # What was private before is probed too: a bucket policy, whenever it was set, wins over ACLs.
    patterns = counts.private_patterns.union(*(each.patterns for each in checks))
    return replace(counts, private_patterns=patterns)


def _note(run: RunContext, planned: Planned, read_until: datetime) -> None:
    """Tag the run with the time until which it has read the rows, and log what it has planned."""
    # Before the first object is copied, so that no run that has copied something lacks the tags.
    tags = read_until_tags((selection.table for selection in planned.scope.selections), read_until, run.run_id)
    run.instance.add_run_tags(run.run_id, tags)
    counts, left_out = planned.counts, sum(planned.left_out.values())
    aside = f"; {left_out:,} objects left out ({planned.scope.policy})" if left_out else ""
    run.log.info(
        f"planned {counts.rows:,} rows, {counts.objects:,} objects in {planned.seconds:.1f} s: {counts.to_copy:,} to"
        f" copy ({counts.bytes_to_copy / MEGABYTE:,.1f} MB), {counts.present:,} present, {counts.missing:,} missing,"
        f" {counts.failed:,} failed; {counts.list_requests:,} list and {counts.head_requests:,} head requests"
        f"{aside}"
    )


def _remark(run: RunContext, scope: Scope, privacy: Privacy) -> str | None:
    """Return a warning about objects that another tool has put at the destination before; None: none differ."""
    unknown_whole, unknown_changed = set(scope.tables.whole), set(scope.tables.changed)
    group = SYNC_CHANGES if scope.partition == CHANGES else scope.name
    # The newest first; a fold's runs are older than all that have a manifest of their own.
    latest_first = list(reversed(run.store.in_order(group, scope.partition)))
    latest_first.sort(key=level)
    with run.store.ahead(latest_first) as file_of:
        for manifest in latest_first:
            if not unknown_whole and not unknown_changed:
                break
            earlier = passed(file_of, manifest, run.origin)
            unknown_whole -= earlier.whole
            unknown_changed -= earlier.whole | earlier.changed
    unknown = unknown_whole | unknown_changed
    if not unknown:
        return None
    acl_from_source = privacy is Privacy.source
    found = check_inherited(run.folder, run.source, run.destination, groups=unknown, acl_from_source=acl_from_source)
    if not found.differ:
        return None
    remark = (
        f"{found.differ:,} of {found.checked:,} objects that were at the destination before, and were checked, are not"
        " as a copy would have made them: another tool has put them there. Verify the ID ranges with headers: all and"
        " acls: all, then sync them again; docs/verify-and-prune.md says how"
    )
    run.log.warning(f"{remark}. {found.first}")
    return remark


def _doubt_checks(
    run: RunContext, config: PlanConfig, begun: Begun, selection: Selection, listed: RunDoubts
) -> DoubtChecks:
    """Return the check of what is in doubt in a selection's table, with what is known of its rows and objects."""
    partition, found = begun.scope.partition, Repairs()
    if partition != CHANGES:
        file_type, damaged = FileType(selection.table), Damaged(run.log.warning)
        prefix = run.destination.settings.prefix
        found = repairs(run.store, run.origin, prefix, file_type, partition, damaged=damaged)
    known = KnownState(
        privacy=config.privacy,
        # An object that has failed or was missing has the ACL that it was written with.
        doubtful=listed.doubts.rows(set(Doubt) - CONTENT),
        again=found.again,
        check_acl=found.set_acl,
    )
    return DoubtChecks(run, config, listed, known, selection, database=begun.database, read_at=begun.reading.read_at)


def _wanted(run: RunContext, config: PlanConfig, begun: Begun, check: DoubtChecks, sizes: Sizes) -> Iterator[Batch]:
    """Yield the objects of a selection's rows, and those that the run checks beside them."""
    selection = check.selection
    pages = walk_rows(begun.database, selection, page_rows=config.page_rows)
    return check.after(batches(pages, _changes(run, begun, selection), sizes, check.known))


def _changes(run: RunContext, begun: Begun, selection: Selection) -> Changes | None:
    """Return which objects of the selection's rows are wanted; None: all."""
    if selection.changed_since is None:
        return None
    file_type = FileType(selection.table)
    wanted = Wanted(begun.scope.policy.rule(file_type.value), begun.reading.read_at)
    known = watermark(run.instance, file_type, run.destination_id, believable(begun.reading.earliest), wanted)
    return Changes(
        since=selection.changed_since,
        all_above=selection.all_above,
        new_after=new_after(run.instance, file_type, known, run_id=run.run_id),
        until=begun.reading.latest + OVERLAP,
        clock_ahead=begun.clock_ahead,
        window=selection.remote,
    )
