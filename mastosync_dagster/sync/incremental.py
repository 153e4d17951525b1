"""The rows that an incremental run takes of a file type, and what its success claims for the destination."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mastosync_dagster.mastodon import Selection, is_there, read_schema
from mastosync_dagster.ranges.partitions import FileType, registered_ranges
from mastosync_dagster.runs.watermarks import OVERLAP, RangeRead, Wanted, Watermark, range_reads, watermark

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from dagster import DagsterInstance
    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.expected.policy import Policy

RESTORED = (
    "the newest row of the last incremental run is not found: deleted, or the database was restored from a backup"
)
WIDENED = "more of other servers' files is wanted than in the last incremental run"
_MINUTES = round(OVERLAP.total_seconds() / 60)


@dataclass(frozen=True)
class WatermarkClaim:
    """A table whose watermark moves, if the run succeeds, to the time at which the run read the database.

    `every_row` and `covered_since` are those of the new `Watermark`; None: the time of the read.
    """

    table: str
    every_row: bool
    covered_since: datetime | None = None


@dataclass(frozen=True)
class TableSelection:
    """What a run takes of one file type, and why, for the run's log.

    Without a claim, the run skips rows that no other run has taken.
    """

    selection: Selection
    claim: WatermarkClaim | None
    why: str


@dataclass(frozen=True)
class History:
    """What Dagster's history has of a destination, as far as it is believed given the database as it is now.

    Timestamps after `latest` come from a wrong clock. The rows of the file types in `restored` are not those of the
    watermark any more. Runs that wanted less than the `policy` wants at the time `now` do not count.
    """

    instance: DagsterInstance
    destination_id: str
    latest: datetime
    policy: Policy
    now: datetime
    restored: frozenset[FileType] = frozenset()

    def _wanted(self, file_type: FileType) -> Wanted:
        return Wanted(self.policy.rule(file_type.value), self.now)

    def watermark(self, file_type: FileType) -> Watermark | None:
        """Return how far incremental runs have come."""
        return watermark(self.instance, file_type, self.destination_id, self.latest, self._wanted(file_type))

    def is_widened(self, file_type: FileType) -> bool:
        """Return whether all incremental runs so far wanted less than the policy does."""
        narrower = watermark(self.instance, file_type, self.destination_id, self.latest)
        return narrower is not None and self.watermark(file_type) is None

    def is_complete(self, file_type: FileType, read: RangeRead) -> bool:
        """Return whether a materialization's run wanted all that is wanted."""
        return self._wanted(file_type).is_covered(read.rule, read.read_at)

    def range_reads(self, file_type: FileType) -> Mapping[str, RangeRead]:
        """Return the latest materializations of the ranges."""
        return range_reads(self.instance, file_type, self.destination_id, self._wanted(file_type))


def checked_history(  # noqa: PLR0917  (what is compared, and with what)
    instance: DagsterInstance,
    destination_id: str,
    connection: Connection,
    latest: datetime,
    policy: Policy,
    now: datetime,
) -> History:
    """Compare the history with the database as of ``now``. The connection must be in no transaction.

    If the newest row of the last incremental run is not found in a table, the database may be a restored backup: rows
    that were deleted or changed before the watermark are as they were before, and no night would read them. In two
    tables, it certainly is one, and a third that gets few rows would not show it.
    """
    history = History(instance, destination_id, latest, policy, now)
    schema = read_schema(connection, [])
    restored = {
        file_type
        for file_type in FileType
        if schema.has(file_type.value, "id")
        and (known := history.watermark(file_type))
        and known.newest
        and not is_there(connection, schema, known.newest)
    }
    return replace(history, restored=frozenset(FileType if len(restored) > 1 else restored))


def every_row(rows: Selection, why: str = "") -> TableSelection:
    """Return the share of a run over all rows; ``why``: the reason, if it is not that an admin wants them."""
    claim = None if rows.is_cut else WatermarkClaim(rows.table, every_row=True)
    return TableSelection(rows, claim, f"{rows.table}: every row{why and f' ({why})'}")


def since_timestamp(history: History, rows: Selection, timestamp: datetime) -> TableSelection:
    """Return the share of a run over the rows changed since a timestamp that an admin names."""
    file_type = FileType(rows.table)
    known = history.watermark(file_type)
    claim = None
    # A run that begins after the watermark would leave a gap. Of a restored table every row is wanted.
    if known is not None and timestamp <= known.timestamp and file_type not in history.restored:
        claim = _joined(known, rows.table, timestamp)
    return _since(rows, timestamp, claim)


def since_last(history: History, rows: Selection, now: datetime) -> TableSelection:
    """Return the share of a run that goes on where the last incremental run of the file type ended.

    The first one goes on where the ID ranges ended: from the earliest read of those that are materialized; without
    any, from ``now``, the time whose rows the database shows. It takes the tail as a whole, for rows above the last
    range can be older than that.
    """
    table, file_type = rows.table, FileType(rows.table)
    known = history.watermark(file_type)
    reads = [read.read_at for read in history.range_reads(file_type).values()]
    # Of what was left out, no time says when it has changed.
    if file_type in history.restored or history.is_widened(file_type):
        return every_row(rows, RESTORED if file_type in history.restored else WIDENED)
    whole = known is not None and known.every_row
    if not whole and any(read > history.latest for read in reads):
        return every_row(rows, "the read of a range is recorded in the future: a clock was wrong")
    if known is not None:
        early = min(reads, default=known.covered_since)
        if not known.every_row and early < known.covered_since:
            why = "a range was read then, and its run ended after the first incremental one had begun"
            return _since(rows, early, _joined(known, table, early), why)
        why = f"the last incremental run, {known.run_id}"
        return _since(rows, known.timestamp, _joined(known, table, known.timestamp), why)
    ranges = registered_ranges(history.instance, file_type)
    if not ranges:
        return every_row(rows)
    begin = min(reads, default=now)
    why = "the earliest read of its ranges" if reads else "now, for none of its ranges is materialized"
    claim = WatermarkClaim(table, every_row=False, covered_since=begin)
    return _since(rows, begin, claim, why, all_above=max(ids.hi for ids in ranges))


def _since(
    rows: Selection, begin: datetime, claim: WatermarkClaim | None, why: str = "", all_above: int | None = None
) -> TableSelection:
    changed = f"rows changed since {begin.isoformat(' ', 'seconds')}{why and f' ({why})'}"
    tail = "" if all_above is None else f", and all above id {all_above}"
    return TableSelection(
        selection=replace(rows, changed_since=begin - OVERLAP, all_above=all_above),
        claim=None if rows.is_cut else claim,
        why=f"{rows.table}: {changed}, less {_MINUTES} minutes{tail}",
    )


def _joined(known: Watermark, table: str, begin: datetime) -> WatermarkClaim:
    """Return the claim of a run that begins not after the watermark."""
    return WatermarkClaim(table, every_row=known.every_row, covered_since=min(known.covered_since, begin))
