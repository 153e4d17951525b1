"""Facts from Dagster's own history: how far the destination is complete, and what may have been copied to it already.

They are only read here: the report of a run moves a watermark (`sync.events`) as far as `sync.incremental` lets it.
Timestamps are of the clock that was most behind when the database was read: its own, this machine's, the destination's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.history.events import AssetEvent, asset_events
from mastosync_dagster.mastodon import EVERY_REMOTE_ROW, NewestRow, RemoteRule
from mastosync_dagster.ranges.partitions import FileType, range_key, registered_ranges
from mastosync_dagster.records.summaries import with_counters
from mastosync_dagster.runs.run_lock import HIDDEN_TAGS, IN_PROGRESS
from mastosync_dagster.s3.settings import one_spelling

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dagster import DagsterInstance, EventLogRecord

SYNC_CHANGES = "sync_changes"
"""The job over changed rows."""
LAST = "last"
"""Stands for "since the last incremental run" in the place of a timestamp."""
REPLICA = "replica"
"""The asset that stands for the copy as a whole: a good night materializes it."""
NIGHT = "mastosync/night"
"""The tag of all runs of a night: ``changes`` or ``range``. dagster.yaml lets one of them run at a time."""

OVERLAP = timedelta(minutes=10)
"""A row may be committed so long after the timestamp in it; Mastodon's clocks may differ so much."""

# Metadata of materializations and observations.
READ_AT = "database_read_at"
DESTINATION = "destination"
WATERMARK = "watermark"
EVERY_ROW = "every_row"
COVERED_SINCE = "covered_since"
NEWEST_ID = "newest_id"
NEWEST_AT = "newest_row_created_at"
DATABASE_BYTES = "database_bytes"
REMOTE_FILES = "remote_files"
"""Which remote files the run wanted (`RemoteRule`)."""

_NIGHTS = 50
"""Observations of incremental runs in a page: most readers want the newest."""
_LONGEST_RUN = timedelta(days=30)
# A run whose process was killed on the command line is in progress for ever.
_LONGEST_PLANNING = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The remote files of a file type that are wanted at a time. What less was wanted for is not complete for it."""

    rule: RemoteRule
    at: datetime

    def is_covered(self, rule: RemoteRule, read_at: datetime) -> bool:
        """Return whether a run that read the rows then, and wanted what its rule says, wanted all of it."""
        return rule.covers(read_at, self.rule, self.at)


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far incremental runs have brought the destination.

    Every row outside of ranges that were never materialized has its objects there as they were at the timestamp, or a
    run has recorded why not (the source has lost them).

    Attributes:
        timestamp: By the database's clock.
        every_row: The first of the runs was one over every row, so that not even those ranges are excepted.
        covered_since: Incremental runs have taken what has changed between this time and the timestamp. A range that
            was read before, and whose run ended after the first of them had begun, lacks what changed in between.
        newest: The newest row of the table as it was read; None: the table was empty, or an earlier version ran.
        rule: Which remote rows were wanted; of others nothing is known.
    """

    timestamp: datetime
    run_id: str
    every_row: bool
    covered_since: datetime
    newest: NewestRow | None = None
    rule: RemoteRule = EVERY_REMOTE_ROW


@dataclass(frozen=True, slots=True)
class RangeRead:
    """The latest run of an ID range on record: when it read the database, and the numbers of its metadata.

    `rule`: which remote rows the run wanted.
    """

    read_at: datetime
    run_id: str
    numbers: Mapping[str, float]
    rule: RemoteRule = EVERY_REMOTE_ROW


