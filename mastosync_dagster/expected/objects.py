"""Turns rows of Mastodon's database into the objects that a sync expects at the destination."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from mastosync_dagster.expected.privacy import KnownState
from mastosync_dagster.mastodon import changed_objects, is_remote, key_spans, stored_objects
from mastosync_dagster.mastodon.keys import CACHE, id_class, may_change
from mastosync_dagster.plan.items import Batch, ExpectedObject
from mastosync_dagster.ranges.partitions import RangeIndex
from mastosync_dagster.s3.listing import KeyRange

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from mastosync_dagster.mastodon import IdRange, RemoteWindow, RowPage, StoredObject

# Listing a page's key ranges costs about one request per thousand keys that lie there, a HEAD for each object one
# request an object. Below this share of rows with expected objects, HEAD requests cost less.
_LISTING_PAYS_FROM = 1 / 50
_ENOUGH_FOR_A_REQUEST = 1_000
"""Objects, about the keys of one page of a listing."""


@dataclass
class Sizes:
    """Sums the sizes of originals (the database has no others), and counts objects left out; also by ID range."""

    bytes: int = 0
    ranges: RangeIndex = field(default_factory=RangeIndex)
    by_range: Counter[IdRange] = field(default_factory=Counter)

    left_out: int = 0
    left_out_by_range: Counter[IdRange] = field(default_factory=Counter)

    def leave_out(self, page: RowPage) -> None:
        """Count what the policy leaves out of a page: for the range where the page begins, though it may go on."""
        if page.left_out:
            self.left_out += page.left_out
            ids = self.ranges.find(page.lo)
            if ids is not None:
                self.left_out_by_range[ids] += page.left_out

    def add(self, row_id: int, size: int) -> None:
        """Add the size of a row's original."""
        self.bytes += size
        ids = self.ranges.find(row_id)
        if ids is not None:
            self.by_range[ids] += size


@dataclass(frozen=True, slots=True)
class Changes:
    """Which objects of the rows an incremental run takes. Times are by the database's clock.

    Attributes:
        since: It takes those that may have changed after this time.
        all_above: It takes those of rows with ids above this too.
        new_after: Those written after this time cannot have been copied yet; None: any may.
        until: Nothing was written after this time: a later timestamp is wrong, and any run may have copied the object.
        clock_ahead: How far the database's clock is ahead of this machine's.
        window: It takes all those of rows that may have come into the window since; None: of none.
    """

    since: datetime
    all_above: int | None
    new_after: datetime | None
    until: datetime
    clock_ahead: timedelta = timedelta()
    window: RemoteWindow | None = None

    @property
    def written_after(self) -> datetime | None:
        """``new_after`` by this machine's clock."""
        return None if self.new_after is None else self.new_after - self.clock_ahead


def batches(
    pages: Iterable[RowPage],
    changes: Changes | None = None,
    sizes: Sizes | None = None,
    state: KnownState | None = None,
) -> Iterator[Batch]:
    """Yield the objects of pages of rows, and the key ranges that hold them: a batch per page.

    ``changes`` selects objects; None: all. The size of each is added to ``sizes``. Pages with rows that the policy
    leaves out are put together, until they hold enough objects for a request.
    """
    sizes, state = sizes or Sizes(), state or KnownState()
    batch = _Batch(changes)
    for page in pages:
        sizes.leave_out(page)
        if batch.pages and id_class(page.lo) != id_class(batch.pages[-1].hi):
            yield from batch.close()
        batch.add(page, [item for row in page.rows for item in items_of(page.table, row, state, sizes, changes)])
        if not page.left_out or changes is not None or len(batch.items) >= _ENOUGH_FOR_A_REQUEST:
            yield from batch.close()
    yield from batch.close()


