"""Single rows are read by their ids; rows with private files can be walked alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.mastodon import NotMastodonError, PrivateRows, Rows, Selection

if TYPE_CHECKING:
    from mastosync_dagster_tests.mastodon.conftest import MastodonDatabase

SNOWFLAKE = 112129661230994955


@pytest.fixture
def media(mastodon: MastodonDatabase) -> MastodonDatabase:
    """Media of an active and of a suspended account."""
    mastodon.insert("accounts", {"id": 1, "username": "a"}, {"id": 2, "suspended_at": "2024-01-01"})
    for row_id, account in ((1, 1), (2, 2), (5, None), (SNOWFLAKE, 2)):
        mastodon.insert(
            "media_attachments",
            {"id": row_id, "account_id": account, "file_file_name": "a.png", "remote_url": "https://remote.example/a"},
        )
    mastodon.insert("media_attachments", {"id": 6, "account_id": 2})
    return mastodon


def test_rows_come_by_their_ids_with_the_columns_that_are_asked_for(media: MastodonDatabase) -> None:
    database = media.database("media_attachments")
    with Rows(database, "media_attachments", more_columns=["status_id", "no_such_column"]) as rows:
        found = {row["id"]: row for row in rows.of([SNOWFLAKE, 1, 4])}
        assert found.keys() == {1, SNOWFLAKE}
        assert found[1]["file_file_name"] == "a.png"
        assert found[1]["status_id"] is None
        assert {row_id: row["private"] for row_id, row in found.items()} == {1: False, SNOWFLAKE: True}
        assert sorted(row["id"] for row in rows.within([(1, 5), (4, 10)])) == [1, 2, 5, 5, 6]
        assert list(rows.of([])) == []


def test_thousands_of_ids_take_a_few_queries(media: MastodonDatabase) -> None:
    media.execute(
        "INSERT INTO media_attachments (id, created_at, updated_at)"
        " SELECT id, '2023-01-01', '2023-01-01' FROM generate_series(1000, 21000) id"
    )
    with Rows(media.database("media_attachments"), "media_attachments") as rows:
        assert len(list(rows.of(range(1000, 21_000, 2)))) == 10_000


def test_rows_with_private_files_can_be_walked_alone(media: MastodonDatabase) -> None:
    assert media.ids(Selection("media_attachments", private_only=True)) == [2, SNOWFLAKE]
    assert media.ids(Selection("accounts", private_only=True)) == []
    media.insert("backups", {"id": 3, "dump_file_name": "a.zip"}, {"id": 4})
    assert media.ids(Selection("backups", private_only=True)) == [3]


def test_of_some_rows_those_that_are_private_are_found_and_of_no_others(media: MastodonDatabase) -> None:
    media.execute("INSERT INTO statuses (id, deleted_at) VALUES (7, '2024-01-01')")
    media.insert("media_attachments", {"id": 8, "account_id": 1, "status_id": 7, "file_file_name": "a.png"})
    with PrivateRows(media.database("media_attachments"), "media_attachments") as rows:
        assert rows.among({1, 2}) == {2}
        assert rows.among({1, 8}) == {8}
        assert rows.among({1, 5}) == set()


def test_an_absent_table_is_named(media: MastodonDatabase) -> None:
    with pytest.raises(NotMastodonError, match="no table imports"):
        Rows(media.database(), "imports")
