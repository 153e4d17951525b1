"""Rows of Mastodon's database as items that the transfer moves: the one place that knows both sides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from mastosync_dagster.expected.privacy import KnownState
from mastosync_dagster.mastodon import changed_objects, is_remote, key_spans, stored_objects
from mastosync_dagster.plan.items import Batch, ExpectedObject
from mastosync_dagster.s3.listing import KeyRange

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from mastosync_dagster.mastodon import RowPage, StoredObject

# Listing a page's key ranges costs about one request per thousand keys that lie there, asking for each object one
# request an object. Below this share of rows that are wanted, asking is the cheaper.
_LISTING_PAYS_FROM = 1 / 50


@dataclass
class Sizes:
    """Adds up what the database says of the objects that pass by.

    Attributes:
        bytes: Sizes of originals; of other objects it knows none.
    """

    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """Which objects of the rows are wanted.

    Attributes:
        since: Those that may have changed after this moment.
        all_above: Those of rows with ids above this too.
        new_after: Those written after this moment cannot have been copied yet; None: any may.
        clock_ahead: How far the database's clock, of which the moments are, is ahead of this machine's.
        until: Nor was anything written after this one: what says so has a wrong moment, and any run may have copied it.
    """

    since: datetime
    all_above: int | None
    new_after: datetime | None
    until: datetime
    clock_ahead: timedelta = timedelta()

    @property
    def written_after(self) -> datetime | None:
        """``new_after`` by this machine's clock."""
        return None if self.new_after is None else self.new_after - self.clock_ahead


def batches(
    pages: Iterable[RowPage],
    changes: Changes | None = None,
    sizes: Sizes | None = None,
    marks: KnownState | None = None,
) -> Iterator[Batch]:
    """Yield one batch per page of rows: the objects its rows stand for, and the key ranges that hold them.

    Args:
        pages: The rows.
        changes: Take only these objects; None: all.
        sizes: Told the size of each object.
        marks: What is known beyond the rows; None: nothing.
    """
    sizes, marks = sizes or Sizes(), marks or KnownState()
    for page in pages:
        items = tuple(item for row in page.rows for item in items_of(page.table, row, marks, sizes, changes))
        asked = len(page.rows) if changes is None else len({item.row_id for item in items if not item.new})
        listed = items and asked and asked >= page.scanned * _LISTING_PAYS_FROM
        yield Batch(items=items, ranges=key_ranges(page.table, page.lo, page.hi) if listed else (), rows=len(page.rows))


def key_ranges(table: str, lo: int, hi: int) -> tuple[KeyRange, ...]:
    """Return the ranges that hold the keys of a table's rows with these ids (both included)."""
    return tuple(KeyRange(prefix=span.prefix, start=span.start, end=span.end) for span in key_spans(table, lo, hi))


def items_of(
    table: str, row: Mapping[str, object], marks: KnownState, sizes: Sizes, changes: Changes | None = None
) -> Iterator[ExpectedObject]:
    """Yield the objects of a row.

    Args:
        table: The row's table.
        row: The row, with ``private``.
        marks: What is known beyond the row.
        sizes: Told the size of each object.
        changes: Take only these objects; None: all.
    """
    row_id = row["id"]
    assert isinstance(row_id, int)  # noqa: S101  (the primary key of all these tables is a bigint)
    remote, private = is_remote(table, row), marks.is_private(row)
    doubtful = marks.is_doubtful(table, row)
    written_after = None if changes is None else changes.written_after
    for stored, new in _objects(table, row, changes):
        sizes.bytes += stored.size or 0
        # In the order of the fields: with their names it takes twice as long, and this is done for each object. Both
        # sets of keys are empty but after a verification that has found something.
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
            bool(marks.again) and _is_among(marks.again, stored),
            doubtful or (bool(marks.turn) and _is_among(marks.turn, stored)),
            stored.size,
            written_after if new else None,
        )


def _is_among(keys: AbstractSet[str], stored: StoredObject) -> bool:
    """Tell whether an object is at the destination under one of some keys."""
    # What is found of an unfinished row goes to the key that it is found under.
    return stored.key in keys or (stored.unfinished and any(key in keys for key in stored.candidates))


def _objects(table: str, row: Mapping[str, object], changes: Changes | None) -> Iterator[tuple[StoredObject, bool]]:
    """Yield the wanted objects of a row, each with whether it is new."""
    if changes is None:
        for stored in stored_objects(table, row):
            yield stored, False
        return
    after = changes.new_after
    for stored, written in changed_objects(table, row, changes.since, all_above=changes.all_above):
        yield stored, after is not None and written is not None and after < written <= changes.until
