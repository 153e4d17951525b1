"""A key is an orphan only if no row that may own it expects it when the rows are read again."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg2
import pytest

from mastosync_dagster.expected.orphans import UNKNOWN_STYLE, Orphans, WitnessMissingError
from mastosync_dagster.mastodon import Database, IdRange, stored_objects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.demo.servers.start import PostgresServer

TEN_DIGITS = 1_234_567_890
THIRTEEN_DIGITS = 1_234_567_890_123


@pytest.fixture
def admin(database: PostgresServer) -> Iterator[Connection]:
    """A connection to a database with the table of accounts alone."""
    with contextlib.closing(psycopg2.connect(database.url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, created_at timestamp, updated_at timestamp, domain text,"
            " avatar_file_name text, avatar_content_type text, avatar_updated_at timestamp,"
            " avatar_storage_schema_version int,"
            " header_file_name text, header_content_type text, header_updated_at timestamp)"
        )
        yield connection


def insert(admin: Connection, row_id: int, name: str = "a.png", domain: str | None = "remote.example") -> None:
    admin.cursor().execute(
        "INSERT INTO accounts (id, domain, avatar_file_name, avatar_content_type) VALUES (%s, %s, %s, 'image/gif')",
        (row_id, domain, name),
    )


@contextlib.contextmanager
def orphans(database: PostgresServer, ids: IdRange) -> Iterator[Orphans]:
    accounts = Database.open(lambda: psycopg2.connect(database.url), ["accounts"])
    with Orphans(accounts, "accounts", ids) as found:
        yield found


def keys_of(row_id: int, name: str = "a.png") -> list[str]:
    row = {"id": row_id, "domain": "x", "avatar_file_name": name, "avatar_content_type": "image/gif"}
    return [key for stored in stored_objects("accounts", row) for key in (stored.key, *stored.candidates)]


@pytest.mark.parametrize("row_id", [1, 999_999, TEN_DIGITS, THIRTEEN_DIGITS, 109_123_456_789_012_345, -99])
def test_neither_keys_nor_candidates_of_a_row_are_extra(
    database: PostgresServer, admin: Connection, row_id: int
) -> None:
    keys = keys_of(row_id)
    with orphans(database, IdRange(-100, 2**62)) as found:
        assert found.among(keys) == dict.fromkeys(keys)
        insert(admin, row_id)
        assert found.among(keys) == {}
        assert found.among(keys_of(row_id, "other.png")) == dict.fromkeys(keys_of(row_id, "other.png"))


def test_keys_of_other_rows_are_theirs_who_look_there(database: PostgresServer, admin: Connection) -> None:
    insert(admin, 5)
    keys = [key for row_id in (4, 6, TEN_DIGITS, 109_123_456_789_012_345) for key in keys_of(row_id)]
    with orphans(database, IdRange(1, 5)) as found:
        assert found.among(keys) == dict.fromkeys(keys_of(4))
        assert found.among(keys, (5, 9)) == dict.fromkeys(keys_of(6))
        assert found.among(["accounts/avatars/other", "media_attachments/files/000/000/004/original/a"]) == {}


@dataclass(frozen=True)
class Beside:
    """A key in a folder of row 5, whose avatar is ``9f.tar.png``.

    Attributes:
        key: What follows ``accounts/``.
        remark: Why it must stay; None: it need not.
    """

    key: str
    remark: str | None


@pytest.mark.parametrize(
    "beside",
    [
        Beside("avatars/000/000/005/@2x/9f.tar.png", UNKNOWN_STYLE),
        Beside("avatars/000/000/005/128/9f.tar.webp", UNKNOWN_STYLE),
        Beside("avatars/000/000/005/small/9f.tar", UNKNOWN_STYLE),
        # A format that this version does not know, of a style that it knows.
        Beside("avatars/000/000/005/static/9f.tar.webp", UNKNOWN_STYLE),
        Beside("avatars/000/000/005/@2x/9e.tar.png", None),
        Beside("avatars/000/000/005/@2x/9f.png", None),
        Beside("avatars/000/000/004/@2x/9f.tar.png", None),
        Beside("headers/000/000/005/@2x/9f.tar.png", None),
    ],
    ids=lambda beside: beside.key,
)
@pytest.mark.parametrize("before", ["accounts/", "cache/accounts/"])
def test_what_may_be_a_new_style_of_a_rows_file_must_stay(
    database: PostgresServer, admin: Connection, beside: Beside, before: str
) -> None:
    insert(admin, 5, "9f.tar.png")
    with orphans(database, IdRange(1, 9)) as found:
        assert found.among([before + beside.key]) == {before + beside.key: beside.remark}
        admin.cursor().execute("UPDATE accounts SET avatar_file_name = 'another.png'")
        assert found.among([before + beside.key]) == {before + beside.key: None}


def test_a_row_that_was_there_must_still_be_there(database: PostgresServer, admin: Connection) -> None:
    insert(admin, 5)
    with orphans(database, IdRange(1, 9)) as found:
        assert found.among(keys_of(4), witnesses=[5]) == dict.fromkeys(keys_of(4))
        admin.cursor().execute("TRUNCATE accounts")
        with pytest.raises(WitnessMissingError):
            found.among(keys_of(4), witnesses=[5])
