"""What a database has of Mastodon is found out once, and said plainly where it is not Mastodon's."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import psycopg2
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from mastosync_dagster.mastodon import Database, DatabaseReadError, NotMastodonError, Selection, read_schema, walk_rows
from mastosync_dagster_tests.mastodon.conftest import role

if TYPE_CHECKING:
    from collections.abc import Callable

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


@pytest.mark.parametrize(
    ("change", "absent"),
    [
        ("ALTER TABLE media_attachments DROP account_id", "media_attachments has no column account_id"),
        ("ALTER TABLE media_attachments RENAME status_id TO post_id", "media_attachments has no column status_id"),
        ("DROP TABLE statuses", "it has no table statuses"),
        ("ALTER TABLE statuses RENAME id TO number", "statuses has no column id"),
        ("ALTER TABLE statuses DROP deleted_at", "statuses has no column deleted_at"),
        ("ALTER TABLE accounts RENAME suspended_at TO suspended_on", "accounts has no column suspended_at"),
        (
            "ALTER TABLE accounts DROP suspended_at, DROP requested_deletion_at",
            "accounts has no column suspended_at",
        ),
    ],
)
def test_what_says_that_objects_are_private_must_be_there(
    own_mastodon: MastodonDatabase, change: str, absent: str
) -> None:
    """Else nothing would be private."""
    own_mastodon.execute(change)
    with pytest.raises(NotMastodonError, match=f"{absent}, without which .* media_attachments are private"):
        own_mastodon.schema("media_attachments")
    with pytest.raises(NotMastodonError, match=absent):
        own_mastodon.schema()
    assert own_mastodon.schema("custom_emojis").has("custom_emojis")


def test_a_table_that_says_what_is_private_is_looked_for_in_other_schemas(own_mastodon: MastodonDatabase) -> None:
    own_mastodon.execute("CREATE SCHEMA elsewhere; ALTER TABLE statuses SET SCHEMA elsewhere")
    with pytest.raises(NotMastodonError, match=r'no table statuses.* in the schema "elsewhere"') as error:
        own_mastodon.schema("media_attachments")
    cure = re.search(r": (ALTER [^;]*)", str(error.value))
    assert cure, str(error.value)
    own_mastodon.execute(cure[1])
    try:
        assert own_mastodon.schema("media_attachments").namespaces["statuses"] == "elsewhere"
    finally:
        own_mastodon.execute(re.sub("SET search_path = .*", "RESET search_path", cure[1]))


@pytest.mark.parametrize(
    ("views", "absent"),
    [
        (["media_attachments", "accounts"], "it has no table statuses"),
        (["media_attachments", "statuses"], "it has no table accounts"),
        (["media_attachments", "statuses", "accounts-suspended_at"], "accounts has no column suspended_at"),
        (
            ["media_attachments", "statuses", "accounts-requested_deletion_at"],
            "the view accounts has no column requested_deletion_at, which a table of that name has",
        ),
        (["media_attachments", "statuses", "accounts"], None),
    ],
)
def test_views_must_show_what_says_that_objects_are_private(
    own_mastodon: MastodonDatabase, views: list[str], absent: str | None
) -> None:
    columns = own_mastodon.schema().columns
    own_mastodon.execute("CREATE SCHEMA shown")
    for view in views:
        table, _, without = view.partition("-")
        shown = ", ".join(columns[table] - {without})
        own_mastodon.execute(f"CREATE VIEW shown.{table} AS SELECT {shown} FROM public.{table}")  # noqa: S608  (of a list)
    with role(own_mastodon, "USAGE ON SCHEMA shown", "SELECT ON ALL TABLES IN SCHEMA shown") as connection:
        own_mastodon.execute("ALTER ROLE somebody SET search_path = shown")
        with contextlib.closing(psycopg2.connect(connection.dsn, password="secret word")) as again:
            if absent is None:
                assert read_schema(again, ["media_attachments"]).has("statuses", "deleted_at")
            else:
                with pytest.raises(NotMastodonError, match=f"{absent}.* media_attachments are private"):
                    read_schema(again, ["media_attachments"])


@pytest.mark.parametrize("type_name", ["numeric", "text"])
def test_ids_of_another_type_are_refused(own_mastodon: MastodonDatabase, type_name: str) -> None:
    own_mastodon.execute(f"ALTER TABLE preview_cards ALTER id DROP DEFAULT, ALTER id TYPE {type_name}")
    with pytest.raises(NotMastodonError, match=rf"preview_cards\.id is {type_name}, not bigint"):
        own_mastodon.schema("preview_cards")
    assert own_mastodon.schema("accounts").has("accounts")


@pytest.mark.parametrize("table", ["media_attachments", "accounts"])
def test_a_materialized_view_is_refused_as_one(own_mastodon: MastodonDatabase, table: str) -> None:
    own_mastodon.execute(f"ALTER TABLE {table} RENAME TO kept; CREATE MATERIALIZED VIEW {table} AS SELECT * FROM kept")  # noqa: S608  (of a list)
    with pytest.raises(NotMastodonError, match=f"{table} is a materialized view"):
        own_mastodon.schema("media_attachments")


@pytest.mark.parametrize("table", ["media_attachments", "accounts", "statuses"])
def test_row_level_security_is_named_for_every_table_that_is_used(own_mastodon: MastodonDatabase, table: str) -> None:
    """Rows that it hides would be taken for deleted, or for public."""
    own_mastodon.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; CREATE POLICY half ON {table} USING (id > 9)")
    assert own_mastodon.schema("media_attachments").has(table)
    with role(own_mastodon, "SELECT ON ALL TABLES IN SCHEMA public") as connection:
        with pytest.raises(DatabaseReadError, match=f"row-level security hides rows of {table} from") as error:
            read_schema(connection, ["media_attachments"])
        assert "GRANT" not in str(error.value)
        assert read_schema(connection, ["custom_emojis"]).has("custom_emojis")
        cure = re.search(r"ALTER ROLE \S+ BYPASSRLS", str(error.value))
        assert cure, str(error.value)
        own_mastodon.execute(cure[0])
        assert read_schema(connection, ["media_attachments"]).has(table)


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


@pytest.mark.parametrize(("schema", "path"), [("public", '"public"'), ("own_mastodon", '"own_mastodon", "public"')])
def test_tables_outside_of_the_search_path_are_said_to_be_there_with_the_path_to_set(
    own_mastodon: MastodonDatabase, schema: str, path: str
) -> None:
    if schema != "public":
        own_mastodon.execute(f"ALTER SCHEMA public RENAME TO {schema}")
    own_mastodon.execute(f'ALTER DATABASE "{own_mastodon.server.database}" SET search_path = absent')
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
