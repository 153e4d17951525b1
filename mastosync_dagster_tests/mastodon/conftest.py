"""Mastodon's databases of several versions, on a real PostgreSQL."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extras import Json

import mastosync_dagster.demo
from mastosync_dagster.mastodon import TABLES, Database, Schema, Selection, connection, read_schema, walk_rows
from mastosync_dagster_tests.mastodon.cases import DATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.demo.servers.start import PostgresServer

SCHEMAS = {
    "v3.5.0": DATA / "schema_v3.5.0.sql",
    "v4.2.0": DATA / "schema_v4.2.0.sql",
    "main": Path(mastosync_dagster.demo.__file__).parent / "schema_main.sql",
}

# As far as mastosync knows them; the schemas hold the tables with attachments alone.
STATUSES = "CREATE TABLE statuses (id bigint PRIMARY KEY, text text, deleted_at timestamp without time zone)"

_UNIQUE: Mapping[str, tuple[str, ...]] = {
    "accounts": ("username", "uri"),
    "custom_emojis": ("shortcode",),
    "preview_cards": ("url",),
    "preview_card_providers": ("domain",),
}
_NEEDED: Mapping[str, Mapping[str, object]] = {"imports": {"type": 0, "account_id": 1}}


@dataclass(frozen=True)
class MastodonDatabase:
    """A database of the test's own with Mastodon's tables.

    Attributes:
        server: The server and the database's name.
        admin: A connection in autocommit mode, for what the test does to the database.
    """

    server: PostgresServer
    admin: Connection

    def connect(self) -> Connection:
        """Open a connection, as mastosync's resource does."""
        return psycopg2.connect(self.server.url)

    def execute(self, query: str | sql.Composed, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        with self.admin.cursor() as cursor:
            cursor.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def insert(self, table: str, *rows: Mapping[str, object]) -> None:
        """Insert rows, with values for the columns that Mastodon must have and the test does not care about."""
        for row in rows:
            unique = {column: f"{column}-{row['id']}" for column in _UNIQUE.get(table, ())}
            made = "2023-01-02 03:04:05"
            values = {"created_at": made, "updated_at": made, **unique, **_NEEDED.get(table, {}), **row}
            self.execute(
                sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                    sql.Identifier(table),
                    sql.SQL(", ").join(map(sql.Identifier, values)),
                    sql.SQL(", ").join(sql.Placeholder() * len(values)),
                ),
                *(Json(value) if isinstance(value, dict) else value for value in values.values()),
            )

    def schema(self, *tables: str) -> Schema:
        """Read the schema."""
        with contextlib.closing(self.connect()) as connection:
            return read_schema(connection, tables or None)

    def database(self, *tables: str) -> Database:
        """Return what runs hand down of it."""
        return Database(self.connect, self.schema(*tables))

    def rows(self, selection: Selection, **options: Any) -> list[Mapping[str, object]]:
        """Walk to the end and return the rows of all pages."""
        pages = walk_rows(self.database(selection.table), selection, **options)
        return [row for page in pages for row in page.rows]

    def ids(self, selection: Selection, **options: Any) -> list[object]:
        """Walk to the end and return the ids of the rows of all pages."""
        return [row["id"] for row in self.rows(selection, **options)]

    def terminate_others(self) -> None:
        """End every other session of this database, as a restart or an administrator does."""
        self.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@contextlib.contextmanager
def role(mastodon: MastodonDatabase, *grants: str) -> Iterator[Connection]:
    """Connect as a user who has these rights alone."""
    name, server = "somebody", mastodon.server
    mastodon.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret word'")
    try:
        for grant in grants:
            mastodon.execute(f"GRANT {grant} TO {name}")
        url = f"postgresql://{name}:secret word@{server.host}:{server.port}/{server.database}"
        with contextlib.closing(psycopg2.connect(url)) as connection:
            yield connection
    finally:
        mastodon.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture(autouse=True)
def retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry failed queries three times, without the pauses."""
    monkeypatch.setattr(connection, "_RETRY_DELAYS", (0.01,) * 3)


@pytest.fixture
def database_of_version(database: PostgresServer) -> Iterator[Callable[[str], MastodonDatabase]]:
    """A function that makes the test's own database one of a version of Mastodon."""
    with contextlib.closing(psycopg2.connect(database.url)) as admin:
        admin.autocommit = True

        def create(version: str) -> MastodonDatabase:
            made = MastodonDatabase(server=database, admin=admin)
            made.execute(SCHEMAS[version].read_text() + STATUSES)
            return made

        yield create


@pytest.fixture
def own_mastodon(database_of_version: Callable[[str], MastodonDatabase]) -> MastodonDatabase:
    """A database of Mastodon's main branch whose tables the test may change."""
    return database_of_version("main")


@pytest.fixture(scope="session")
def shared_mastodon(postgres_server: PostgresServer) -> Iterator[MastodonDatabase]:
    """A database of Mastodon's main branch for all tests that leave its tables as they are: use `mastodon`."""
    name = "mastodon_main"
    with contextlib.closing(psycopg2.connect(postgres_server.url)) as creator:
        creator.autocommit = True
        creator.cursor().execute(f'CREATE DATABASE "{name}"')
        server = replace(postgres_server, database=name)
        with contextlib.closing(psycopg2.connect(server.url)) as admin:
            admin.autocommit = True
            made = MastodonDatabase(server=server, admin=admin)
            made.execute(SCHEMAS["main"].read_text() + STATUSES)
            yield made
        creator.cursor().execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def mastodon(shared_mastodon: MastodonDatabase) -> MastodonDatabase:
    """The same, with empty tables."""
    shared_mastodon.execute("TRUNCATE statuses, " + ", ".join(TABLES.keys() - {"imports"}))
    return shared_mastodon
