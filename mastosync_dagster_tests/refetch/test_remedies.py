"""What can be done about lost objects, with as much of the database as its user may read."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg2
import pytest

from mastosync_dagster.mastodon import Database, Rows, stored_objects
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.refetch import remedies
from mastosync_dagster.refetch.remedies import Remedies
from mastosync_dagster_tests.mastodon.conftest import SCHEMAS, STATUSES, MastodonDatabase, role
from mastosync_dagster_tests.support.manifests import manifest_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster.refetch.remedies import Remedy


@pytest.fixture
def mastodon(database: PostgresServer) -> Iterator[MastodonDatabase]:
    """A database with a remote account and three of its pictures: of a post, of none, and of nobody."""
    with contextlib.closing(psycopg2.connect(database.url)) as admin:
        admin.autocommit = True
        made = MastodonDatabase(server=database, admin=admin)
        made.execute(SCHEMAS["main"].read_text() + STATUSES)
        made.insert("accounts", {"id": 1, "username": "far", "domain": "far.example", "avatar_file_name": "a.png"})
        picture = {"file_file_name": "a.png", "remote_url": "https://far.example/a.png"}
        made.insert("media_attachments", {"id": 1, "account_id": 1, "status_id": 7, **picture})
        made.insert("media_attachments", {"id": 2, "account_id": 1, **picture}, {"id": 3, **picture})
        yield made


def lost(database: Database, table: str) -> list[Remedy]:
    """Return what can be done if every original of a table is lost."""
    with Rows(database, table) as rows:
        objects = [(row["id"], stored) for row in rows.of([1, 2, 3]) for stored in stored_objects(table, row)]
    lines = [
        manifest_line(
            row_id, group=table, key=stored.key, outcome=Outcome.MISSING, part=f"{stored.attachment}/{stored.style}"
        )
        for row_id, stored in objects
    ]
    return list(Remedies("", database).of(table, lines))


def advice(mastodon: MastodonDatabase, *hidden: str) -> dict[str, list[tuple[str | None, str]]]:
    """Return commands and words for a user who may read all but some columns of accounts."""
    shown = ", ".join(sorted(mastodon.schema().columns["accounts"].difference(hidden)))
    grants = ["SELECT ON media_attachments, statuses", f"SELECT ({shown}) ON accounts"]
    with role(mastodon, *grants) as connection:
        dsn = connection.dsn
        database = Database.open(lambda: psycopg2.connect(dsn, password="secret word"), ["media_attachments"])
        return {
            table: [(remedy.command, remedy.words) for remedy in lost(database, table)]
            for table in ("accounts", "media_attachments")
        }


def test_handles_are_in_the_commands(mastodon: MastodonDatabase) -> None:
    assert advice(mastodon) == {
        "accounts": [("tootctl accounts refresh far@far.example", remedies.FETCH_AGAIN)],
        "media_attachments": [
            ("tootctl media refresh --status 7 --force", remedies.FETCH_AGAIN),
            ("tootctl media refresh --account far@far.example --force", remedies.FETCH_AGAIN),
            (None, remedies.NO_POST),
        ],
    }


def test_without_the_column_of_handles_the_words_say_which_row_it_is(mastodon: MastodonDatabase) -> None:
    assert advice(mastodon, "username") == {
        "accounts": [(None, remedies.NO_HANDLE)],
        "media_attachments": [
            ("tootctl media refresh --status 7 --force", remedies.FETCH_AGAIN),
            (None, remedies.NO_HANDLE),
            (None, remedies.NO_POST),
        ],
    }
    assert "accounts.username" in remedies.NO_HANDLE
