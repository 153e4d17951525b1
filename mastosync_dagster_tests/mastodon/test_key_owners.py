"""From a key back to the rows that may have it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mastosync_dagster.mastodon.key_owners import owners
from mastosync_dagster.mastodon.objects import stored_objects
from mastosync_dagster_tests.mastodon.cases import paperclip_cases


def within(row_id: int, ids: tuple[tuple[int, int], ...]) -> bool:
    return any(lo <= row_id <= hi for lo, hi in ids)


@given(st.one_of(st.just(-99), st.integers(0, 2**63 - 1), st.integers(0, 18).flatmap(lambda n: st.integers(0, 10**n))))
@example(999_999_999)
@example(10**9)
@example(10**11)
@example(2**63 - 1)
def test_every_key_and_candidate_of_a_row_leads_back_to_it(row_id: int) -> None:
    row = {
        "id": row_id,
        "domain": "remote.example",
        "avatar_file_name": "a.gif",
        "avatar_content_type": "image/gif",
        "avatar_storage_schema_version": 1,
    }
    for stored in stored_objects("accounts", row):
        for key in (stored.key, *stored.candidates):
            found = owners(key)
            assert found is not None
            assert found.table == "accounts"
            assert within(row_id, found.ids), key


@pytest.mark.parametrize(
    ("key", "row_id"),
    [
        ("accounts/avatars/000/000/001/original/a.png", 1),
        ("cache/accounts/headers/109/123/456/789/012/345/static/a.png", 109_123_456_789_012_345),
        ("accounts/avatars/000/000/original/a.png", -99),
        ("media_attachments/files/001/234/567/890/small/x", 1_234_567_890),
        ("site_uploads/files/000/000/007/144/x.png", 7),
        ("site_uploads/files/000/000/007/@1x/x.png", 7),
        ("backups/dumps/000/000/012/original/archive.zip", 12),
        ("accounts/avatars/000/000/001/stray", 1),
    ],
)
def test_the_folder_names_the_row(key: str, row_id: int) -> None:
    found = owners(key)
    assert found is not None
    assert found.row_id == row_id


@pytest.mark.parametrize(
    "key",
    [
        "",
        "accounts",
        "accounts/avatars/",
        "accounts/avatars/other",
        "accounts/avatars/000/other",
        "accounts/avatars/000/000/001/",
        "accounts/avatars/000/000/000/001/",
        "accounts/elsewhere/000/000/001/original/a.png",
        "people/avatars/000/000/001/original/a.png",
        "cache/backups/dumps/000/000/001/original/a.zip",
        "cache/cache/accounts/avatars/000/000/001/original/a.png",
        "prefix/accounts/avatars/000/000/001/original/a.png",
        "accounts/avatars/\u0660\u0660\u0660/\u0660\u0660\u0660/\u0660\u0660\u0661/original/a.png",
        "accounts/avatars/00/000/001/original/a.png",
        "/accounts/avatars/000/000/001/original/a.png",
    ],
)
def test_other_peoples_keys_are_nobodys(key: str) -> None:
    assert owners(key) is None


def test_the_keys_that_paperclip_made_lead_back_to_their_rows() -> None:
    for case in paperclip_cases():
        row_id = case.row["id"]
        assert isinstance(row_id, int)
        for key in case.keys:
            found = owners(key)
            assert found is not None, key
            assert (found.table, within(row_id, found.ids)) == (case.table, True), key
