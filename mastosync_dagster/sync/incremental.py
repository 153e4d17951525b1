"""What an incremental run takes of a file type, and what its success says about the destination."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mastosync_dagster.mastodon import Selection, is_there, read_schema
from mastosync_dagster.ranges.partitions import registered_ranges
from mastosync_dagster.runs.history import OVERLAP, Watermark, range_reads, watermark

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from dagster import DagsterInstance
    from psycopg2.extensions import connection as Connection  # noqa: N812  (a class with a lower-case name)

    from mastosync_dagster.ranges.partitions import FileType

LAST = "last"
"""Stands for "since the last incremental run" in the place of a moment."""


@dataclass(frozen=True)
class WatermarkClaim:
    """What the success of a run says of a table: the watermark moves to the moment at which the run read the database.

    Attributes:
        table: The table.
        every_row: As `Watermark.every_row`.
        covered_since: As `Watermark.covered_since`; None: the run's own moment.
    """

    table: str
    every_row: bool
    covered_since: datetime | None = None


@dataclass(frozen=True)
class TableSelection:
    """What a run takes of one file type.

    Attributes:
        selection: The rows.
        claim: What its success says; None: nothing, since it leaves out rows that nobody else has taken.
        why: In words, for the run's log.
    """

    selection: Selection
    claim: WatermarkClaim | None
    why: str


@dataclass(frozen=True)
class RowWindow:
    """Which part of the rows an admin asks for.

    Attributes:
        limit: Rows at the most; None: all.
        offset: Rows to leave out first.
    """

    limit: int | None = None
    offset: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self.limit is None and self.offset == 0


@dataclass(frozen=True)
class Known:
    """What of the history is believed, given the database as it is now.

    Attributes:
        instance: Whose history counts.
        place: The destination.
        latest: Moments after this one come from a wrong clock; None: all are believed.
        restored: File types whose rows are not those of the watermark any more.
    """

    instance: DagsterInstance
    place: str
    latest: datetime | None = None
    restored: frozenset[FileType] = frozenset()

    def watermark(self, file_type: FileType) -> Watermark | None:
        """Return how far incremental runs have come."""
        return watermark(self.instance, file_type, self.place, self.latest)

    def reads(self, file_type: FileType) -> list[datetime]:
        """Return when the ranges that are materialized were read."""
        return [read.read_at for read in range_reads(self.instance, file_type, self.place).values()]


def known_now(
    instance: DagsterInstance, place: str, connection: Connection, file_types: Iterable[FileType], latest: datetime
) -> Known:
    """Hold the history against the database.

    A table whose newest row of the last incremental run is gone may be a backup that was restored: rows that were
    deleted or changed before the watermark are as they were, and no night would look at them.

    Args:
        instance: Whose history counts.
        place: The destination.
        connection: A connection that is in no transaction.
        file_types: The file types in question.
        latest: As `Known.latest`.
    """
    known, asked = Known(instance, place, latest), list(file_types)
    schema = read_schema(connection, [file_type.value for file_type in asked])
    restored = {
        file_type
        for file_type in asked
        if (found := known.watermark(file_type)) and found.newest and not is_there(connection, schema, found.newest)
    }
    return replace(known, restored=frozenset(restored))


def every_row(file_type: FileType, part: RowWindow, why: str = "") -> TableSelection:
    """Return the share of a run over all rows.

    Args:
        file_type: The file type.
        part: Which part of the rows.
        why: The reason, if it is not that an admin wants them.
    """
    table = file_type.value
    return TableSelection(
        selection=Selection(table, limit=part.limit, offset=part.offset),
        claim=WatermarkClaim(table, every_row=True) if part.is_whole else None,
        why=f"{table}: every row{why and f' ({why})'}",
    )


def since_moment(history: Known, file_type: FileType, part: RowWindow, moment: datetime) -> TableSelection:
    """Return the share of a run over the rows changed since a moment that an admin names.

    Args:
        history: What is known.
        file_type: The file type.
        part: Which part of the rows.
        moment: The moment.
    """
    table = file_type.value
    known = history.watermark(file_type)
    # Begun after the watermark, it would leave a gap behind; of a table that was restored every row is wanted.
    joins = part.is_whole and known is not None and moment <= known.moment and file_type not in history.restored
    return TableSelection(
        selection=Selection(table, changed_since=moment - OVERLAP, limit=part.limit, offset=part.offset),
        claim=_joined(known, table, moment) if joins and known is not None else None,
        why=f"{table}: rows changed since {_text(moment)}, less {_MINUTES} minutes",
    )


def since_last(history: Known, file_type: FileType, part: RowWindow, now: datetime) -> TableSelection:
    """Return the share of a run that goes on where the last incremental run of the file type ended.

    The first one goes on where the ID ranges ended: from the earliest read of those that are materialized. It takes
    the tail as a whole, for rows above the last range can be older than that.

    Args:
        history: What is known.
        file_type: The file type.
        part: Which part of the rows.
        now: The moment whose rows the database shows.
    """
    table = file_type.value
    known, reads = history.watermark(file_type), history.reads(file_type)
    if file_type in history.restored:
        return every_row(file_type, part, RESTORED)
    whole = known is not None and known.every_row
    if not whole and history.latest is not None and any(read > history.latest for read in reads):
        return every_row(file_type, part, "a range says that it was read in the future: a clock was wrong")
    if known is not None:
        early = min(reads, default=known.covered_since)
        if not known.every_row and early < known.covered_since:
            why = "a range was read then, and its run ended after the first incremental one had begun"
            return _share(part, table, early, why, claim=_joined(known, table, early))
        why = f"the last incremental run, {known.run_id}"
        return _share(part, table, known.moment, why, claim=_joined(known, table, known.moment))
    ranges = registered_ranges(history.instance, file_type)
    if not ranges:
        return every_row(file_type, part)
    begin = min(reads, default=now)
    why = "the earliest read of its ranges" if reads else "now, for none of its ranges is materialized"
    claim = WatermarkClaim(table, every_row=False, covered_since=begin)
    return _share(part, table, begin, why, claim=claim, all_above=max(ids.hi for ids in ranges))


RESTORED = "the newest row of the last incremental run is gone: deleted, or the database was restored from a backup"
_MINUTES = round(OVERLAP.total_seconds() / 60)


def _share(
    part: RowWindow,
    table: str,
    begin: datetime,
    why: str,
    *,
    claim: WatermarkClaim,
    all_above: int | None = None,
) -> TableSelection:
    tail = "" if all_above is None else f", and all above id {all_above}"
    return TableSelection(
        selection=Selection(
            table, changed_since=begin - OVERLAP, all_above=all_above, limit=part.limit, offset=part.offset
        ),
        claim=claim if part.is_whole else None,
        why=f"{table}: rows changed since {_text(begin)} ({why}), less {_MINUTES} minutes{tail}",
    )


def _joined(known: Watermark, table: str, begin: datetime) -> WatermarkClaim:
    """Return the claim of a run that begins not after the watermark."""
    return WatermarkClaim(table, every_row=known.every_row, covered_since=min(known.covered_since, begin))


def _text(moment: datetime) -> str:
    return moment.isoformat(" ", "seconds")
