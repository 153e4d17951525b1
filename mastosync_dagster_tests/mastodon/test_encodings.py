"""Databases in another encoding than UTF-8, through the resource that runs use."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg2
import pytest

from mastosync_dagster.environment import DATABASE
from mastosync_dagster.mastodon import Database, DatabaseReadError, Selection, stored_objects, walk_rows
from mastosync_dagster.mastodon.id_ranges import IdRange
from mastosync_dagster.mastodon.table_sizes import subset_size
from mastosync_dagster.resources import MastodonDatabase
from mastosync_dagster_tests.mastodon.conftest import SCHEMAS, STATUSES
from mastosync_dagster_tests.support.corners import create_database_in, drop_database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster.demo.servers.start import PostgresServer

_NAME = "bïld\xa0ß.png"
"""A file name that LATIN1 has too."""


@pytest.fixture(params=["SQL_ASCII", "LATIN1", "UTF8"])
def encoded(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PostgresServer]:
    """A Mastodon's database in an encoding, with a row of each kind of name."""
    server = create_database_in(postgres_server, request.param)
    for name in DATABASE.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("MASTOSYNC_ENV_FILE", raising=False)
    monkeypatch.setenv("DATABASE_URL", server.url)
    try:
        with contextlib.closing(psycopg2.connect(server.url)) as admin, admin, admin.cursor() as cursor:
            admin.set_client_encoding("UTF8")
            cursor.execute(SCHEMAS["main"].read_text() + STATUSES)
            cursor.execute(
                "INSERT INTO site_uploads (id, var, file_file_name, file_content_type, created_at, updated_at) VALUES"
                " (1, 'a', %s, 'image/png', now(), now()), (2, 'b', '\t ', 'image/png', now(), now())",
                (_NAME,),
            )
        yield server
    finally:
        drop_database(server)


def test_rows_are_read_whatever_the_database_is_encoded_in(encoded: PostgresServer) -> None:
    assert encoded.database
    with MastodonDatabase().session() as connect:
        with contextlib.closing(connect()) as connection:
            assert connection.encoding == "UTF8"
        database = Database.open(connect)
        pages = list(walk_rows(database, Selection("site_uploads")))
        size = subset_size(database, "site_uploads", [IdRange(1, 2)], None)
    (row,) = (row for page in pages for row in page.rows)
    assert row["file_file_name"] == _NAME
    assert _NAME in stored_objects("site_uploads", row)[0].key
    assert size.unchanged.objects == len(stored_objects("site_uploads", row))


def test_text_that_is_not_utf_8_says_what_to_correct(encoded: PostgresServer) -> None:
    with contextlib.closing(psycopg2.connect(encoded.url)) as admin, admin, admin.cursor() as cursor:
        cursor.execute("SHOW server_encoding")
        keeps_any_bytes = cursor.fetchall() == [("SQL_ASCII",)]
        if keeps_any_bytes:
            cursor.execute("UPDATE site_uploads SET file_file_name = E'b\\xefld.png' WHERE id = 1")
    with MastodonDatabase().session() as connect:
        database = Database.open(connect)
        expected = pytest.raises(DatabaseReadError, match=r"text that is not UTF-8 .*: find the row")
        with expected if keeps_any_bytes else contextlib.nullcontext():
            list(walk_rows(database, Selection("site_uploads")))
