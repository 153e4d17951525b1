"""What a caller asks for: expected objects in batches, with the key ranges that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    from mastosync_dagster.s3.listing import KeyRange


class ExpectedObject(NamedTuple):
    """One object that must be at the destination. Keys are relative to each storage's key prefix.

    A tuple, since a run makes one for each object: a frozen dataclass of as many fields takes three times as long.
    ``group`` (the table), ``row_id``, ``part`` (``file/original``) and ``remote`` are manifest columns.

    Attributes:
        key: Its key at source and destination.
        candidates: Other keys it may have at the source, in the order to try.
        private: Must not be readable by everybody.
        keep_found_key: Found under a candidate, it goes to that key instead of ``key``.
        may_be_absent: Its absence at the source is known to be harmless (noted in the manifest).
        new: It cannot have been copied yet: neither storage is asked for it, the copy's GET finds out whether it is
            there.
        remote: It is a copy of another server's.
        again: To be copied whatever the listings say: a verification has compared more than they show.
        check_acl: Its ACL is in doubt: if the destination has the object, its ACL is asked for, and set if wrong.
        size: Bytes that the caller knows it must have; None: unknown. Where the destination has that many and the
            source has not, the destination's is the right one, and stays.
        written_after: Of a new item: the source's was written after this time, by the storages' clock. If it was not,
            the item is not new, and the destination is asked for it. None: not known.
        content_type: What the database says of it, for a source that keeps none; None: nothing.
        acl_only: It is not wanted at the destination: what is there only gets the right ACL, and nothing is copied.
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
    check_acl: bool = False
    size: int | None = None
    written_after: datetime | None = None
    content_type: str | None = None
    acl_only: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Items that are planned together.

    Attributes:
        items: A few thousand at most.
        ranges: Key ranges that cover every key and candidate of the items that are not new; empty where listing does
            not pay (a few scattered rows): each object is then asked for with HEAD.
        rows: Rows of the database behind it, for progress and metadata.
        owners: Lowest and highest id of the rows whose objects lie in the ranges, to find orphans there; None: not
            known.
    """

    items: tuple[ExpectedObject, ...]
    ranges: tuple[KeyRange, ...] = ()
    rows: int = 0
    owners: tuple[int, int] | None = None
