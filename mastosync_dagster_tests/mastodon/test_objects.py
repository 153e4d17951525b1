"""A row's objects have the keys that Mastodon's Paperclip gives them, and the candidates that history left behind."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest

from mastosync_dagster.mastodon import TABLES, RowError, is_remote, stored_objects
from mastosync_dagster_tests.mastodon.cases import Case, paperclip_cases

ID = 112129661230994955
PARTITION = "112/129/661/230/994/955"
MEDIA = f"media_attachments/files/{PARTITION}"
URL = "https://there.example/1.jpg"


def media(**columns: object) -> dict[str, object]:
    """A local picture, complete, with other values where they are given."""
    return {
        "id": ID,
        "file_file_name": "a.png",
        "file_content_type": "image/png",
        "file_file_size": 12345,
        "file_storage_schema_version": 1,
        "processing": 2,
        "remote_url": "",
        **columns,
    }


def keys(table: str, row: dict[str, object]) -> dict[str, list[str]]:
    """Style (with its attachment) to key and candidates."""
    return {
        f"{stored.attachment}/{stored.style}": [stored.key, *stored.candidates] for stored in stored_objects(table, row)
    }


@pytest.mark.parametrize("case", paperclip_cases(), ids=lambda case: case.name)
def test_keys_are_those_of_paperclip(case: Case) -> None:
    objects = stored_objects(case.table, case.row)
    assert tuple(stored.key for stored in objects) == case.keys
    for stored in objects:
        tried = [stored.key, *stored.candidates]
        assert len(set(tried)) == len(tried)


def test_the_cases_are_of_every_table() -> None:
    assert {case.table for case in paperclip_cases()} == set(TABLES)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(media(), {"original": ["original/a.png"], "small": ["small/a.png"]}, id="a local row: none"),
        pytest.param(
            media(file_content_type="image/gif", file_file_name="a.gif"),
            {"original": ["original/a.gif"], "small": ["small/a.png", "small/a.gif"]},
            id="a GIF's small one was a GIF once",
        ),
        pytest.param(
            media(file_content_type="image/gif", file_file_name="a.png"),
            {"original": ["original/a.png"], "small": ["small/a.png"]},
            id="never twice the same",
        ),
        pytest.param(
            media(file_content_type="image/gif", file_file_name="media"),
            {"original": ["original/media"], "small": ["small/media.png", "small/media"]},
            id="a GIF without an extension",
        ),
        pytest.param(
            media(file_content_type="image/avif", file_file_name="a.avif"),
            {"original": ["original/a.avif"], "small": ["small/a.jpeg", "small/a.avif"]},
            id="an AVIF's small one was an AVIF once",
        ),
        pytest.param(
            media(file_content_type="image/avif", file_file_name="a.jpeg"),
            {"original": ["original/a.jpeg"], "small": ["small/a.jpeg"]},
            id="an AVIF that is named otherwise",
        ),
        pytest.param(
            media(file_content_type="video/webm", file_file_name="a.webm", processing=1),
            {"original": ["original/a.webm", "original/a.mp4"], "small": ["small/a.png"]},
            id="a video in processing",
        ),
        pytest.param(
            media(file_content_type="video/mp4", file_file_name="a.mp4", processing=0),
            {"original": ["original/a.mp4"], "small": ["small/a.png"]},
            id="a video in processing that keeps its name",
        ),
        pytest.param(
            media(file_content_type="audio/x-wav", file_file_name="a.wav", processing=3),
            {"original": ["original/a.wav", "original/a.mp3"]},
            id="a sound whose processing failed",
        ),
        pytest.param(
            media(file_content_type="video/x-ms-asf", file_file_name="a.wma", processing=0),
            {"original": ["original/a.wma", "original/a.mp3"]},
            id="Mastodon takes video/x-ms-asf for sound",
        ),
        pytest.param(
            media(file_content_type="audio/x-wav", file_file_name="a.wav", processing=None),
            {"original": ["original/a.wav"]},
            id="a sound that is complete",
        ),
    ],
)
def test_candidates_of_local_media(row: dict[str, object], expected: dict[str, list[str]]) -> None:
    assert keys("media_attachments", row) == {
        f"file/{style}": [f"{MEDIA}/{name}" for name in names] for style, names in expected.items()
    }


@pytest.mark.parametrize("version", [None, 0, 1, 2])
def test_a_remote_row_is_also_looked_for_on_the_other_side_of_cache(version: int | None) -> None:
    row = media(remote_url=URL, file_storage_schema_version=version)
    first, second = ("cache/", "") if version else ("", "cache/")
    assert keys("media_attachments", row) == {
        f"file/{style}": [f"{first}{MEDIA}/{style}/a.png", f"{second}{MEDIA}/{style}/a.png"]
        for style in ("original", "small")
    }


def test_candidates_combine_with_the_likelier_name_first() -> None:
    row = media(remote_url=URL, file_content_type="image/gif", file_file_name="a.gif")
    assert keys("media_attachments", row)["file/small"] == [
        f"cache/{MEDIA}/small/a.png",
        f"{MEDIA}/small/a.png",
        f"cache/{MEDIA}/small/a.gif",
        f"{MEDIA}/small/a.gif",
    ]
    row = media(remote_url=URL, file_content_type="video/webm", file_file_name="a.webm", processing=0)
    assert keys("media_attachments", row)["file/original"] == [
        f"cache/{MEDIA}/original/a.webm",
        f"{MEDIA}/original/a.webm",
        f"cache/{MEDIA}/original/a.mp4",
        f"{MEDIA}/original/a.mp4",
    ]


def test_ids_of_ten_and_eleven_digits_are_also_looked_for_where_3_4_put_them() -> None:
    card = {"id": 1234567890, "image_file_name": "a.png", "image_storage_schema_version": 1}
    assert keys("preview_cards", card)["image/original"] == [
        "cache/preview_cards/images/001/234/567/890/original/a.png",
        "preview_cards/images/001/234/567/890/original/a.png",
        "cache/preview_cards/images/123/456/789/original/a.png",
        "preview_cards/images/123/456/789/original/a.png",
    ]
    assert keys("backups", {"id": 12345678901, "dump_file_name": "a.zip"})["dump/original"] == [
        "backups/dumps/012/345/678/901/original/a.zip",
        "backups/dumps/123/456/789/original/a.zip",
    ]
    assert len(keys("backups", {"id": 123456789012, "dump_file_name": "a.zip"})["dump/original"]) == 1


def test_remote_thumbnails_are_found_before_and_after_4_6() -> None:
    thumbnail = f"media_attachments/thumbnails/{PARTITION}/original/t.png"
    before = media(remote_url=URL, thumbnail_file_name="t.png")  # has no thumbnail_storage_schema_version
    assert keys("media_attachments", before)["thumbnail/original"] == [thumbnail, f"cache/{thumbnail}"]
    after = {**before, "thumbnail_storage_schema_version": 1}
    assert keys("media_attachments", after)["thumbnail/original"] == [f"cache/{thumbnail}", thumbnail]


def test_avatar_and_header_have_versions_of_their_own() -> None:
    row: dict[str, object] = {"id": 7, "domain": "there.example", "avatar_file_name": "a.png"}
    row |= {"header_file_name": "h.png", "avatar_storage_schema_version": 1}
    assert {part: tried[0] for part, tried in keys("accounts", row).items()} == {
        "avatar/original": "cache/accounts/avatars/000/000/007/original/a.png",
        "header/original": "accounts/headers/000/000/007/original/h.png",
    }


@pytest.mark.parametrize(
    ("table", "row", "remote"),
    [
        ("media_attachments", {"remote_url": URL}, True),
        ("media_attachments", {"remote_url": " \u3000\n"}, False),
        ("media_attachments", {"remote_url": ""}, False),
        ("media_attachments", {"remote_url": None}, False),
        ("accounts", {"domain": "there.example"}, True),
        ("accounts", {"domain": ""}, True),
        ("accounts", {"domain": None, "avatar_remote_url": URL}, False),
        ("custom_emojis", {"domain": ""}, True),
        ("custom_emojis", {"domain": None, "image_remote_url": URL}, False),
        ("preview_cards", {}, True),
        ("site_uploads", {}, False),
        ("backups", {}, False),
        ("imports", {}, False),
        ("preview_card_providers", {"domain": "there.example"}, False),
    ],
)
def test_what_makes_a_row_remote(table: str, row: dict[str, object], *, remote: bool) -> None:
    assert is_remote(table, row) is remote


@pytest.mark.parametrize(("var", "count"), [("thumbnail", 3), ("favicon", 4), ("app_icon", 19), ("mascot", 1)])
def test_site_uploads_have_styles_by_what_they_are_for(var: str, count: int) -> None:
    objects = stored_objects("site_uploads", {"id": 3, "var": var, "file_file_name": "a.jpg", "file_file_size": 5})
    assert len(objects) == count
    assert objects[0].key == "site_uploads/files/000/000/003/original/a.jpg"
    assert {stored.key.rpartition("/")[2] for stored in objects[1:]} <= {"a.png"}
    assert [stored.may_be_absent for stored in objects] == [False] + [var == "thumbnail"] * (count - 1)


def test_an_app_icon_has_the_sizes_of_both_worlds() -> None:
    styles = [
        stored.style for stored in stored_objects("site_uploads", {"id": 3, "var": "app_icon", "file_file_name": "a"})
    ]
    assert ",".join(styles) == "original,57,60,72,76,114,120,144,152,167,180,1024,36,48,96,192,256,384,512"


@pytest.mark.parametrize(
    ("written", "absent"),
    [
        (datetime(2017, 12, 31, 23, 59), True),  # noqa: DTZ001  (as the column has it)
        (datetime(2018, 1, 1), False),  # noqa: DTZ001  (as above)
        (datetime(2018, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))), True),
        ("2017-04-05 06:07:08", True),
        ("2023-01-02T03:04:05Z", False),
        (None, False),
    ],
)
def test_the_still_picture_of_an_old_gif_may_be_absent(written: object, *, absent: bool) -> None:
    row = {"id": 7, "avatar_file_name": "a.gif", "avatar_content_type": "image/gif", "avatar_updated_at": written}
    original, still = stored_objects("accounts", row)
    assert (original.may_be_absent, still.may_be_absent) == (False, absent)


@pytest.mark.parametrize(("processing", "unfinished"), [(0, True), (1, True), (3, True), (2, False), (None, False)])
def test_the_original_of_media_in_processing_is_unfinished(processing: int | None, *, unfinished: bool) -> None:
    row = media(file_content_type="video/webm", file_file_name="a.webm", processing=processing)
    row |= {"thumbnail_file_name": "t.png"}
    assert {
        f"{stored.attachment}/{stored.style}": stored.unfinished for stored in stored_objects("media_attachments", row)
    } == {
        "file/original": unfinished,
        "file/small": False,
        "thumbnail/original": False,
    }


def test_the_size_is_the_originals() -> None:
    row = media(thumbnail_file_name="t.png", thumbnail_file_size=77)
    sizes = {f"{stored.attachment}/{stored.style}": stored.size for stored in stored_objects("media_attachments", row)}
    assert sizes == {"file/original": 12345, "file/small": None, "thumbnail/original": 77}


@pytest.mark.parametrize("name", [None, "", "  ", "\t\n", "\u00a0\u3000"])
def test_a_row_without_a_file_name_has_no_objects_whatever_else_it_says(name: str | None) -> None:
    assert stored_objects("media_attachments", media(file_file_name=name, remote_url=URL)) == ()


def test_columns_that_a_version_lacks_may_be_absent() -> None:
    assert keys("media_attachments", {"id": 5, "file_file_name": "a.png"}) == {
        "file/original": ["media_attachments/files/000/000/005/original/a.png"]
    }
    assert stored_objects("custom_emojis", {"id": 5}) == ()


def test_blank_parts_of_a_name_leave_no_dot() -> None:
    row = media(file_file_name="\u3000.gif", file_content_type="video/mp4")
    assert keys("media_attachments", row)["file/small"] == [f"{MEDIA}/small/png"]
    assert keys("media_attachments", media(file_file_name="a. "))["file/small"] == [f"{MEDIA}/small/a"]


def test_the_key_prefix_stands_before_keys_and_candidates() -> None:
    for stored in stored_objects("media_attachments", media(remote_url=URL), "/our/media"):
        assert stored.key.startswith("our/media/cache/media_attachments/")
        assert stored.candidates == (stored.key.replace("cache/", ""),)


def test_any_mapping_is_a_row() -> None:
    row = media()
    assert stored_objects("media_attachments", MappingProxyType(row)) == stored_objects("media_attachments", row)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": None}, "without an id"),
        ({"id": "5"}, "id is str, not an integer"),
        ({"id": 5.0}, "id is float, not an integer"),
        ({"id": True}, "id is bool, not an integer"),
        ({"file_file_name": b"a.png"}, "file_file_name is bytes, not text"),
        ({"file_file_name": 5}, "file_file_name is int, not text"),
        ({"file_content_type": 5}, "file_content_type is int, not text"),
        ({"file_file_size": "12"}, "file_file_size is str, not an integer"),
        ({"remote_url": True}, "remote_url is bool, not text"),
        ({"remote_url": URL, "file_storage_schema_version": "1"}, "file_storage_schema_version is str, not an integer"),
        ({"processing": "complete"}, "processing is str, not an integer"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(columns: dict[str, object], message: str) -> None:
    with pytest.raises(RowError, match=message) as error:
        stored_objects("media_attachments", media(**columns))
    assert "media_attachments" in str(error.value)


@pytest.mark.parametrize("written", ["soon", 2017, b"2017-01-01"])
def test_a_time_that_is_none_is_named(written: object) -> None:
    row: dict[str, Any] = {"id": 7, "header_file_name": "a.gif", "header_content_type": "image/gif"}
    with pytest.raises(RowError, match=r"accounts row 7: header_updated_at is .*, not a point in time"):
        stored_objects("accounts", row | {"header_updated_at": written})


@pytest.mark.parametrize("function", [stored_objects, is_remote])
def test_an_unknown_table_is_refused_with_the_known_ones(function: Any) -> None:
    with pytest.raises(ValueError, match=r"'statuses'.*media_attachments.*preview_card_providers"):
        function("statuses", {"id": 1})
