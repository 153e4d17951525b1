"""Rows of Mastodon's database as items that the transfer moves: the one place that knows both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.mastodon import key_spans, stored_objects
from mastosync_dagster.transfer.items import Batch, Item, KeyRange

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mastosync_dagster.mastodon import RowPage

# Listing a page's key ranges costs about one request per thousand keys that lie there, asking for each object one
# request an object. Below this share of rows that are wanted, asking is the cheaper.
_LISTING_PAYS_FROM = 1 / 50


def batches(pages: Iterable[RowPage]) -> Iterator[Batch]:
    """Yield one batch per page of rows: the objects its rows stand for, and the key ranges that hold them."""
    for page in pages:
        items = tuple(_items(page))
        listed = len(page.rows) >= page.scanned * _LISTING_PAYS_FROM
        ranges = (
            tuple(
                KeyRange(prefix=span.prefix, start=span.start, end=span.end)
                for span in key_spans(page.table, page.lo, page.hi)
            )
            if items and listed
            else ()
        )
        yield Batch(items=items, ranges=ranges, rows=len(page.rows))


def _items(page: RowPage) -> Iterator[Item]:
    for row in page.rows:
        private, row_id = bool(row["private"]), row["id"]
        assert isinstance(row_id, int)  # noqa: S101  (the primary key of all these tables is a bigint)
        for stored in stored_objects(page.table, row):
            yield Item(
                key=stored.key,
                candidates=stored.candidates,
                group=page.table,
                row_id=row_id,
                part=f"{stored.attachment}/{stored.style}",
                private=private,
                keep_found_key=stored.unfinished,
                may_be_absent=stored.may_be_absent,
            )
