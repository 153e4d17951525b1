"""What becomes of an object that both storages have with different bytes: a pure function of known facts.

The rule: an object at the destination that is newer than the source's, or that the source does not know, is never
overwritten unless it is shown to be damaged: it is cut short, or the row has the same file as when a run recorded other
bytes of it, which the source still has. An object that is damaged at the source overwrites nothing good. Where nothing
tells which one is right, nothing is overwritten, and the object fails.
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
"""The clocks of two machines may differ by this much: a time is later than another only by more than this."""

WRITING = timedelta(hours=1)
"""A file may be at the storage this long before the row says so: it is uploaded first, and large ones take long."""

# Markdown tables and alerts show 200 characters.
_FOR_AN_ADMIN = (
    "nothing was overwritten. Compare both: mastosync sync --overwrite (overwrite: true in the plan's config) takes the"
    " source's"
)


class Action(Enum):
    """What is to be done."""

    COPY = "the source's object is copied over the destination's"
    KEEP = "the destination's stays"
    COMPARE_BODIES = "compare the bodies: is the shorter one the beginning of the longer one?"
    FAIL = "nothing tells which is right: the destination's stays, and the object has failed"


class Decision(Enum):
    """An action, and its reason in words: the remark of a manifest line, or of a finding."""

    WANTED = (Action.COPY, "the source's is wanted, whatever the destination has")
    DAMAGED = (Action.COPY, "the destination's is damaged")
    OLDER = (Action.COPY, "the destination has an older one")
    COMPARE_BODIES = (Action.COMPARE_BODIES, "")
    AS_THE_ROW_SAYS = (Action.KEEP, "as long as the database says; the source has another length")
    SOURCE_CHANGED = (
        Action.KEEP,
        "as it was copied; the source has other bytes since, though its row has not changed: it stays",
    )
    SOURCE_CUT = (Action.KEEP, "the source's is cut short, and is the beginning of this one: it stays")
    WRITTEN_THERE = (Action.KEEP, WRITTEN_THERE)
    MAYBE_CONVERTED = (
        Action.KEEP,
        "its conversion has not ended, and the destination's was written just now: it stays until the next run",
    )
    ROW_CHANGED = (Action.KEEP, "its row is not found, or has another file by now: it stays")
    BOTH_CHANGED = (
        Action.FAIL,
        f"neither storage has the copied bytes, though its row has not changed: {_FOR_AN_ADMIN}",
    )
    UNDECIDED = (
        Action.FAIL,
        f"the storages have different bytes, and nothing tells which are right: {_FOR_AN_ADMIN}",
    )

    @property
    def action(self) -> Action:
        """What is to be done."""
        return self.value[0]

    @property
    def words(self) -> str:
        """The reason, for people."""
        return self.value[1]


SOURCE_DAMAGED = (Decision.SOURCE_CHANGED, Decision.SOURCE_CUT)
"""The destination has the good copy, and the source has not."""


class StoredBody(NamedTuple):
    """The object at one storage.

    Attributes:
        size: Bytes.
        md5: MD5 of the body in hex; None: not known.
        modified: When it was last written, by the storage's clock; None: not known.
    """

    size: int
    md5: str | None
    modified: datetime | None


@dataclass(frozen=True, slots=True)
class Row:
    """What the row says of the object. Times are of Mastodon's and its database's clock.

    Attributes:
        size: Bytes it must have; None: unknown.
        written: The file was not written before this time, as far as the row tells; None: unknown.
        changed: The row has not named another file after this time; None: unknown.
        rewritten: Mastodon may write another file under the same key: one that it has converted, or, where the name is
            not a random one, another upload. The content of all other keys never changes.
        unfinished: That conversion has not ended.
        not_found: There is no such row any more, or it has a file of another key.
    """

    size: int | None = None
    written: datetime | None = None
    changed: datetime | None = None
    rewritten: bool = False
    unfinished: bool = False
    not_found: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """The last time that a run has found or made source and destination equal.

    Attributes:
        size: Bytes.
        md5: MD5 of the body in hex; None: not known.
        read_at: The rows are those of this time or later, by the database's clock.
        read_until: All rows were read by this time, by the database's clock.
        begun: The run began, by the clock of its machine.
    """

    size: int
    md5: str | None
    read_at: datetime
    read_until: datetime
    begun: datetime


class Known(NamedTuple):
    """What is known of an object beyond what the storages show; no record: None."""

    row: Row
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """An object that both storages have, with different bytes.

    Attributes:
        record: What was recorded; None: nothing.
        now: When the row was read, after both storages, by this machine's clock.
        overwrite: An admin wants the source's.
        beginning: The shorter body is the beginning of the longer one; None: they were not compared.
    """

    source: StoredBody
    destination: StoredBody
    row: Row
    record: Record | None
    now: datetime
    overwrite: bool = False
    beginning: bool | None = None


def decide(difference: Difference) -> Decision:  # noqa: PLR0911  (each branch that decides ends there)
    """Return what becomes of the object: `Decision.COMPARE_BODIES` as long as `Difference.beginning` is not known."""
    row, source, destination = difference.row, difference.source, difference.destination
    if difference.overwrite:
        # The admin knows better: files that were repaired in place, for example.
        return Decision.WANTED
    if row.not_found:
        # No row expects it any more, or not these bytes: whatever is there does no harm.
        return Decision.ROW_CHANGED
    record = _decisive(difference)
    if row.size == destination.size != source.size:
        # The destination's stays in any case; the record only tells why.
        return _as_the_row_says(difference, record)
    if row.size == source.size != destination.size:
        # Converted and uploaded there, but the row does not say so yet; a later run finds out whether that is damaged.
        # Else it is cut short, emptied, or the file from before its conversion at the source.
        return Decision.MAYBE_CONVERTED if _may_be_converted(difference) else Decision.DAMAGED
    if (decision := _as_long_as_unfinished(difference, record)) is not None:
        return decision
    # The row's size does not tell: it is unknown, or that of both, or of neither.
    if record is not None and not _changed_since(row, record):
        # The row still has the file that was recorded: the recorded bytes are the right ones.
        return _by_record(difference, record)
    # There is no record, or the row may have another file since. One that is cut short is damaged all the same.
    if source.size != destination.size:
        # An empty body is the beginning of every other.
        beginning = difference.beginning if min(source.size, destination.size) else True
        if beginning is None:
            # The bodies must be compared first.
            return Decision.COMPARE_BODIES
        if beginning:
            # The shorter one broke off while it was written.
            return Decision.DAMAGED if destination.size < source.size else Decision.SOURCE_CUT
    # Only the times are left to tell.
    return _by_change(difference, record) if record is not None else _by_times(difference)


def _may_be_converted(difference: Difference) -> bool:
    """Whether Mastodon may have converted the destination's, and not have noted it in the row yet."""
    return difference.row.unfinished and not _before(difference.destination.modified, difference.now - WRITING)