def watermark(
    instance: DagsterInstance,
    file_type: FileType,
    destination_id: str,
    latest: datetime | None = None,
    wanted: Wanted | None = None,
) -> Watermark | None:
    """Return how far incremental runs of a file type have come; None: none of them has ended well yet.

    A watermark after ``latest`` comes from a wrong clock, and is not believed. One whose runs wanted less than what is
    ``wanted`` does not count; None: any counts.
    """
    furthest: Watermark | None = None
    ended = 0.0
    for destination, mark, recorded in _marks(instance, file_type):
        # Runs end in any order, so the latest to end need not be the one that has come furthest. But none that ended
        # long before it is: however many nights there were, those of some weeks are read.
        if furthest is not None and recorded < ended - _LONGEST_RUN.total_seconds():
            break
        if (
            destination == destination_id
            and (latest is None or mark.timestamp <= latest)
            and (wanted is None or wanted.is_covered(mark.rule, mark.timestamp))
            and (furthest is None or mark.timestamp > furthest.timestamp)
        ):
            furthest, ended = mark, recorded if furthest is None else ended
    return furthest


def last_good(
    instance: DagsterInstance, file_type: FileType, destination_id: str, wanted: Wanted | None = None
) -> datetime | None:
    """Return the watermark of the latest incremental run that has succeeded, as a whole; None: there is none.

    A run that wanted less than what is ``wanted`` does not count: what it left out is as old as before. None: any run
    counts.
    """
    latest = believable(datetime.now(timezone.utc))
    for destination, mark, _ in _marks(instance, file_type):
        enough = wanted is None or wanted.is_covered(mark.rule, mark.timestamp)
        if enough and destination == destination_id and mark.timestamp <= latest:
            run = instance.get_run_by_id(mark.run_id)
            if run is not None and run.is_success:
                return mark.timestamp
    return None


def believable(*clocks: datetime) -> datetime:
    """Return the latest timestamp of a watermark that is believed."""
    return min(clocks) + OVERLAP


def _marks(instance: DagsterInstance, file_type: FileType) -> Iterator[tuple[str, Watermark, float]]:
    """Yield what each incremental run has claimed, for which destination id, and when it was recorded (Unix time).

    Beginning with the latest to end.
    """
    for record in _observations(instance, file_type):
        observed = record.asset_observation
        values = {name: value.value for name, value in observed.metadata.items()} if observed else {}
        seconds, written = values.get(WATERMARK), values.get(DESTINATION)
        if not isinstance(seconds, float) or not isinstance(written, str):
            continue
        since, row_id, created = (values.get(name) for name in (COVERED_SINCE, NEWEST_ID, NEWEST_AT))
        known = isinstance(row_id, int) and isinstance(created, float)
        yield (
            one_spelling(written),
            Watermark(
                _utc(seconds),
                record.run_id,
                every_row=bool(values.get(EVERY_ROW)),
                covered_since=_utc(since if isinstance(since, float) else seconds),
                newest=NewestRow(file_type.value, row_id, created) if known else None,  # type: ignore[arg-type]  # known
                rule=_rule(values),
            ),
            record.timestamp,
        )


def _rule(values: Mapping[str, object]) -> RemoteRule:
    """Return which remote rows the run of an event wanted, by its metadata; earlier versions wanted all."""
    text = values.get(REMOTE_FILES)
    return RemoteRule.parse(text) if isinstance(text, str) else EVERY_REMOTE_ROW


def furthest_runs(instance: DagsterInstance) -> set[str]:
    """Return the runs whose records incremental runs go by: of the watermarks, and of the latest reads."""
    # A watermark in the future is not believed, and then the newest one before it counts.
    bounds = (datetime.max.replace(tzinfo=timezone.utc), believable(datetime.now(timezone.utc)))
    furthest: dict[tuple[object, ...], Watermark] = {}
    for file_type in FileType:
        for destination, mark, _ in _marks(instance, file_type):
            for latest in (each for each in bounds if mark.timestamp <= each):
                target = file_type, destination, mark.rule, latest
                furthest[target] = max(furthest.get(target, mark), mark, key=lambda found: found.timestamp)
    kept = {mark.run_id for mark in furthest.values()}
    for file_type in FileType:
        found = [(value, tag) for tag, values in _reads(instance, file_type) for value in values]
        if found:
            value, tag = max(found)
            kept |= {run.run_id for run in instance.get_runs(dg.RunsFilter(tags={tag: value}))}
    return kept


