"""A row says where its file comes from, and of which type it must be."""

from __future__ import annotations

import pytest

from mastosync_dagster.mastodon import TABLES, remote_file, remote_file_columns
from mastosync_dagster.refetch.magic_bytes import _PATTERNS

URL = "https://remote.example/a"
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("table", "part", "row", "accepted"),
    [
        ("media_attachments", "file/original", {"remote_url": URL, "file_content_type": "image/png"}, 16 * MIB),
        ("media_attachments", "file/original", {"remote_url": URL, "file_content_type": "video/mp4"}, 99 * MIB),
        ("media_attachments", "file/original", {"remote_url": URL, "file_content_type": "audio/mpeg"}, 99 * MIB),
        (
            "media_attachments",
            "thumbnail/original",
            {"thumbnail_remote_url": URL, "thumbnail_content_type": "image/jpeg"},
            16 * MIB,
        ),
        ("accounts", "avatar/original", {"avatar_remote_url": URL, "avatar_content_type": "image/webp"}, 8 * MIB),
        ("accounts", "header/original", {"header_remote_url": URL, "header_content_type": "image/gif"}, 8 * MIB),
        ("custom_emojis", "image/original", {"image_remote_url": URL, "image_content_type": "image/png"}, 256 * 1024),
    ],
)
def test_a_file_must_be_of_the_rows_own_type(table: str, part: str, row: dict[str, object], accepted: int) -> None:
    found = remote_file(table, row, part)
    assert found is not None
    (content_type,) = (value for name, value in row.items() if name.endswith("content_type"))
    assert (found.url, dict(found.accepted)) == (URL, {content_type: accepted})
    assert set(row) <= set(remote_file_columns(table))


@pytest.mark.parametrize(
    ("table", "part", "row"),
    [
        ("media_attachments", "file/small", {"remote_url": URL}),
        ("accounts", "avatar/static", {"avatar_remote_url": URL}),
        ("accounts", "avatar/original", {"avatar_remote_url": None, "header_remote_url": URL}),
        ("accounts", "header/original", {"header_remote_url": ""}),
        ("custom_emojis", "image/original", {"image_remote_url": " \t"}),
        ("custom_emojis", "image/original", {}),
        ("preview_cards", "image/original", {"url": URL}),
        ("site_uploads", "file/original", {"remote_url": URL}),
    ],
)
def test_what_is_made_here_or_has_no_address_cannot_be_had(table: str, part: str, row: dict[str, object]) -> None:
    assert remote_file(table, row, part) is None


def test_without_a_type_any_that_mastodon_takes_will_do_and_of_an_odd_one_none() -> None:
    row = {"remote_url": URL, "file_content_type": None}
    anything = remote_file("media_attachments", row, "file/original")
    assert anything is not None
    assert {"image/png", "video/mp4", "audio/mpeg"} <= anything.accepted.keys()
    assert not {"image/svg+xml", "text/html", "application/pdf"} & anything.accepted.keys()
    # It is known of each how its files begin.
    assert anything.accepted.keys() <= _PATTERNS.keys()
    odd = remote_file("media_attachments", {**row, "file_content_type": "text/html"}, "file/original")
    assert odd is not None
    assert not odd.accepted


def test_the_columns_are_those_of_the_table() -> None:
    assert remote_file_columns("custom_emojis") == ("image_remote_url", "image_content_type")
    assert [table for table in TABLES if remote_file_columns(table)] == [
        "media_attachments",
        "accounts",
        "custom_emojis",
    ]
