"""Objects and bytes are counted in the database as the rules for single rows count them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.mastodon import (
    IdRange,
    Selection,
    SplitSize,
    TableSize,
    stored_objects,
    subset_size,
    table_sizes,
)
from mastosync_dagster_tests.mastodon.cases import paperclip_cases

if TYPE_CHECKING:
    from mastosync_dagster_tests.mastodon.conftest import MastodonDatabase

ALL = IdRange(-(2**63), 2**63 - 1)
MIB = 2**20


@pytest.mark.parametrize("page_rows", [3, 1000])
@pytest.mark.parametrize("table", ["media_attachments", "accounts", "custom_emojis", "preview_cards", "site_uploads"])
def test_it_counts_what_the_rules_for_a_row_say(
    own_mastodon: MastodonDatabase, monkeypatch: pytest.MonkeyPatch, table: str, page_rows: int
) -> None:
    monkeypatch.setattr(table_sizes, "_PAGE_ROWS", page_rows)
    database = own_mastodon.database()
    own_mastodon.execute("DROP INDEX IF EXISTS index_site_uploads_on_var")
    rows = {
        case.row["id"]: case.row
        for case in paperclip_cases()
        if case.table == table and database.schema.has(table, *case.row)
    }
    own_mastodon.insert(table, *rows.values())
    objects = [stored for row in own_mastodon.rows(Selection(table)) for stored in stored_objects(table, row)]

    found = subset_size(database, table, [ALL], None).unchanged

    assert found.rows == len(rows)
    assert found.objects == len(objects)
    assert found.originals == sum(stored.style == "original" for stored in objects)
    assert found.bytes == sum(max(stored.size or 0, 0) for stored in objects)


def test_only_the_ranges_count_and_large_ones_are_told_apart(mastodon: MastodonDatabase) -> None:
    sizes = {1: 100, 2: 16 * MIB, 3: 16 * MIB + 1, 4: 50 * MIB, 5: None, 6: 7}
    for row_id, size in sizes.items():
        mastodon.insert(
            "preview_cards", {"id": row_id, "image_file_name": "a.png" if row_id < 6 else None, "image_file_size": size}
        )
    found = subset_size(mastodon.database(), "preview_cards", [IdRange(1, 2), IdRange(4, 9)], None).unchanged
    assert found == TableSize(rows=5, originals=4, objects=4, bytes=66 * MIB + 100, large=1, parts=10)


def test_an_empty_range_is_nothing(mastodon: MastodonDatabase) -> None:
    assert subset_size(mastodon.database(), "accounts", [ALL], None) == SplitSize(TableSize(), TableSize(), TableSize())


@pytest.mark.parametrize("page_rows", [1, 2, 1000])
def test_changed_rows_are_counted_apart(
    mastodon: MastodonDatabase, monkeypatch: pytest.MonkeyPatch, page_rows: int
) -> None:
    monkeypatch.setattr(table_sizes, "_PAGE_ROWS", page_rows)
    old, new = "2024-05-01 11:59:59", "2024-05-01 12:00:01"
    for row_id, created, avatar, header in [
        (1, old, old, None),
        (2, old, new, old),
        (3, new, None, None),
        (4, old, None, new),
        (5, old, None, None),
    ]:
        row: dict[str, object] = {"id": row_id, "created_at": created, "header_updated_at": header}
        mastodon.insert("accounts", {**row, "avatar_file_name": "a.png", "avatar_updated_at": avatar})
    time = datetime(2024, 5, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    database, all_rows = mastodon.database(), [IdRange(1, 2), IdRange(3, 9)]
    found = subset_size(database, "accounts", all_rows, time)
    before, since = found.unchanged, found.changed
    assert (before.rows, before.objects, since.rows, since.objects) == (2, 2, 3, 3)
    assert subset_size(database, "accounts", all_rows, None).unchanged == before + since
