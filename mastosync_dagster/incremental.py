"""What an incremental run takes of a file type, and what its success says about the destination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastosync_dagster.history import OVERLAP, Watermark, range_reads, watermark
from mastosync_dagster.mastodon import Selection
from mastosync_dagster.partitions import registered_ranges

if TYPE_CHECKING:
    from datetime import datetime

    from dagster import DagsterInstance

    from mastosync_dagster.partitions import FileType

LAST = "last"
"""Stands for "since the last incremental run" in the place of a moment."""


@dataclass(frozen=True)
class Claim:
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
class Share:
    """What a run takes of one file type.

    Attributes:
        selection: The rows.
        claim: What its success says; None: nothing, since it leaves out rows that nobody else has taken.
        why: In words, for the run's log.
    """

    selection: Selection
    claim: Claim | None
    why: str


@dataclass(frozen=True)
class Part:
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


def every_row(file_type: FileType, part: Part) -> Share:
    """Return the share of a run over all rows."""
    table = file_type.value
    return Share(
        selection=Selection(table, limit=part.limit, offset=part.offset),
        claim=Claim(table, every_row=True) if part.is_whole else None,
        why=f"{table}: every row",
    )


def since_moment(instance: DagsterInstance, place: str, file_type: FileType, part: Part, moment: datetime) -> Share:
    """Return the share of a run over the rows changed since a moment that an admin names.

    Args:
        instance: Whose history counts.
        place: The destination.
        file_type: The file type.
        part: Which part of the rows.
        moment: The moment.
    """
    table = file_type.value
    known = watermark(instance, file_type, place)
    # Begun after the watermark, it would leave a gap behind.
    joins = part.is_whole and known is not None and moment <= known.moment
    return Share(
        selection=Selection(table, changed_since=moment - OVERLAP, limit=part.limit, offset=part.offset),
        claim=_joined(known, table, moment) if joins and known is not None else None,
        why=f"{table}: rows changed since {_text(moment)}, less {_MINUTES} minutes",
    )


def since_last(instance: DagsterInstance, place: str, file_type: FileType, part: Part, now: datetime) -> Share:
    """Return the share of a run that goes on where the last incremental run of the file type ended.

    The first one goes on where the ID ranges ended: from the earliest read of those that are materialized. It takes
    the tail as a whole, for rows above the last range can be older than that.

    Args:
        instance: Whose history counts.
        place: The destination.
        file_type: The file type.
        part: Which part of the rows.
        now: The database's clock.
    """
    table = file_type.value
    known = watermark(instance, file_type, place)
    reads = [read.read_at for read in range_reads(instance, file_type, place).values()]
    if known is not None:
        early = min(reads, default=known.covered_since)
        if not known.every_row and early < known.covered_since:
            why = "a range was read then, and its run ended after the first incremental one had begun"
            return _share(part, table, early, why, claim=_joined(known, table, early))
        why = f"the last incremental run, {known.run_id}"
        return _share(part, table, known.moment, why, claim=_joined(known, table, known.moment))
    ranges = registered_ranges(instance, file_type)
    if not ranges:
        return every_row(file_type, part)
    begin = min(reads, default=now)
    why = "the earliest read of its ranges" if reads else "now, for none of its ranges is materialized"
    claim = Claim(table, every_row=False, covered_since=begin)
    return _share(part, table, begin, why, claim=claim, all_above=max(ids.hi for ids in ranges))


_MINUTES = round(OVERLAP.total_seconds() / 60)


def _share(
    part: Part,
    table: str,
    begin: datetime,
    why: str,
    *,
    claim: Claim,
    all_above: int | None = None,
) -> Share:
    tail = "" if all_above is None else f", and all above id {all_above}"
    return Share(
        selection=Selection(
            table, changed_since=begin - OVERLAP, all_above=all_above, limit=part.limit, offset=part.offset
        ),
        claim=claim if part.is_whole else None,
        why=f"{table}: rows changed since {_text(begin)} ({why}), less {_MINUTES} minutes{tail}",
    )


def _joined(known: Watermark, table: str, begin: datetime) -> Claim:
    """Return the claim of a run that begins not after the watermark."""
    return Claim(table, every_row=known.every_row, covered_since=min(known.covered_since, begin))


def _text(moment: datetime) -> str:
    return moment.isoformat(" ", "seconds")
