"""Objects whose rows have become private, or public again, since they were written: no column of theirs tells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mastosync_dagster.mastodon import RowPage, Rows, Selection, walk_rows
from mastosync_dagster.privacy import Privacy, can_turn
from mastosync_dagster.selection import batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mastosync_dagster.mastodon import Connect, Schema
    from mastosync_dagster.privacy import Marks
    from mastosync_dagster.transfer.items import Batch

_ROWS_A_PAGE = 1_000
_MANY = 2**31


def with_turned(
    planned: Iterable[Batch], connect: Connect, schema: Schema, selection: Selection, marks: Marks, *, page_rows: int
) -> Iterator[Batch]:
    """Yield what a selection by change wants, and then the objects of rows that have turned and have not changed.

    Of a selection of all rows, or of a trial's, nothing is added: it is what was asked for.

    Args:
        planned: The objects that the selection wants.
        connect: Opens a connection.
        schema: What the database has.
        selection: The selection.
        marks: Which rows were private when they were written.
        page_rows: How many rows of the table a query may look at.
    """
    by_change = selection.changed_since is not None and selection.limit is None and not selection.offset
    may_turn = can_turn(selection.table) or bool(marks.left_out.get(selection.table))
    if not by_change or marks.privacy is not Privacy.MASTODON or not may_turn:
        yield from planned
        return
    done: set[str] = set()
    for batch in planned:
        done.update(item.key for item in batch.items if item.private or item.turn)
        yield batch
    for batch in batches(_turned_pages(connect, schema, selection, marks, page_rows), marks=marks):
        items = tuple(item for item in batch.items if item.key not in done)
        if items:
            yield replace(batch, items=items)


def _turned_pages(
    connect: Connect, schema: Schema, selection: Selection, marks: Marks, page_rows: int
) -> Iterator[RowPage]:
    table = selection.table
    were_private = set(marks.known_private.get(table, ()))
    left_out = marks.left_out.get(table, frozenset())
    private = Selection(table, ids=selection.ids, private_only=True)
    for page in walk_rows(connect, schema, private, page_rows=page_rows):
        wanted = (row for row in page.rows if row["id"] not in were_private or row["id"] in left_out)
        yield replace(page, rows=tuple(wanted))
        were_private.difference_update(row_id for row in page.rows for row_id in [row["id"]] if isinstance(row_id, int))
    no_longer = sorted(were_private)
    with Rows(connect, schema, table) as rows:
        for start in range(0, len(no_longer), _ROWS_A_PAGE):
            found = tuple(row for row in rows.of(no_longer[start : start + _ROWS_A_PAGE]) if not row["private"])
            if found:
                # They lie scattered: each object is asked for.
                yield RowPage(table, found[0]["id"], found[-1]["id"], scanned=_MANY, rows=found)
