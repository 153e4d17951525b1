"""Expected objects of an ID range, in batches whose key ranges leave no gap, so that orphans are found too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.expected.objects import Sizes, items_of, key_ranges
from mastosync_dagster.mastodon.keys import id_class
from mastosync_dagster.plan.items import Batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mastosync_dagster.expected.privacy import KnownState
    from mastosync_dagster.mastodon import IdRange, RowPage
    from mastosync_dagster.plan.items import ExpectedObject

_BATCH_ITEMS = 10_000
"""Expected objects of a batch: enough to make the cost of nearly empty folders small in comparison."""


def covering_batches(
    pages: Iterable[RowPage],
    ids: IdRange,
    state: KnownState,
    *,
    sizes: Sizes | None = None,
    batch_items: int = _BATCH_ITEMS,
) -> Iterator[Batch]:
    """Yield the objects of an ID range's rows, and key ranges that together hold every key of its ids.

    Ids whose keys are of different lengths get ranges of their own: between the last serial id and the first snowflake
    there are no rows, but in the order of keys nearly all others. ``pages`` are the rows of the range by id, with the
    pages that have no file. Sizes, and objects left out, are added to ``sizes``.
    """
    sizes = sizes or Sizes()
    open_batch = _OpenBatch(ids, state, sizes)
    for page in pages:
        sizes.leave_out(page)
        if open_batch.last is not None and id_class(page.lo) != id_class(open_batch.last):
            yield from open_batch.close(open_batch.last)
            open_batch = _OpenBatch(ids, state, sizes)
        open_batch.add(page)
        if len(open_batch.items) >= batch_items:
            yield from open_batch.close(page.hi)
    if open_batch.last is not None:
        same = id_class(ids.hi) == id_class(open_batch.last)
        yield from open_batch.close(ids.hi if same else open_batch.last)


class _OpenBatch:
    """A batch that is being filled, of ids whose keys are of one length.

    Attributes:
        last: The last id so far; None: none yet.
    """

    def __init__(self, ids: IdRange, state: KnownState, sizes: Sizes) -> None:
        self.items: list[ExpectedObject] = []
        self.last: int | None = None
        self._table = ""
        self._rows = 0
        self._start = 0
        self._ids = ids
        self._state = state
        self._sizes = sizes

    def add(self, page: RowPage) -> None:
        """Add a page of rows."""
        if self.last is None:
            self._table = page.table
            self._start = self._ids.lo if id_class(self._ids.lo) == id_class(page.lo) else page.lo
        self.items += (item for row in page.rows for item in items_of(page.table, row, self._state, self._sizes))
        self._rows += len(page.rows)
        self.last = page.hi

    def close(self, end: int) -> Iterator[Batch]:
        """Yield the batch, with the keys of the ids up to ``end``, and begin the next one after them."""
        if self._start <= end:
            ranges = key_ranges(self._table, self._start, end)
            yield Batch(items=tuple(self.items), ranges=ranges, rows=self._rows, owners=(self._start, end))
        self.items, self._rows, self._start = [], 0, end + 1
