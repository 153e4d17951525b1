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


def test_only_the_ranges_count_and_large_ones_are_counted_apart(mastodon: MastodonDatabase) -> None:
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


@pytest.fixture
def many_rows(own_mastodon: MastodonDatabase) -> MastodonDatabase:
    """20,000 cards of 1,000 bytes, every tenth without a picture; of the newest hundred each of 7 bytes."""
    own_mastodon.execute(
        "INSERT INTO preview_cards (id, url, created_at, updated_at, image_file_name, image_file_size,"
        " image_content_type, image_updated_at) SELECT id, 'https://example.com/' || id, now(), now(),"
        " CASE WHEN id % 10 > 0 THEN 'a.png' END, CASE WHEN id > 19900 THEN 7 ELSE 1000 END, 'image/png', now()"
        " FROM generate_series(1, 20000) AS id"
    )
    own_mastodon.execute("ANALYZE preview_cards")
    return own_mastodon


def test_of_a_large_table_the_newest_rows_are_counted_and_the_others_estimated(
    many_rows: MastodonDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_sizes, "_PAGE_ROWS", 100)
    monkeypatch.setattr(table_sizes, "_COUNTED_ROWS", 1_000)
    monkeypatch.setattr(table_sizes, "_SAMPLED_ROWS", 10_000)
    found = subset_size(
        many_rows.database(), "preview_cards", [IdRange(1, 9_000), IdRange(9_001, 10**9)], None
    ).unchanged
    assert found.estimated
    assert found.rows == pytest.approx(20_000, rel=0.2)
    assert found.objects == pytest.approx(0.9 * found.rows, rel=0.02)
    assert found.bytes == pytest.approx(1_000 * found.objects - 90 * 993, rel=0.02)
    # In gaps between the ranges nothing counts.
    half = subset_size(
        many_rows.database(), "preview_cards", [IdRange(1, 5_000), IdRange(15_001, 10**9)], None
    ).unchanged
    assert half.estimated
    assert half.rows == pytest.approx(10_000, rel=0.2)


@pytest.mark.parametrize("newest", [1_500, 900])
def test_what_is_left_of_a_large_table_is_counted_where_it_is_little(
    many_rows: MastodonDatabase, monkeypatch: pytest.MonkeyPatch, newest: int
) -> None:
    monkeypatch.setattr(table_sizes, "_PAGE_ROWS", 100)
    monkeypatch.setattr(table_sizes, "_COUNTED_ROWS", 1_000)
    ranges = [IdRange(1, 250), IdRange(20_001 - newest, 10**9)]
    found = subset_size(many_rows.database(), "preview_cards", ranges, None).unchanged
    assert (found.rows, found.objects, found.estimated) == (newest + 250, 0.9 * (newest + 250), False)


def test_a_table_without_statistics_is_counted(own_mastodon: MastodonDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_sizes, "_PAGE_ROWS", 10)
    monkeypatch.setattr(table_sizes, "_COUNTED_ROWS", 20)
    for row_id in range(100):
        own_mastodon.insert("preview_cards", {"id": row_id, "image_file_name": "a.png", "image_file_size": 1})
    found = subset_size(own_mastodon.database(), "preview_cards", [ALL], None).unchanged
    assert (found.rows, found.estimated) == (100, False)
