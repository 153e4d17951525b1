"""Which rows have changed since a time, and which of their objects."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.mastodon import Selection, changed_objects

if TYPE_CHECKING:
    from mastosync_dagster_tests.mastodon.conftest import MastodonDatabase

SINCE = datetime(2026, 3, 1, 3, 0, tzinfo=timezone.utc)
BEFORE, AFTER = ((SINCE + timedelta(hours=hours)).replace(tzinfo=None) for hours in (-30, 1))
OLD = {"created_at": BEFORE, "updated_at": BEFORE}

VIDEO = {
    "file_file_name": "a.mp4",
    "file_content_type": "video/mp4",
    "file_updated_at": BEFORE,
    "thumbnail_file_name": "t.png",
    "thumbnail_updated_at": BEFORE,
}
ACCOUNT = {
    "avatar_file_name": "a.gif",
    "avatar_content_type": "image/gif",
    "avatar_updated_at": BEFORE,
    "header_file_name": "h.png",
    "header_content_type": "image/png",
    "header_updated_at": BEFORE,
}


@pytest.mark.parametrize(
    ("table", "row", "expected"),
    [
        pytest.param("accounts", ACCOUNT, {}, id="nothing has changed"),
        pytest.param(
            "accounts",
            {**ACCOUNT, "avatar_updated_at": AFTER},
            {"avatar/original": AFTER, "avatar/static": AFTER},
            id="an avatar has, the header has not",
        ),
        pytest.param(
            "accounts",
            {**ACCOUNT, "created_at": AFTER, "header_updated_at": None},
            {"avatar/original": BEFORE, "avatar/static": BEFORE, "header/original": None},
            id="the row is new: all of it is",
        ),
        pytest.param(
            "accounts",
            {**ACCOUNT, "avatar_updated_at": None},
            {"avatar/original": None, "avatar/static": None},
            id="nobody knows when the avatar was written",
        ),
        pytest.param(
            "accounts",
            {**ACCOUNT, "header_file_name": None, "header_updated_at": None},
            {},
            id="there is no header, and so no timestamp",
        ),
        pytest.param(
            "media_attachments",
            {**VIDEO, "thumbnail_updated_at": None},
            {"thumbnail/original": None},
            id="nor the thumbnail of a video",
        ),
        pytest.param("accounts", {**ACCOUNT, "updated_at": AFTER}, {}, id="a profile was edited, no file"),
        pytest.param(
            "media_attachments",
            {**VIDEO, "updated_at": AFTER},
            {"file/original": None, "file/small": BEFORE},
            id="a video whose conversion began before and ended after",
        ),
        pytest.param(
            "media_attachments",
            {**VIDEO, "file_content_type": "image/png", "updated_at": AFTER},
            {},
            id="a picture is converted at once: something else of the row was edited",
        ),
        pytest.param(
            "media_attachments",
            {**VIDEO, "updated_at": AFTER, "file_updated_at": AFTER},
            {"file/original": None, "file/small": BEFORE},
            id="a converted video keeps its key, so it need not be new; its preview is as old as the row",
        ),
        pytest.param(
            "media_attachments",
            {**VIDEO, "thumbnail_updated_at": AFTER},
            {"thumbnail/original": AFTER},
            id="a thumbnail alone",
        ),
        pytest.param("preview_cards", {"image_file_name": "a.png", "image_updated_at": BEFORE}, {}, id="an old card"),
        pytest.param(
            "custom_emojis",
            {"image_file_name": "a.png", "image_updated_at": AFTER},
            {"image/original": AFTER, "image/static": AFTER},
            id="an emoji that was replaced",
        ),
    ],
)
def test_the_query_and_the_rule_agree_on_what_has_changed(
    mastodon: MastodonDatabase, table: str, row: dict[str, object], expected: dict[str, datetime | None]
) -> None:
    mastodon.insert(table, {**OLD, **row, "id": 7})
    rows = mastodon.rows(Selection(table, changed_since=SINCE))
    found = {
        f"{change.stored.attachment}/{change.stored.style}": change.written
        for row in rows
        for change in changed_objects(table, row, SINCE)
    }
    assert found == {part: at and at.replace(tzinfo=timezone.utc) for part, at in expected.items()}
    assert bool(rows) is bool(expected)


def test_rows_above_an_id_are_wanted_whether_they_have_changed_or_not(mastodon: MastodonDatabase) -> None:
    for row_id in (7, 8, 9):
        mastodon.insert("accounts", {**OLD, **ACCOUNT, "id": row_id})
    rows = mastodon.rows(Selection("accounts", changed_since=SINCE, all_above=7))
    assert [row["id"] for row in rows] == [8, 9]
    assert len(changed_objects("accounts", rows[0], SINCE, all_above=7)) == 3
    assert changed_objects("accounts", rows[0], SINCE, all_above=8) == ()


def test_a_row_without_the_columns_of_later_versions_is_understood() -> None:
    row = {"id": 1, "file_file_name": "a.png", "created_at": AFTER}
    assert [change.stored.key for change in changed_objects("media_attachments", row, SINCE)] == [
        "media_attachments/files/000/000/001/original/a.png"
    ]