def range_reads(
    instance: DagsterInstance, file_type: FileType, destination_id: str, wanted: Wanted | None = None
) -> dict[str, RangeRead]:
    """Return the latest materialization of each registered range that went to a destination, by partition key.

    Without those whose runs wanted less than what is ``wanted``; None: whatever they wanted.
    """
    asset = dg.AssetKey(file_type.value)
    latest = instance.get_latest_storage_id_by_partition(asset, dg.DagsterEventType.ASSET_MATERIALIZATION)
    reads = _range_reads(asset_events(instance, _of_registered(instance, file_type, latest)), destination_id)
    return {key: read for key, read in reads.items() if wanted is None or wanted.is_covered(read.rule, read.read_at)}


def failed_reads(instance: DagsterInstance, file_type: FileType, destination_id: str) -> dict[str, RangeRead]:
    """Return the latest run of each registered range in which, going to a destination, objects have failed.

    Ranges that have been materialized since are none of these.
    """
    reads = _range_reads(failures(instance, dg.AssetKey(file_type.value)), destination_id)
    keys = _registered(instance, file_type) if reads else frozenset()
    return {key: read for key, read in reads.items() if key in keys}


def _of_registered(instance: DagsterInstance, file_type: FileType, latest: Mapping[str, int]) -> list[int]:
    """Return the storage ids of those partitions that are registered ranges."""
    # Of most file types, many a question has no answer: the ranges are read for those that have one.
    return [latest[key] for key in latest.keys() & _registered(instance, file_type)] if latest else []


def _registered(instance: DagsterInstance, file_type: FileType) -> frozenset[str]:
    return frozenset(range_key(ids) for ids in registered_ranges(instance, file_type))


def range_states(
    instance: DagsterInstance, file_type: FileType, keys: Sequence[str], destination_id: str
) -> dict[str, dg.AssetPartitionStatus | None]:
    """Return the state of each of some ranges as the asset's page shows it, but for failures at other destinations.

    The page does not know destinations. A failed run says which one it had where objects have failed; any other failure
    counts for each destination.
    """
    asset = dg.AssetKey(file_type.value)
    with dg.partition_loading_context(dynamic_partitions_store=instance):
        shown = instance.get_status_by_partition(asset, keys, file_type.partitions)
    found: dict[str, dg.AssetPartitionStatus | None] = {**dict.fromkeys(keys), **(shown or {})}
    for event in failures(instance, asset):
        key = event.partition or ""
        if found.get(key) is dg.AssetPartitionStatus.FAILED and not _goes_to(event, destination_id):
            planned = instance.event_log_storage.get_latest_planned_materialization_info(asset, key)
            if planned is not None and planned.run_id == event.run_id:
                found[key] = None
    return found


def failures(instance: DagsterInstance, asset: dg.AssetKey) -> Iterator[AssetEvent]:
    """Yield the newest observation of each range of an asset that has not been materialized since.

    A run observes a range where objects of it have failed, in the place of a materialization (`sync.events`).
    """
    done, failed = (
        instance.get_latest_storage_id_by_partition(asset, kind)
        for kind in (dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION)
    )
    return asset_events(instance, [number for key, number in failed.items() if number > done.get(key, 0)])


def _range_reads(events: Iterable[AssetEvent], destination_id: str) -> dict[str, RangeRead]:
    """Return what the events of ranges say whose runs went to a destination, by partition key."""
    found = {}
    for event in events:
        if event.partition is None:
            continue
        values = with_counters(event.values)
        read_at = values.get(READ_AT)
        if isinstance(read_at, float) and _goes_to(event, destination_id):
            numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
            found[event.partition] = RangeRead(_utc(read_at), event.run_id, numbers, _rule(values))
    return found


