"""Status of the copy: ID ranges from Dagster's history, objects and bytes from the database."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.expected.policy import EVERYTHING, Policy
from mastosync_dagster.mastodon import (
    Database,
    IdRange,
    LeftOutRows,
    SplitSize,
    TableSize,
    database_now,
    subset_size,
)
from mastosync_dagster.ranges.partitions import FileType, range_key, registered_ranges
from mastosync_dagster.records.doubts import CONTENT, OPEN, Doubt
from mastosync_dagster.records.findings import Finding
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.summaries import LEFT_OUT, ONLY_THERE
from mastosync_dagster.runs.doubts import in_doubt, open_objects, open_reasons
from mastosync_dagster.runs.manifests import LOST_DOUBTS, Damaged, ManifestOrigin, manifest_store
from mastosync_dagster.runs.watermarks import (
    DATABASE_BYTES,
    believable,
    failed_reads,
    failures,
    range_reads,
    range_states,
    verified_numbers,
)
from mastosync_dagster.sync import clocks
from mastosync_dagster.sync.incremental import checked_history

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from mastosync_dagster.resources import MastodonDatabase, S3Bucket
    from mastosync_dagster.runs.doubt_lists import Doubts
    from mastosync_dagster.runs.watermarks import RangeRead, Watermark
    from mastosync_dagster.sync.incremental import History

_LOWEST_ID, _HIGHEST_ID = -(2**63), 2**63 - 1
_ROWS_A_QUERY = 5_000


@dataclass(frozen=True)
class Status:
    """What is done and what is left of a file type.

    Attributes:
        ranges: Registered ID ranges, each of which counts as exactly one of the next four.
        materialized: Their last run succeeded, or what failed in it was copied since.
        failed: Their last run failed, or objects of theirs in the last run over whole tables; private ones that wait
            for a decision among them.
        running: A run is under way or queued.
        not_run: No run, or none into this destination that wanted as much as the policy does.
        narrower: Of these, the ones whose last run into this destination wanted less.
        objects_done: Objects at the destination.
        objects_missing: Objects that runs have found at neither storage; outside of ranges, as long as incremental runs
            retry them.
        only_at_destination: Objects done that runs of ranges have not found at the source.
        bytes_done: Of the originals done, by the database.
        left: Objects that no run has taken yet, that failed, that wait for their ACL, or that are private and wait for
            a decision; without files that have changed in ranges after their run, and without those that the policy
            leaves out.
        left_out: Objects that runs have left out by the policy, and of rows that no run has read.
        remote_files: Which remote files the policy wants.
        in_doubt: Objects that are left to do or to check, by the reason.
        reads: The latest materializations of the ranges, by key.
        watermark: Of incremental runs; None: there was none.
        orphans: Objects that no row expects, as the last verifications of ranges have seen; None: there was none.
        estimated: Objects of rows that the database had to count are an estimate: they are too many.
        restored: The watermark's newest row is not found: the database was restored, earlier runs do not count, and all
            objects are left.
    """

    file_type: FileType
    ranges: int
    materialized: int
    failed: int
    running: int
    not_run: int
    objects_done: int
    objects_missing: int
    only_at_destination: int
    bytes_done: int
    left: TableSize
    left_out: int
    remote_files: str
    in_doubt: Mapping[Doubt, int]
    reads: Mapping[str, RangeRead]
    watermark: Watermark | None
    restored: bool = False
    narrower: int = 0
    orphans: int | None = None
    estimated: bool = False


def statuses(
    instance: dg.DagsterInstance,
    mastodon_db: MastodonDatabase,
    destination: S3Bucket,
    file_types: Sequence[FileType],
    policy: Policy = EVERYTHING,
    *,
    warn: Callable[[str], object] = lambda _: None,
) -> list[Status]:
    """Return the status of each file type, given what is wanted. Raises an `AdminError`.

    Only rows that no range's run has read are counted in the database. ``warn`` gets a sentence for each file of the
    doubt lists that cannot be read: what it names is not counted.
    """
    origin = ManifestOrigin(destination.settings().identity, acls=destination.settings().has_acls)
    store, damaged = manifest_store(instance, destination), Damaged(warn, LOST_DOUBTS)
    doubts = {each: in_doubt(store, origin, each.value, damaged) for each in file_types}
    with mastodon_db.session() as connect:
        database = Database.open(connect, [each.value for each in file_types])
        with contextlib.closing(connect()) as connection:
            now = database_now(connection)
            latest = believable(now, clocks.machine_now())
            history = checked_history(instance, origin.destination_id, connection, latest, policy, now)
        reasons = open_reasons(has_acls=origin.acls)
        return [_status(history, database, each, doubts[each], reasons) for each in file_types]


def whole_tables(mastodon_db: MastodonDatabase, file_types: Sequence[FileType], policy: Policy) -> SplitSize:
    """Count all rows of some tables, and those that the policy leaves out. Raises as `statuses`."""
    everything = [IdRange(_LOWEST_ID, _HIGHEST_ID)]
    names = [file_type.value for file_type in file_types]
    with mastodon_db.session() as connect:
        database = Database.open(connect, names)
        with contextlib.closing(connect()) as connection:
            now = database_now(connection)
        sizes = [subset_size(database, name, everything, None, policy.window(name, now)) for name in names]
    wanted = sum((size.unchanged for size in sizes), TableSize())
    return SplitSize(wanted, TableSize(), sum((size.left_out for size in sizes), TableSize()))


def _status(
    history: History, database: Database, file_type: FileType, doubts: Doubts, reasons: Sequence[Doubt]
) -> Status:
    instance, destination_id, policy = history.instance, history.destination_id, history.policy
    ranges = registered_ranges(instance, file_type)
    window = policy.window(file_type.value, history.now)
    every_read = range_reads(instance, file_type, destination_id)
    reads = {key: read for key, read in every_read.items() if history.is_complete(file_type, read)}
    narrower = every_read.keys() - reads.keys()
    known, restored = history.watermark(file_type), file_type in history.restored
    verified = verified_numbers(instance, f"{file_type.value}_verification", file_type, destination_id)
    # What has failed may have been copied by a night since, which materializes no range.
    open_rows = doubts.rows({Doubt.FAILED, Doubt.SKIPPED}.intersection(reasons))
    in_part = failed_reads(instance, file_type, destination_id).keys()
    # The newest event of a range may be one of another destination, and hide an earlier failure at this one.
    observed = {event.partition for event in failures(instance, dg.AssetKey(file_type.value))}
    failed_ranges = {key for ids in ranges if (key := range_key(ids)) in observed and open_rows.any_in(ids)}
    states = range_states(instance, file_type, [range_key(ids) for ids in ranges], destination_id)
    counts = _by_state(states, read=reads.keys() | in_part, failed=failed_ranges)
    reads = {} if restored else reads
    taken, untaken = _taken_and_untaken(ranges, reads, None if restored else known)
    size_taken = subset_size(database, file_type.value, taken, known.timestamp if known else None, window)
    size_untaken = subset_size(database, file_type.value, untaken, None, window)
    # Objects of rows that no run has taken are left in any case.
    with LeftOutRows(database, file_type.value, window) as rows:
        doubts = _without(doubts, rows)
    open_ = open_objects(doubts, reasons, lambda row_id: not any(ids.lo <= row_id <= ids.hi for ids in untaken))
    # What is missing or skipped as private in ranges is counted by their runs.
    outside = open_objects(
        doubts, (*OPEN, Doubt.SKIPPED), lambda row_id: any(ids.lo <= row_id <= ids.hi for ids in taken)
    )
    # Missing objects are counted separately.
    undone = open_[Doubt.ACL] + open_[Doubt.FAILED]
    left = size_taken.changed + size_untaken.unchanged + TableSize(objects=undone + open_[Doubt.SKIPPED])
    # By the database, all objects of taken rows are done; by a range's run, also what has failed since.
    not_done = outside[Doubt.MISSING] + outside[Doubt.SKIPPED] + undone
    objects, missing, failed, only_there, left_out, bytes_read = (
        sum(round(read.numbers.get(name, 0)) for read in reads.values())
        for name in ("objects", Outcome.MISSING.value, Outcome.FAILED.value, ONLY_THERE, LEFT_OUT, DATABASE_BYTES)
    )
    return Status(
        file_type=file_type,
        ranges=len(ranges),
        objects_done=max(size_taken.unchanged.objects + objects - missing - failed - not_done, 0),
        objects_missing=missing + outside[Doubt.MISSING],
        only_at_destination=only_there,
        bytes_done=size_taken.unchanged.bytes + bytes_read,
        left=left,
        left_out=left_out + size_taken.left_out.objects + size_untaken.left_out.objects,
        remote_files=str(policy.rule(file_type.value)),
        in_doubt=open_,
        reads=reads,
        watermark=known,
        restored=restored,
        narrower=len(narrower),
        orphans=verified.get(Finding.EXTRA.value, 0) if verified else None,
        estimated=size_taken.estimated or size_untaken.estimated,
        **counts,
    )


def _taken_and_untaken(
    ranges: Sequence[IdRange], reads: Mapping[str, RangeRead], known: Watermark | None
) -> tuple[list[IdRange], list[IdRange]]:
    """Return the ids outside of read ranges: those whose rows an incremental run has taken, and those of no run."""
    unread = _joined([ids for ids in ranges if range_key(ids) not in reads])
    after = max((ids.hi for ids in ranges), default=_LOWEST_ID - 1)
    tail = [IdRange(after + 1, _HIGHEST_ID)] if after < _HIGHEST_ID else []
    if known is None:
        return [], unread + tail
    # An incremental run has taken the rows after the last range; one over every row has taken all.
    return (unread + tail, []) if known.every_row else (tail, unread)


def _by_state(
    states: Mapping[str, dg.AssetPartitionStatus | None], *, read: AbstractSet[str], failed: AbstractSet[str]
) -> dict[str, int]:
    """Count the ranges by the state of their last run, under the names of `Status`."""
    counts = dict.fromkeys(("materialized", "failed", "running", "not_run"), 0)
    for key, state in states.items():
        counts[_kind(state, read=key in read, failed=key in failed)] += 1
    return counts


def _without(doubts: Doubts, rows: LeftOutRows) -> Doubts:
    """Return a doubt list without what the nights do not ask for again, since the policy leaves it out."""
    ids = doubts.rows().ids
    chunks = (ids[start : start + _ROWS_A_QUERY] for start in range(0, len(ids), _ROWS_A_QUERY))
    left_out = set[int]().union(*(rows.among(chunk) for chunk in chunks))
    return doubts.without(left_out, {*CONTENT, Doubt.SKIPPED}) if left_out else doubts


def _kind(status: dg.AssetPartitionStatus | None, *, read: bool, failed: bool) -> str:
    if status is dg.AssetPartitionStatus.IN_PROGRESS:
        return "running"
    # The asset's page shows a range as failed by runs of its own alone.
    if failed or status is dg.AssetPartitionStatus.FAILED:
        return "failed"
    return "materialized" if read else "not_run"


def _joined(ranges: Sequence[IdRange]) -> list[IdRange]:
    """Join adjacent ranges, for fewer queries."""
    joined: list[IdRange] = []
    for ids in sorted(ranges, key=lambda each: each.lo):
        if joined and ids.lo == joined[-1].hi + 1:
            joined[-1] = IdRange(joined[-1].lo, ids.hi)
        else:
            joined.append(ids)
    return joined
