"""What a caller asks for: items in batches, with the key ranges that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    from mastosync_dagster.s3.listing import KeyRange


class ExpectedObject(NamedTuple):
    """One object wanted at the destination. Keys are relative to each side's key prefix.

    A tuple, since a run makes one for each object: a frozen dataclass of as many fields takes three times as long.

    Attributes:
        key: The key it has at the source and will have at the destination.
        candidates: Other keys it may have at the source, in the order to try.
        group: Which collection it belongs to (a manifest column; here: a table).
        row_id: Number of its owner within the group (a manifest column).
        part: Which part of its owner it is (a manifest column; here: ``file/original``).
        private: Must not be readable by everybody.
        keep_found_key: Found under a candidate, it goes to that key instead of ``key``.
        may_be_absent: Its absence at the source is known to be harmless (noted in the manifest).
        new: It cannot have been copied yet: neither side is asked for it, the copy's GET tells whether it is there.
        remote: It is a copy of another server's (a manifest column).
        again: To be copied whatever the listings say: somebody has looked closer than they do.
        turn: Found at the destination, its ACL is asked for, and set where it is another: that is in doubt.
        size: Bytes that the caller knows it must have; None: unknown. Where the destination has that many and the
            source has not, the destination's is the right one, and stays.
        written_after: Of a new item: what the source has was written after this moment, by the storages' clock. If it
            was not, the item is not new, and the destination is asked for it. None: not known.
    """

    key: str
    candidates: tuple[str, ...] = ()
    group: str = ""
    row_id: int = 0
    part: str = ""
    private: bool = False
    keep_found_key: bool = False
    may_be_absent: bool = False
    new: bool = False
    remote: bool = False
    again: bool = False
    turn: bool = False
    size: int | None = None
    written_after: datetime | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Items that are planned together.

    Attributes:
        items: The items, a few thousand at most.
        ranges: Key ranges that cover every key and candidate of the items that are not new; empty where listing does
            not pay (a few scattered rows): each object is then asked for with HEAD.
        rows: How many rows of the database stand behind it (for progress and metadata).
        owners: Lowest and highest number of the owners whose objects lie in the ranges, for those who ask what else
            does; None: not known.
    """

    items: tuple[ExpectedObject, ...]
    ranges: tuple[KeyRange, ...] = ()
    rows: int = 0
    owners: tuple[int, int] | None = None