def _goes_to(event: AssetEvent, destination_id: str) -> bool:
    """Return whether the run of an event went to a destination."""
    written = event.values.get(DESTINATION)
    return isinstance(written, str) and one_spelling(written) == destination_id


def verified_numbers(instance: DagsterInstance, asset: str, file_type: FileType, destination_id: str) -> dict[str, int]:
    """Return the sums of the numbers of the latest verifications of a file type's ranges at a destination.

    ``asset`` is the one of the verifications. ``ranges`` is how many ranges have one. A verification that has found
    differences is a failed run, and does not count.
    """
    key = dg.AssetKey(asset)
    latest = instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    sums: Counter[str] = Counter()
    for event in asset_events(instance, _of_registered(instance, file_type, latest)):
        if _goes_to(event, destination_id):
            sums.update({name: value for name, value in event.values.items() if isinstance(value, int)})
            sums["ranges"] += 1
    return dict(sums)


def new_after(
    instance: DagsterInstance, file_type: FileType, known: Watermark | None, *, run_id: str
) -> datetime | None:
    """Return the time after which no other run than ``run_id`` can have copied anything: files written later are new.

    None: there is no such time. Without a watermark others may have filled the destination, and a run that is reading
    the rows now may copy what is newest.
    """
    if known is None:
        return None
    lately = datetime.now(timezone.utc) - _LONGEST_PLANNING
    for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS, updated_after=lately)):
        if run.run_id != run_id and copies(run, file_type) and not _has_read(run, file_type):
            return None
    reads = [value.partition("|")[0] for _, values in _reads(instance, file_type) for value in values]
    return max([known.timestamp, *map(datetime.fromisoformat, reads)]) + OVERLAP


def _reads(instance: DagsterInstance, file_type: FileType) -> Sequence[tuple[str, set[str]]]:
    """Return the tags of all runs that have read a file type, each with its values."""
    tags = [read_until_tag(file_type), earlier_read_until_tag(file_type)]
    return [(tag, values) for tag, values in instance.get_run_tags(tag_keys=tags) if values]


def _has_read(run: dg.DagsterRun, file_type: FileType) -> bool:
    tags = (read_until_tag(file_type), earlier_read_until_tag(file_type))
    return any(run.tags.get(tag, "").partition("|")[2] == run.run_id for tag in tags)


def read_until_tag(file_type: FileType) -> str:
    """Return the tag in which a run notes until when it has read a file type's rows; what it copies is not newer.

    A tag and not an event: a run that fails or is killed keeps it. The UI hides tags of this prefix.
    """
    return f"{HIDDEN_TAGS}{file_type.value}-read-until"


def earlier_read_until_tag(file_type: FileType) -> str:
    """Return the name that the tag had in runs of earlier versions."""
    return f"mastosync/{file_type.value}-read-until"


def read_until_tags(tables: Iterable[str], read_until: datetime, run_id: str) -> dict[str, str]:
    """Return the tags of a run that has read these tables until a time.

    They name the run too: a retried run has the tags of the first one, and has yet to read.
    """
    value = f"{read_until.isoformat(timespec='microseconds')}|{run_id}"
    return {read_until_tag(FileType(table)): value for table in tables}


def copies(run: dg.DagsterRun, file_type: FileType) -> bool:
    """Return whether a run may copy objects of a file type."""
    if run.job_name in {SYNC_CHANGES, f"sync_{file_type.value}"}:
        return True
    return run.asset_selection is not None and dg.AssetKey(file_type.value) in run.asset_selection


def _observations(instance: DagsterInstance, file_type: FileType) -> Iterator[EventLogRecord]:
    cursor = None
    while True:
        result = instance.fetch_observations(dg.AssetKey(file_type.value), limit=_NIGHTS, cursor=cursor)
        yield from result.records
        if not result.has_more:
            return
        cursor = result.cursor


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
