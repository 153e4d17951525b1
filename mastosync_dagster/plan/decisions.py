"""What becomes of an object that both sides have, and whose bytes differ. Facts in, a decision out; nothing is asked.

The rule: what the destination has that is newer than the source's, or unknown to it, is never overwritten unless it is
shown to be damaged; and nothing good is overwritten by what rotted at the source. Where nothing tells which side is
right, nothing is overwritten, and that is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.records.outcomes import WRITTEN_THERE

if TYPE_CHECKING:
    from datetime import datetime

CLOCKS = timedelta(minutes=10)
"""So much the clocks of two machines may differ: a moment lies after another one only by more than this."""

WRITING = timedelta(hours=1)
"""So long a file may be at the storage before the row tells of it: it is uploaded first, and large ones take long."""


_FOR_AN_ADMIN = (
    "nothing was overwritten. Look at both: mastosync sync --overwrite, or overwrite: true in the plan's config, takes"
    " the source's"
)


class Verdict(Enum):
    """What is to be done."""

    COPY = "the source's object is copied over the destination's"
    KEEP = "the destination's stays"
    LOOK = "look at the bodies: is the shorter one the beginning of the longer one?"
    FAIL = "nothing tells which is right: the destination's stays, and the object has failed"


class Decision(Enum):
    """A verdict, and the reason in words: the remark of a manifest line, or of a finding."""

    WANTED = (Verdict.COPY, "the source's is wanted, whatever the destination has")
    DAMAGED = (Verdict.COPY, "the destination's is damaged")
    OLDER = (Verdict.COPY, "the destination has an older one")
    LOOK = (Verdict.LOOK, "")
    AS_THE_ROW_SAYS = (Verdict.KEEP, "as long as the database says; the source has another length")
    SOURCE_CHANGED = (
        Verdict.KEEP,
        "as it was copied; the source has other bytes since, though its row has not changed: it stays",
    )
    SOURCE_CUT = (Verdict.KEEP, "the source's is cut short, and is the beginning of this one: it stays")
    WRITTEN_THERE = (Verdict.KEEP, WRITTEN_THERE)
    MAYBE_CONVERTED = (
        Verdict.KEEP,
        "its conversion has not ended, and the destination's was written just now: it stays until the next run",
    )
    ROW_CHANGED = (Verdict.KEEP, "its row is gone, or has another file by now: it stays")
    BOTH_CHANGED = (
        Verdict.FAIL,
        f"neither side has the bytes that were copied, though its row has not changed: {_FOR_AN_ADMIN}",
    )
    NOTHING_TELLS = (
        Verdict.FAIL,
        f"the sides have different bytes, and nothing tells which are right: {_FOR_AN_ADMIN}",
    )

    @property
    def verdict(self) -> Verdict:
        """What is to be done."""
        return self.value[0]

    @property
    def words(self) -> str:
        """Why, for people."""
        return self.value[1]


SOURCE_DAMAGED = (Decision.SOURCE_CHANGED, Decision.SOURCE_CUT)
"""The destination has the good copy, and the source has not."""


class SideObject(NamedTuple):
    """The object at one side.

    Attributes:
        size: Bytes.
        md5: MD5 of the body in hex; None: not known.
        modified: When it was last written, by this side's clock; None: not known.
    """

    size: int
    md5: str | None
    modified: datetime | None


@dataclass(frozen=True, slots=True)
class Row:
    """What the row says of the object. Moments are of Mastodon's and its database's clock.

    Attributes:
        size: Bytes it must have; None: unknown.
        written: Its file was not written before this moment, as far as the row tells; None: it does not.
        changed: The row has not told of another file after this moment; None: unknown.
        rewritten: Mastodon writes another file under the same key once it has converted the first. Of all others the
            key's content never changes.
        unfinished: That conversion has not ended.
        gone: There is no such row any more, or it has a file of another key.
    """

    size: int | None = None
    written: datetime | None = None
    changed: datetime | None = None
    rewritten: bool = False
    unfinished: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """The last time that a run of ours has found or made both sides equal.

    Attributes:
        size: Bytes.
        md5: MD5 of the body in hex; None: not known.
        read_at: The run showed its rows as of this moment, by the database's clock,
        read_until: and had read all of them by this one.
        begun: The run began, by the clock of its machine.
    """

    size: int
    md5: str | None
    read_at: datetime
    read_until: datetime
    begun: datetime


class Known(NamedTuple):
    """What is known of an object beyond what the two sides show.

    Attributes:
        row: What its row says.
        record: What was recorded of it; None: nothing.
    """

    row: Row
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """An object that both sides have, with different bytes.

    Attributes:
        source: What the source has.
        destination: What the destination has.
        row: What the row says.
        record: What was recorded; None: nothing.
        now: When the row was read, after both sides, by this machine's clock.
        overwrite: An admin wants the source's.
        beginning: Whether the shorter one is the beginning of the longer one; None: nobody has looked.
    """

    source: SideObject
    destination: SideObject
    row: Row
    record: Record | None
    now: datetime
    overwrite: bool = False
    beginning: bool | None = None


def decide(difference: Difference) -> Decision:  # noqa: PLR0911  (each branch that decides ends there)
    """Decide what becomes of an object that both sides have, with different bytes.

    Returns:
        `Decision.LOOK`: it depends on `Difference.beginning`, which is None.
    """
    row, source, destination = difference.row, difference.source, difference.destination
    if difference.overwrite:
        # Somebody knows better: files that were repaired in place, for example.
        return Decision.WANTED
    if row.gone:
        # Nobody wants it any more, or not these bytes: whatever is there does no harm.
        return Decision.ROW_CHANGED
    record = _telling(difference)
    if row.size == destination.size != source.size:
        return _as_the_row_says(difference, record)
    if row.size == source.size != destination.size:
        if row.unfinished and not _before(destination.modified, difference.now - WRITING):
            # Converted and uploaded there, but the row does not say so yet. Were it damaged, the next run would see it.
            return Decision.MAYBE_CONVERTED
        # Cut short, emptied, or the file from before its conversion at the source.
        return Decision.DAMAGED
    # The row's size does not tell: unknown, of both, or of neither.
    if record is not None and not _changed_since(row, record):
        return _by_record(difference, record)
    # There is no record, or the row may have got another file since: one that is cut short is damaged all the same.
    if source.size != destination.size:
        beginning = difference.beginning if min(source.size, destination.size) else True
        if beginning is None:
            return Decision.LOOK
        if beginning:
            return Decision.DAMAGED if destination.size < source.size else Decision.SOURCE_CUT
    return _by_change(difference, record) if record is not None else _by_moments(difference)


def _telling(difference: Difference) -> Record | None:
    """Return the record, where it tells the sides apart: equal length and no MD5 make it fit both."""
    record = difference.record
    if record is None or (_fits(difference.source, record) and _fits(difference.destination, record)):
        return None
    return record


def _fits(side: SideObject, record: Record) -> bool:
    """Tell whether a side has what was recorded, as far as is known."""
    return side.size == record.size and (side.md5 is None or record.md5 is None or side.md5 == record.md5)


def _changed_since(row: Row, record: Record) -> bool:
    """Tell whether the row may have got other bytes under the same key since a record."""
    if not row.rewritten and not row.unfinished:
        # File names are random, so one name has one content: the row would have to say plainly that it has not.
        return row.changed is not None and row.changed > record.read_until + CLOCKS
    # The row tells of a conversion later than it happens.
    return row.unfinished or row.changed is None or row.changed > record.read_at - WRITING


def _as_the_row_says(difference: Difference, record: Record | None) -> Decision:
    """Name the side, where the destination alone is as long as the row says: it stays in any case."""
    if record is not None and _fits(difference.destination, record) and not _changed_since(difference.row, record):
        return Decision.SOURCE_CHANGED
    if record is not None and _fits(difference.source, record) and _changed_since(difference.row, record):
        return Decision.WRITTEN_THERE
    return Decision.AS_THE_ROW_SAYS


def _by_record(difference: Difference, record: Record) -> Decision:
    """Decide about an object whose row has not changed since the record: the side that fits it is the good one."""
    if _fits(difference.destination, record):
        return Decision.SOURCE_CHANGED
    return Decision.DAMAGED if _fits(difference.source, record) else Decision.BOTH_CHANGED


def _by_change(difference: Difference, record: Record) -> Decision:
    """Decide about an object whose row may have got another file since the record."""
    source, destination = difference.source, difference.destination
    if _fits(destination, record):
        # Bytes that change without the object being written are rot. Else it is the row's other file.
        rotten = _before(source.modified, record.begun - CLOCKS)
        return Decision.SOURCE_CHANGED if rotten else Decision.OLDER
    if _fits(source, record):
        # The same at the destination; what was written during that run or later may be Mastodon's.
        rotten = _before(destination.modified, record.begun - CLOCKS)
        return Decision.DAMAGED if rotten else Decision.WRITTEN_THERE
    # Neither is what was recorded: the source's only where it was certainly written later.
    return Decision.OLDER if _is_older(destination, source) else Decision.WRITTEN_THERE


def _by_moments(difference: Difference) -> Decision:
    """Decide about an object of which no record tells."""
    row, source, destination = difference.row, difference.source, difference.destination
    if _is_older(destination, source):
        return Decision.OLDER
    begun = None if row.written is None else row.written - CLOCKS
    if begun is not None and _before(source.modified, begun) and not _before(destination.modified, begun):
        # The row speaks of a file that is not the source's. The destination's was written then or later.
        return Decision.WRITTEN_THERE
    # The destination's is as new or newer, and whose it is nobody knows.
    return Decision.NOTHING_TELLS


def _is_older(one: SideObject, other: SideObject) -> bool:
    """Tell whether one side's object was certainly written before the other's."""
    return other.modified is not None and _before(one.modified, other.modified - CLOCKS)


def _before(moment: datetime | None, other: datetime) -> bool:
    """Tell whether a moment is known to lie before another one."""
    return moment is not None and moment < other
