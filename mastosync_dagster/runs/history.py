"""What Dagster's own history says: how far the destination is complete, and what may have been copied to it already.

Moments are of the clock that was most behind when the database was read: its own, this machine's, the destination's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.mastodon import NewestRow
from mastosync_dagster.ranges.partitions import FileType, range_key, registered_ranges
from mastosync_dagster.s3.settings import one_spelling

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dagster import DagsterInstance, EventLogRecord

    from mastosync_dagster.resources import S3Bucket

SYNC_CHANGES = "sync_changes"
"""The job over changed rows."""

OVERLAP = timedelta(minutes=10)
"""A row may be committed so long after the moment that stands in it; Mastodon's clocks may differ so much."""

# Metadata of materializations and observations.
READ_AT = "database_read_at"
DESTINATION = "destination"
WATERMARK = "watermark"
EVERY_ROW = "every_row"
COVERED_SINCE = "covered_since"
NEWEST_ID = "newest_id"
NEWEST_AT = "newest_row_created_at"
DATABASE_BYTES = "database_bytes"

_PAGE = 500
# A run whose process was killed on the command line is in progress for ever.
_LONGEST_PLANNING = timedelta(days=1)
_IN_PROGRESS = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


def place_of(destination: S3Bucket) -> str:
    """Return the name of the place that a run writes to: what is complete elsewhere says nothing about it.

    Raises:
        SettingsError: A setting is missing or wrong.
    """
    return destination.settings().identity


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far incremental runs have brought the destination.

    Every row outside of ranges that were never materialized has its objects there as they were at the moment, or a run
    has said why not (the source has lost them).

    Attributes:
        moment: By the database's clock.
        run_id: The run that has come so far.
        every_row: A run over every row stands at the beginning, so that not even those ranges are excepted.
        covered_since: Incremental runs have taken what has changed between this moment and the other. A range that was
            read before, and whose run ended after the first of them had begun, lacks what changed in between.
        newest: The newest row of the table as it was read; None: it had none, or the version before did not note it.
    """

    moment: datetime
    run_id: str
    every_row: bool
    covered_since: datetime
    newest: NewestRow | None = None


@dataclass(frozen=True, slots=True)
class RangeRead:
    """The latest materialization of an ID range.

    Attributes:
        read_at: When the database was read for it.
        run_id: Its run.
        numbers: The numbers of its metadata.
    """

    read_at: datetime
    run_id: str
    numbers: Mapping[str, float]


def watermark(
    instance: DagsterInstance, file_type: FileType, place: str, latest: datetime | None = None
) -> Watermark | None:
    """Return how far incremental runs of a file type have come; None: none of them has ended well yet.

    Args:
        instance: Whose history counts.
        file_type: The file type.
        place: The destination, as `place_of` names it.
        latest: One that lies later comes from a wrong clock, and is not believed; None: all are.
    """
    return _watermarks(instance, file_type, latest).get(place)


def believable(*clocks: datetime) -> datetime:
    """Return the latest moment of a watermark that is believed."""
    return min(clocks) + OVERLAP


def _watermarks(instance: DagsterInstance, file_type: FileType, latest: datetime | None = None) -> dict[str, Watermark]:
    """Return the watermark of each place."""
    best: dict[str, Watermark] = {}
    for record in _observations(instance, file_type):
        observed = record.asset_observation
        values = {name: value.value for name, value in observed.metadata.items()} if observed else {}
        moment, written = values.get(WATERMARK), values.get(DESTINATION)
        # Runs end in any order, so the latest to end need not be the one that has come furthest.
        believed = isinstance(moment, float) and (latest is None or _moment(moment) <= latest)
        if believed and isinstance(moment, float) and isinstance(written, str):
            where = one_spelling(written)
            since = values.get(COVERED_SINCE)
            covered_since = _moment(since if isinstance(since, float) else moment)
            row_id, created = values.get(NEWEST_ID), values.get(NEWEST_AT)
            newest = (
                NewestRow(file_type.value, row_id, created)
                if isinstance(row_id, int) and isinstance(created, float)
                else None
            )
            found = Watermark(_moment(moment), record.run_id, bool(values.get(EVERY_ROW)), covered_since, newest)
            if where not in best or found.moment > best[where].moment:
                best[where] = found
    return best


def furthest_runs(instance: DagsterInstance) -> set[str]:
    """Return the runs whose records incremental runs go by: of the watermarks, and of the latest reads."""
    # One that lies in the future is not believed, and the newest one before it counts.
    bounds = (None, believable(datetime.now(timezone.utc)))
    kept = {
        found.run_id
        for file_type in FileType
        for latest in bounds
        for found in _watermarks(instance, file_type, latest).values()
    }
    for file_type in FileType:
        tag = read_until_tag(file_type)
        latest = max((value for _, values in instance.get_run_tags(tag_keys=[tag]) for value in values), default=None)
        if latest is not None:
            kept |= {run.run_id for run in instance.get_runs(dg.RunsFilter(tags={tag: latest}))}
    return kept


def range_reads(instance: DagsterInstance, file_type: FileType, place: str) -> dict[str, RangeRead]:
    """Return the latest materialization of each registered range that went to a place, by partition key."""
    latest = instance.get_latest_storage_id_by_partition(
        dg.AssetKey(file_type.value), dg.DagsterEventType.ASSET_MATERIALIZATION
    )
    keys = {range_key(ids) for ids in registered_ranges(instance, file_type)}
    found = {}
    for record in _materializations(instance, file_type, [latest[key] for key in latest.keys() & keys]):
        event = record.asset_materialization
        if event is None or event.partition is None:
            continue
        values = {name: value.value for name, value in event.metadata.items()}
        read_at, where = values.get(READ_AT), values.get(DESTINATION)
        if isinstance(read_at, float) and isinstance(where, str) and one_spelling(where) == place:
            numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
            found[event.partition] = RangeRead(_moment(read_at), record.run_id, numbers)
    return found


def new_after(
    instance: DagsterInstance, file_type: FileType, known: Watermark | None, *, run_id: str
) -> datetime | None:
    """Return the moment after which no run can have copied anything: files written later are new.

    Args:
        instance: Whose history counts.
        file_type: The file type.
        known: Its watermark.
        run_id: The run that asks.

    Returns:
        None: there is no such moment. Without a watermark others may have filled the destination, and a run that is
        reading the rows now may copy what is newest.
    """
    if known is None:
        return None
    tag = read_until_tag(file_type)
    lately = datetime.now(timezone.utc) - _LONGEST_PLANNING
    for run in instance.get_runs(dg.RunsFilter(statuses=list(_IN_PROGRESS), updated_after=lately)):
        if run.run_id != run_id and copies(run, file_type) and run.tags.get(tag, "").partition("|")[2] != run.run_id:
            return None
    reads = [value.partition("|")[0] for _, values in instance.get_run_tags(tag_keys=[tag]) for value in values]
    return max([known.moment, *map(datetime.fromisoformat, reads)]) + OVERLAP


def read_until_tag(file_type: FileType) -> str:
    """Return the tag in which a run notes until when it has read a file type's rows; what it copies is not newer.

    A tag and not an event: of a run that fails or is killed it stays too.
    """
    return f"mastosync/{file_type.value}-read-until"


def read_until_tags(tables: Iterable[str], moment: datetime, run_id: str) -> dict[str, str]:
    """Return the tags of a run that has read these tables until a moment.

    They name the run too: one that is started once more has the tags of the first one, and has yet to read.
    """
    value = f"{moment.isoformat(timespec='microseconds')}|{run_id}"
    return {read_until_tag(FileType(table)): value for table in tables}


def copies(run: dg.DagsterRun, file_type: FileType) -> bool:
    """Tell whether a run may copy objects of a file type."""
    if run.job_name in {SYNC_CHANGES, f"sync_{file_type.value}"}:
        return True
    return run.asset_selection is not None and dg.AssetKey(file_type.value) in run.asset_selection


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _observations(instance: DagsterInstance, file_type: FileType) -> Iterator[EventLogRecord]:
    cursor = None
    while True:
        result = instance.fetch_observations(dg.AssetKey(file_type.value), limit=_PAGE, cursor=cursor)
        yield from result.records
        if not result.has_more:
            return
        cursor = result.cursor


def _materializations(
    instance: DagsterInstance, file_type: FileType, storage_ids: list[int]
) -> Iterator[EventLogRecord]:
    for start in range(0, len(storage_ids), _PAGE):
        some = dg.AssetRecordsFilter(dg.AssetKey(file_type.value), storage_ids=storage_ids[start : start + _PAGE])
        yield from instance.fetch_materializations(some, limit=_PAGE).records
