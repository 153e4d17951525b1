"""Which remote rows are wanted: the database selects and counts them as the rules for single rows do."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.mastodon import (
    Database,
    DatabaseReadError,
    IdRange,
    LeftOutRows,
    RemoteRule,
    RemoteWindow,
    Selection,
    is_remote,
    stored_objects,
    subset_size,
    walk_rows,
)
from mastosync_dagster_tests.mastodon.cases import paperclip_cases

if TYPE_CHECKING:
    from mastosync_dagster_tests.mastodon.conftest import MastodonDatabase

ALL = IdRange(-(2**63), 2**63 - 1)
NOW = datetime(2024, 6, 1, tzinfo=timezone.utc)
NONE = RemoteWindow(None)
TABLES = ["media_attachments", "accounts", "custom_emojis", "preview_cards", "site_uploads"]


@pytest.mark.parametrize("page_rows", [3, 1000])
@pytest.mark.parametrize("table", TABLES)
def test_without_remote_rows_it_takes_the_local_ones_and_counts_the_objects_of_the_others(
    own_mastodon: MastodonDatabase, table: str, page_rows: int
) -> None:
    database = own_mastodon.database()
    own_mastodon.execute("DROP INDEX IF EXISTS index_site_uploads_on_var")
    cases = [case for case in paperclip_cases() if case.table == table and database.schema.has(table, *case.row)]
    own_mastodon.insert(table, *{case.row["id"]: case.row for case in cases}.values())
    rows = own_mastodon.rows(Selection(table))
    local = [row["id"] for row in rows if not is_remote(table, row)]
    remote = [row for row in rows if is_remote(table, row)]

    pages = list(walk_rows(database, Selection(table, remote=NONE), page_rows=page_rows))

    assert [row["id"] for page in pages for row in page.rows] == local
    assert sum(page.left_out for page in pages) == sum(len(stored_objects(table, row)) for row in remote)
    cached = [row for row in remote if all(each.key.startswith("cache/") for each in stored_objects(table, row))]
    if table != "media_attachments":  # thumbnails of some versions lie beside
        assert sum(page.left_out_in_cache for page in pages) <= len(cached)
    found = subset_size(database, table, [ALL], None, NONE)
    assert found.left_out.objects == sum(page.left_out for page in pages)
    assert found.unchanged.objects == sum(len(stored_objects(table, row)) for row in rows if row["id"] in local)
    with LeftOutRows(database, table, NONE) as left_out:
        assert left_out.among({row["id"] for row in rows if isinstance(row["id"], int)}) == {
            row["id"] for row in remote
        }


def test_attachments_go_by_created_at_and_cards_by_updated_at_as_tootctl_does(own_mastodon: MastodonDatabase) -> None:
    old, new = NOW - timedelta(days=8), NOW - timedelta(days=6)
    dates = {1: (old, old), 2: (old, new), 3: (new, new), 4: (new, old)}
    for row_id, (created, updated) in dates.items():
        times = {"created_at": created.replace(tzinfo=None), "updated_at": updated.replace(tzinfo=None)}
        own_mastodon.insert(
            "media_attachments", {"id": row_id, "file_file_name": "a.png", "remote_url": "https://x.example/a", **times}
        )
        own_mastodon.insert("preview_cards", {"id": row_id, "image_file_name": "a.png", **times})
    own_mastodon.insert(
        "media_attachments",
        {"id": 9, "file_file_name": "a.png", "created_at": old.replace(tzinfo=None), "remote_url": " \u3000"},
    )
    window = RemoteRule(7).window(NOW)
    # White space alone is no address: the attachment is local, and however old it is it is wanted.
    assert own_mastodon.ids(Selection("media_attachments", remote=window)) == [3, 4, 9]
    assert own_mastodon.ids(Selection("preview_cards", remote=window)) == [2, 3]


def test_a_card_that_was_renewed_since_has_come_into_the_window(own_mastodon: MastodonDatabase) -> None:
    old, since, renewed = (NOW - timedelta(days=days) for days in (90, 2, 1))
    for row_id, updated in ((1, renewed), (2, old)):
        times = {"created_at": old.replace(tzinfo=None), "updated_at": updated.replace(tzinfo=None)}
        own_mastodon.insert(
            "preview_cards",
            {"id": row_id, "image_file_name": "a.png", "image_updated_at": old.replace(tzinfo=None), **times},
        )
    window = RemoteRule(30).window(NOW)
    assert own_mastodon.ids(Selection("preview_cards", changed_since=since, remote=window)) == [1]
    assert own_mastodon.ids(Selection("preview_cards", changed_since=since)) == []


def test_a_time_that_may_not_be_read_is_named(mastodon: MastodonDatabase) -> None:
    schema = mastodon.schema()
    columns = {**schema.columns, "preview_cards": schema.columns["preview_cards"] - {"updated_at"}}
    poor = Database(mastodon.connect, replace(schema, columns=columns))
    pages = walk_rows(poor, Selection("preview_cards", remote=RemoteRule(3).window(NOW)))
    with pytest.raises(DatabaseReadError, match=r"preview_cards\.updated_at"):
        list(pages)
    assert list(walk_rows(poor, Selection("preview_cards", remote=NONE))) == []


@pytest.mark.parametrize(
    ("days", "ago", "other", "covers"),
    [
        (None, 0, None, True),
        (None, 0, 30, True),
        (30, 0, None, False),
        (0, 0, None, False),
        (0, 0, 0, True),
        (0, 0, 7, False),
        (30, 0, 0, True),
        (30, 5, 30, True),
        (30, -1, 30, True),  # a clock that went back
        (30, 5, 60, False),
        (30, 30, 60, True),  # what was newer than 30 days 30 days ago
        (30, 29, 60, False),
    ],
)
def test_what_less_was_wanted_for_does_not_cover_more(
    days: int | None, ago: int, other: int | None, *, covers: bool
) -> None:
    assert RemoteRule(days).covers(NOW - timedelta(days=ago), RemoteRule(other), NOW) is covers


@pytest.mark.parametrize("rule", [RemoteRule(), RemoteRule(0), RemoteRule(1), RemoteRule(365)])
def test_a_rule_is_read_as_it_is_written(rule: RemoteRule) -> None:
    assert RemoteRule.parse(str(rule)) == rule


@pytest.mark.parametrize("text", ["", "0", "-1", "30 weeks", "٣", "1e3", "99999", "none"])
def test_other_texts_are_no_rules(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        RemoteRule.parse(text)