class _Batch:
    """The batch that is being filled, of ids whose keys are of one length."""

    def __init__(self, changes: Changes | None) -> None:
        self.items: list[ExpectedObject] = []
        self.pages: list[RowPage] = []
        self._changes = changes

    def add(self, page: RowPage, items: list[ExpectedObject]) -> None:
        """Add a page with its objects."""
        self.pages.append(page)
        self.items += items

    def close(self) -> Iterator[Batch]:
        """Yield the batch, if it has any page, and begin the next one."""
        if not self.pages:
            return
        pages, items = [page for page in self.pages if page.rows] or self.pages, tuple(self.items)
        rows = sum(len(page.rows) for page in pages)
        # A new object is not looked up, so it does not count for the choice between listing and HEAD requests.
        asked = rows if self._changes is None else len({item.row_id for item in items if not item.new})
        ranges: tuple[KeyRange, ...] = ()
        has_remote = any(item.remote for item in items)
        scanned = sum(page.scanned - (0 if has_remote else page.left_out_in_cache) for page in self.pages)
        if items and asked and asked >= scanned * _LISTING_PAYS_FROM:
            ranges = key_ranges(pages[0].table, pages[0].lo, pages[-1].hi)
            if not has_remote:
                # What lies there is remote, and nothing of it is wanted.
                ranges = tuple(keys for keys in ranges if not keys.prefix.startswith(CACHE))
        yield Batch(items=items, ranges=ranges, rows=rows)
        self.items, self.pages = [], []


def key_ranges(table: str, lo: int, hi: int) -> tuple[KeyRange, ...]:
    """Return the ranges that hold the keys of a table's rows from ``lo`` to ``hi``, both included."""
    return tuple(KeyRange(prefix=span.prefix, start=span.start, end=span.end) for span in key_spans(table, lo, hi))


def items_of(
    table: str, row: Mapping[str, object], state: KnownState, sizes: Sizes, changes: Changes | None = None
) -> Iterator[ExpectedObject]:
    """Yield the objects of a row that has the column ``private``; the size of each is added to ``sizes``."""
    row_id = row["id"]
    assert isinstance(row_id, int)  # noqa: S101  (the primary key of all these tables is a bigint)
    remote, private = is_remote(table, row), state.is_private(row)
    doubtful = state.is_doubtful(row)
    written_after = None if changes is None else changes.written_after
    for stored, written_lately in _objects(table, row, changes):
        # A private object is looked up however new it is: Mastodon may have written it to the destination, public. So
        # is one whose key may get another content: the destination may have the newer one.
        new = written_lately and not private and not may_change(stored.key)
        if stored.size:
            sizes.add(row_id, stored.size)
        # Positional, since keywords take twice as long and this runs for each object. Both sets of keys are empty
        # except after a verification that has found something.
        yield ExpectedObject(
            stored.key,
            stored.candidates,
            table,
            row_id,
            f"{stored.attachment}/{stored.style}",
            private,
            stored.unfinished,
            stored.may_be_absent,
            new,
            remote,
            bool(state.again) and _is_among(state.again, stored),
            doubtful or (bool(state.check_acl) and _is_among(state.check_acl, stored)),
            stored.size,
            written_after if new else None,
            stored.content_type,
        )


def _is_among(keys: AbstractSet[str], stored: StoredObject) -> bool:
    """Return whether an object is at the destination under one of some keys."""
    # An unfinished row's object is copied to the key under which the source has it.
    return stored.key in keys or (stored.unfinished and any(key in keys for key in stored.candidates))


def _objects(table: str, row: Mapping[str, object], changes: Changes | None) -> Iterator[tuple[StoredObject, bool]]:
    """Yield the selected objects of a row, each with whether it is new."""
    if changes is None:
        for stored in stored_objects(table, row):
            yield stored, False
        return
    after = changes.new_after
    found = changed_objects(table, row, changes.since, all_above=changes.all_above, window=changes.window)
    for stored, written in found:
        yield stored, after is not None and written is not None and after < written <= changes.until