def _as_long_as_unfinished(difference: Difference, record: Record | None) -> Decision | None:
    """Decide about a file whose conversion has not ended, where both are as long as the row says; else None."""
    row, source, destination = difference.row, difference.source, difference.destination
    if record is None or not row.unfinished or not row.size == source.size == destination.size:
        return None
    if _fits(destination, record):
        # A conversion at the source is copied when the row tells of it.
        return Decision.SOURCE_CHANGED
    if _fits(source, record):
        # One that nobody has noted for so long was none.
        return Decision.MAYBE_CONVERTED if _may_be_converted(difference) else Decision.DAMAGED
    return None


def _decisive(difference: Difference) -> Record | None:
    """Return the record, where it distinguishes the objects: with equal lengths and no MD5 it fits both."""
    record = difference.record
    if record is None or (_fits(difference.source, record) and _fits(difference.destination, record)):
        return None
    return record


def _fits(body: StoredBody, record: Record) -> bool:
    """Whether an object is what was recorded, as far as is known."""
    return body.size == record.size and (body.md5 is None or record.md5 is None or body.md5 == record.md5)


def _changed_since(row: Row, record: Record) -> bool:
    """Whether the row may have got other bytes under the same key since a record."""
    if not row.rewritten and not row.unfinished:
        # File names are random, so one name has one content: only a row that is clearly newer counts as changed.
        return row.changed is not None and row.changed > record.read_until + CLOCKS
    # The row tells of a conversion later than it happens, and of an upload when it has happened.
    return row.unfinished or row.changed is None or row.changed > record.read_at - WRITING


def _as_the_row_says(difference: Difference, record: Record | None) -> Decision:
    """Return why the destination's stays, where it alone is as long as the row says."""
    if record is not None:
        changed = _changed_since(difference.row, record)
        if _fits(difference.destination, record) and not changed:
            # The destination has what was copied, and the row is the same.
            return Decision.SOURCE_CHANGED
        if _fits(difference.source, record) and changed:
            # The source has what was copied, and the row has another file since.
            return Decision.WRITTEN_THERE
    # Only the row's size tells.
    return Decision.AS_THE_ROW_SAYS


def _by_record(difference: Difference, record: Record) -> Decision:
    """Decide about an object whose row has not changed since the record: what fits the record is good."""
    if _fits(difference.destination, record):
        # What was copied is still there.
        return Decision.SOURCE_CHANGED
    # The source's is what was copied, or neither is.
    return Decision.DAMAGED if _fits(difference.source, record) else Decision.BOTH_CHANGED


def _by_change(difference: Difference, record: Record) -> Decision:
    """Decide about an object whose row may have another file since the record."""
    source, destination = difference.source, difference.destination
    if _fits(destination, record):
        # Bytes that change without the object being written are damage. Else it is the row's other file.
        damaged = _before(source.modified, record.begun - CLOCKS)
        return Decision.SOURCE_CHANGED if damaged else Decision.OLDER
    if _fits(source, record):
        # The same at the destination; what was written during that run or later may be Mastodon's.
        damaged = _before(destination.modified, record.begun - CLOCKS)
        return Decision.DAMAGED if damaged else Decision.WRITTEN_THERE
    # Neither is what was recorded: the source's is taken only where it was certainly written later.
    return Decision.OLDER if _is_older(destination, source) else Decision.WRITTEN_THERE


def _by_times(difference: Difference) -> Decision:
    """Decide about an object without a record."""
    row, source, destination = difference.row, difference.source, difference.destination
    if _is_older(destination, source):
        # The source's was certainly written later.
        return Decision.OLDER
    begun = None if row.written is None else row.written - CLOCKS
    if begun is not None and _before(source.modified, begun) and not _before(destination.modified, begun):
        # The row's file is newer than the source's. The destination's was written then or later.
        return Decision.WRITTEN_THERE
    # The destination's is as new or newer, and nobody knows who wrote it.
    return Decision.UNDECIDED


def _is_older(one: StoredBody, other: StoredBody) -> bool:
    """Whether one object was certainly written before the other."""
    return other.modified is not None and _before(one.modified, other.modified - CLOCKS)


def _before(time: datetime | None, other: datetime) -> bool:
    """Whether a time is known to be before another one."""
    return time is not None and time < other
