"""Rows as expected objects: what a verification has found is matched by the key at the destination."""

from __future__ import annotations

import pytest

from mastosync_dagster.expected.objects import Sizes, items_of
from mastosync_dagster.expected.privacy import KnownState

FOLDER = "media_attachments/files/000/000/007/original"
DONE, UNDER_WAY = 2, 1


@pytest.mark.parametrize(
    ("processing", "damaged", "again"),
    [
        (DONE, "a.mov", True),
        (DONE, "a.mp4", False),
        (UNDER_WAY, "a.mov", True),
        (UNDER_WAY, "a.mp4", True),
        (UNDER_WAY, "b.mp4", False),
    ],
)
def test_an_object_found_damaged_is_copied_again_under_the_key_that_it_has(
    processing: int,
    damaged: str,
    again: bool,  # noqa: FBT001  (a row of the table)
) -> None:
    row = {
        "id": 7,
        "file_file_name": "a.mov",
        "file_content_type": "video/quicktime",
        "processing": processing,
        "private": False,
    }
    keys = frozenset({f"{FOLDER}/{damaged}"})
    original, *_ = items_of("media_attachments", row, KnownState(again=keys), Sizes())
    assert (original.key, original.again, original.check_acl) == (f"{FOLDER}/a.mov", again, False)
    original, *_ = items_of("media_attachments", row, KnownState(check_acl=keys), Sizes())
    assert (original.again, original.check_acl) == (False, again)
