"""What a database has of Mastodon is found out once, and said plainly where it is not Mastodon's."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import psycopg2
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from mastosync_dagster.mastodon import Database, DatabaseReadError, NotMastodonError, Selection, read_schema, walk_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster_tests.mastodon.conftest import MastodonDatabase

_BEFORE_4_2 = "ALTER TABLE accounts DROP indexable"
_BEFORE_4_0 = "ALTER TABLE site_uploads DROP blurhash"
_BEFORE_3_5 = "DROP TABLE preview_card_providers"
_BEFORE_3_2 = "ALTER TABLE media_attachments DROP file_storage_schema_version, DROP thumbnail_file_name"
_BEFORE_3_0 = "ALTER TABLE custom_emojis DROP category_id"


@pytest.mark.parametrize(
    ("version", "has_not", "guess"),
    [
        ("v3.5.0", {"media_attachments": "thumbnail_storage_schema_version", "site_uploads": "blurhash"}, "3.5"),
        ("v4.2.0", {"media_attachments": "thumbnail_storage_schema_version"}, "4.2"),
        ("main", {}, "4.7 or newer"),
    ],
)
def test_tables_and_columns_of_a_version_are_found(
    database_of_version: Callable[[str], MastodonDatabase], version: str, has_not: dict[str, str], guess: str
) -> None:
    schema = database_of_version(version).schema()
    assert schema.has("media_attachments", "id", "file_file_name", "processing", "thumbnail_file_name")
    assert schema.has("preview_card_providers") is True
    assert schema.has("imports") is (version != "main")
    assert not schema.has("statuses")
    for table, column in has_not.items():
        assert not schema.has(table, column)
    assert schema.guess_version() == guess


@pytest.mark.parametrize(
    ("changes", "guess"),
    [
        ("ALTER TABLE accounts ADD attribution_domains text", "4.3"),
        ("ALTER TABLE accounts ADD attribution_domains text; DROP TABLE imports", "4.4 or 4.5"),
        ("ALTER TABLE media_attachments ADD thumbnail_storage_schema_version int", "4.6"),
        ("ALTER TABLE accounts ADD requested_deletion_at timestamp", "4.7 or newer"),
        (_BEFORE_4_2, "4.0 or 4.1"),
        (f"{_BEFORE_4_2}; {_BEFORE_4_0}", "3.5"),
        (f"{_BEFORE_4_2}; {_BEFORE_4_0}; {_BEFORE_3_5}", "3.2 to 3.4"),
        (f"{_BEFORE_4_2}; {_BEFORE_4_0}; {_BEFORE_3_5}; {_BEFORE_3_2}", "3.0 or 3.1"),
        (f"{_BEFORE_4_2}; {_BEFORE_4_0}; {_BEFORE_3_5}; {_BEFORE_3_2}; {_BEFORE_3_0}", "before 3.0"),
    ],
)
def test_the_version_is_guessed_by_what_came_and_went(
    database_of_version: Callable[[str], MastodonDatabase], changes: str, guess: str
) -> None:
    mastodon = database_of_version("v4.2.0")
    mastodon.execute(changes)
    assert mastodon.schema().guess_version() == guess


def test_a_database_that_is_not_mastodons_is_refused_with_all_that_is_absent(database: PostgresServer) -> None:
    with contextlib.closing(psycopg2.connect(database.url)) as connection:
        with pytest.raises(NotMastodonError) as error:
            read_schema(connection)
        assert connection.info.transaction_status == TRANSACTION_STATUS_IDLE
    message = str(error.value)
    for table in ("media_attachments", "accounts", "custom_emojis", "preview_cards"):
        assert f"it has no table {table}" in message
    for optional in ("imports", "backups", "site_uploads", "preview_card_providers", "statuses"):
        assert optional not in message
    assert database.database in message
    assert "DATABASE_URL or DB_NAME" in message
    assert database.password not in message


@pytest.mark.parametrize(
    ("change", "absent"),
    [
        ("ALTER TABLE accounts DROP avatar_file_name, DROP domain", "accounts has no column domain, avatar_file_name"),
        ("ALTER TABLE media_attachments DROP file_content_type", "media_attachments has no column file_content_type"),
        ("ALTER TABLE custom_emojis RENAME id TO number", "custom_emojis has no column id"),
    ],
)
def test_a_needed_column_that_is_absent_is_named(own_mastodon: MastodonDatabase, change: str, absent: str) -> None:
    own_mastodon.execute(change)
    with pytest.raises(NotMastodonError, match=f"{absent}[.;]"):
        own_mastodon.schema()


def test_only_tables_that_are_asked_for_must_be_there(own_mastodon: MastodonDatabase) -> None:
    own_mastodon.execute("DROP TABLE preview_cards")
    assert own_mastodon.schema("accounts").has("accounts")
    with pytest.raises(NotMastodonError, match="it has no table imports"):
        own_mastodon.schema("accounts", "imports")
    with pytest.raises(NotMastodonError, match="preview_cards"):
        own_mastodon.schema()


@pytest.mark.parametrize("usage", ["USAGE ON SCHEMA elsewhere", ""])
def test_tables_in_another_schema_are_found_and_the_statement_in_the_message_is_the_cure(
    own_mastodon: MastodonDatabase, usage: str
) -> None:
    own_mastodon.execute("ALTER SCHEMA public RENAME TO elsewhere; CREATE SCHEMA public")
    grants = ["SELECT ON ALL TABLES IN SCHEMA elsewhere", *([usage] if usage else [])]
    with role(own_mastodon, *grants) as connection:
        for _ in range(2 - bool(usage)):  # without the right to use the schema, that comes first
            with pytest.raises(NotMastodonError, match='in the schema "elsewhere"') as error:
                read_schema(connection)
            cure = re.search(r": ((?:ALTER|GRANT) [^;]*)", str(error.value))
            assert cure, str(error.value)
            own_mastodon.execute(cure[1])
        with contextlib.closing(psycopg2.connect(connection.dsn, password="secret word")) as again:
            assert read_schema(again).namespaces["accounts"] == "elsewhere"
        own_mastodon.execute("ALTER ROLE somebody RESET ALL")


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


@pytest.mark.parametrize(
    ("table", "grants", "hidden"),
    [
        ("custom_emojis", ["SELECT ON accounts"], "table custom_emojis"),
        ("custom_emojis", ["INSERT ON custom_emojis"], "table custom_emojis"),
        ("media_attachments", ["SELECT ON media_attachments"], "table accounts, table statuses"),
        ("media_attachments", ["SELECT ON media_attachments, accounts"], "table statuses"),
        (
            "media_attachments",
            ["SELECT ON media_attachments, accounts", "SELECT (id) ON statuses"],
            "statuses.deleted_at",
        ),
        (
            "media_attachments",
            ["SELECT ON media_attachments, statuses", "SELECT (id, suspended_at) ON accounts"],
            "accounts.requested_deletion_at",
        ),
        (
            "preview_cards",
            ["SELECT (id, created_at, image_file_name, image_updated_at, image_file_size) ON preview_cards"],
            "preview_cards.image_content_type, preview_cards.image_storage_schema_version",
        ),
    ],
)
def test_what_the_user_may_not_read_is_not_taken_for_absent(
    mastodon: MastodonDatabase, table: str, grants: list[str], hidden: str
) -> None:
    """Else the media of suspended accounts would be taken for public."""
    with role(mastodon, *grants) as connection:
        with pytest.raises(DatabaseReadError) as error:
            read_schema(connection, [table])
        assert f"does not let its user read {hidden}. GRANT SELECT" in str(error.value)
        assert "DATABASE_URL or DB_USER" in str(error.value)


def test_a_user_needs_no_rights_but_to_the_tables_and_columns_that_are_used(mastodon: MastodonDatabase) -> None:
    grants = (
        "SELECT ON media_attachments",
        "SELECT (id, suspended_at, requested_deletion_at) ON accounts",
        "SELECT (id, deleted_at) ON statuses",
    )
    with role(mastodon, *grants) as connection:
        assert read_schema(connection, ["media_attachments"]).has("statuses", "deleted_at")


def test_tables_are_those_that_come_first_in_the_search_path_and_stay_so(own_mastodon: MastodonDatabase) -> None:
    def set_search_path(path: str) -> None:
        own_mastodon.execute(f'ALTER DATABASE "{own_mastodon.server.database}" SET search_path = {path}')

    own_mastodon.insert("accounts", {"id": 5, "avatar_file_name": "a.png"})
    own_mastodon.execute(
        "ALTER SCHEMA public RENAME TO own_mastodon; CREATE SCHEMA public; CREATE TABLE public.accounts (id int)"
    )
    set_search_path("absent, own_mastodon, public")
    schema = own_mastodon.schema()
    set_search_path("public")
    (page,) = walk_rows(Database(own_mastodon.connect, schema), Selection("accounts"))
    assert [row["id"] for row in page.rows] == [5]
    with pytest.raises(NotMastodonError, match="accounts has no column"):
        own_mastodon.schema()


@pytest.mark.parametrize(("schema", "path"), [("public", '"public"'), ("own_mastodon", '"own_mastodon", public')])
def test_tables_outside_of_the_search_path_are_said_to_be_there_with_the_path_to_set(
    own_mastodon: MastodonDatabase, schema: str, path: str
) -> None:
    if schema != "public":
        own_mastodon.execute(f"ALTER SCHEMA public RENAME TO {schema}")
    own_mastodon.execute(f'ALTER DATABASE "{own_mastodon.server.database}" SET search_path = pg_catalog')
    with contextlib.closing(own_mastodon.connect()) as connection, pytest.raises(NotMastodonError) as caught:
        read_schema(connection, ["accounts"])
    assert f"SET search_path = {path};" in str(caught.value)


@pytest.mark.parametrize("autocommit", [True, False])
def test_no_transaction_is_left_open_and_the_connections_mode_is_kept(
    mastodon: MastodonDatabase, *, autocommit: bool
) -> None:
    with contextlib.closing(mastodon.connect()) as connection:
        connection.autocommit = autocommit
        read_schema(connection)
        assert connection.info.transaction_status == TRANSACTION_STATUS_IDLE
        assert connection.autocommit is autocommit


def test_a_table_without_attachments_is_refused(mastodon: MastodonDatabase) -> None:
    with pytest.raises(ValueError, match=re.escape("no attachments in 'statuses'")):
        mastodon.schema("statuses")
