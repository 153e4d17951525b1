"""The database as a resource, without a tunnel: settings, precedence and errors against a real PostgreSQL."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg2
import pytest

from mastosync_dagster.demo.servers import LOOPBACK, free_port
from mastosync_dagster.environment import MissingSettingError, SettingsError
from mastosync_dagster.resources import ConnectionFailedError, MastodonDatabase, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster.demo.servers import PostgresServer


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*MastodonDatabase.VARIABLES.values(), "MASTOSYNC_ENV_FILE", *os.environ]:
        if name.startswith(("DB_", "DATABASE_", "SSH_TUNNEL_", "MASTOSYNC_", "PG")):
            monkeypatch.delenv(name, raising=False)


@pytest.fixture
def variables(database: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Set the DB_ variables for the test's database."""
    values = {
        "DB_HOST": database.host,
        "DB_PORT": str(database.port),
        "DB_NAME": database.database,
        "DB_USER": database.user,
        "DB_PASS": database.password,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


def ask(resource: MastodonDatabase, query: str = "SELECT current_database()") -> object:
    with resource.session() as connect, contextlib.closing(connect()) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        row = cursor.fetchone()
        assert row is not None
        return row[0]


def failure(resource: MastodonDatabase, *secrets: str) -> str:
    """Return the message with which a connection fails, after a look for secrets in it and in what caused it."""
    with pytest.raises((ConnectionFailedError, SettingsError)) as caught:
        ask(resource)
    error: BaseException | None = caught.value
    while error is not None:
        assert not [secret for secret in secrets if secret in repr(error)]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return str(caught.value)


@pytest.mark.usefixtures("variables")
def test_mastodons_variables_are_enough(database: PostgresServer) -> None:
    assert ask(MastodonDatabase()) == database.database


@pytest.mark.usefixtures("variables")
def test_connections_say_who_they_are_and_send_no_options_which_pgbouncer_refuses() -> None:
    resource = MastodonDatabase()
    name = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    assert ask(resource, name) == "mastosync"
    with resource.session() as connect, contextlib.closing(connect()) as connection:
        assert connection.info.options == ""
        assert connection.info.dsn_parameters["connect_timeout"] == "10"
        assert connection.info.dsn_parameters["keepalives"] == "1"


@pytest.mark.usefixtures("variables")
def test_every_call_opens_a_connection_of_its_own() -> None:
    with (
        MastodonDatabase().session() as connect,
        contextlib.closing(connect()) as one,
        contextlib.closing(connect()) as other,
    ):
        assert one.info.backend_pid != other.info.backend_pid


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
@pytest.mark.parametrize("parameters", ["", "?pool=25&prepared_statements=false&sslmode=prefer&encoding=unicode"])
def test_a_database_url_is_enough_with_parameters_that_only_rails_knows(
    database: PostgresServer, monkeypatch: pytest.MonkeyPatch, scheme: str, parameters: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url.replace("postgresql", scheme, 1) + parameters)
    assert ask(MastodonDatabase()) == database.database


def test_parts_of_the_database_url_win_over_the_variables_and_fields_win_over_both(
    database: PostgresServer, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The URL says nothing about the port, as in Rails the variable then counts.
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{database.user}:{database.password}@{database.host}/postgres")
    assert ask(MastodonDatabase()) == "postgres"
    assert ask(MastodonDatabase(dbname=database.database)) == database.database
    monkeypatch.setenv("OTHER_URL", database.url)
    monkeypatch.setenv("DB_PORT", str(free_port()))
    assert ask(MastodonDatabase(database_url=Secret(env="OTHER_URL"))) == database.database
    assert variables["DB_NAME"] == database.database


@pytest.mark.usefixtures("variables")
def test_a_password_may_come_from_any_variable(database: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASS", "wrong")
    monkeypatch.setenv("ANOTHER_VARIABLE", database.password)
    assert ask(MastodonDatabase(password=Secret(env="ANOTHER_VARIABLE"))) == database.database


def test_settings_may_come_from_mastodons_own_file(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env.production"
    file.write_text("".join(f"{name}='{value}'\n" for name, value in variables.items()))
    for name in variables:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MASTOSYNC_ENV_FILE", str(file))
    assert ask(MastodonDatabase()) == variables["DB_NAME"]
    # What a field names is looked for in the file too.
    assert ask(MastodonDatabase(password=Secret(env="DB_PASS"))) == variables["DB_NAME"]


def test_without_settings_the_defaults_are_those_of_mastodon() -> None:
    message = failure(MastodonDatabase(port=free_port()))
    assert "Cannot connect to the database mastodon_production at localhost:" in message
    assert "as mastodon: Connection refused" in message
    assert "DB_HOST (or resources.mastodon_db.config.host)" in message
    assert "resources.mastodon_db.config.port" in message


@pytest.mark.parametrize(
    ("changed", "said", "check"),
    [
        ({"DB_PASS": "wrong-31d6"}, "password authentication failed for user", ["DB_USER", "DB_PASS"]),
        ({"DB_PASS": ""}, "no password supplied", ["DB_PASS"]),
        ({"DB_NAME": "nowhere"}, 'database "nowhere" does not exist', ["DB_NAME"]),
        ({"DB_USER": "nobody"}, "password authentication failed", ["DB_USER", "DB_PASS"]),
        ({"DB_HOST": "no-such-host.invalid"}, 'could not translate host name "no-such-host.invalid"', ["DB_HOST"]),
        ({"DB_HOST": "/nowhere"}, "No such file or directory", ["DB_HOST", "DB_PORT"]),
        ({"DB_PORT": "closed"}, "Connection refused", ["DB_HOST", "DB_PORT"]),
        ({"DB_SSLMODE": "require"}, "server does not support SSL", ["DB_SSLMODE"]),
    ],
)
@pytest.mark.usefixtures("variables")
def test_a_connection_that_fails_says_why_and_which_variable_to_change(
    database: PostgresServer, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], said: str, check: list[str]
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, str(free_port()) if value == "closed" else value)
    message = failure(MastodonDatabase(), database.password, "wrong-31d6")
    assert said in message
    instruction = message.rpartition("Check ")[2]
    for name in check:
        assert f"{name} (or resources.mastodon_db.config." in instruction
    assert "\n" not in message


@pytest.mark.usefixtures("variables")
def test_what_to_change_is_the_field_or_the_url_where_the_value_came_from_there(
    database: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = failure(MastodonDatabase(dbname="nowhere"))
    assert message.endswith("Check resources.mastodon_db.config.dbname.")
    monkeypatch.setenv("DATABASE_URL", database.url.replace(database.database, "nowhere"))
    message = failure(MastodonDatabase(), database.password)
    assert message.endswith("Check DATABASE_URL (or resources.mastodon_db.config.database_url).")


@pytest.fixture
def tls_only(database: PostgresServer) -> Iterator[None]:
    """Let the server take the test's database only with TLS."""
    with contextlib.closing(psycopg2.connect(database.url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("SHOW hba_file")
        row = cursor.fetchone()
        assert row is not None
        file = Path(row[0])
        before = file.read_text()
        rules = f"hostssl {database.database} all all scram-sha-256\nhost {database.database} all all reject\n"
        file.write_text(rules + before)
        cursor.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            file.write_text(before)
            cursor.execute("SELECT pg_reload_conf()")


@pytest.mark.usefixtures("variables", "tls_only")
def test_a_server_that_wants_tls_points_to_the_ssl_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_SSLMODE", "disable")
    message = failure(MastodonDatabase())
    assert "no encryption" in message
    assert "Check DB_SSLMODE" in message
    assert "pg_hba.conf" in message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DB_PORT", "5432x", "DB_PORT (or resources.mastodon_db.config.port) must be a whole number from 1 to 65535."),
        ("DB_PORT", "0", "must be a whole number from 1 to 65535"),
        ("DB_SSLMODE", "on", "DB_SSLMODE (or resources.mastodon_db.config.sslmode) must be one of disable, allow"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    assert message in failure(MastodonDatabase())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://mastodon:s3cr/et@db.example/mastodon",
        "postgresql://mastodon:s3cr%et@db.example/mastodon",
        "postgresql://mastodon:s3cr@et@db.example/mastodon",
        "postgresql://mastodon:12/s3cret@db.example/mastodon",
        "postgresql://mastodon:s3cret@db.example:port/mastodon",
        "mysql://mastodon:s3cret@db.example/mastodon",
        "host=db.example password=s3cret",
        "s3cret",
    ],
)
def test_a_database_url_that_cannot_be_read_is_refused_without_repeating_it(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    message = failure(MastodonDatabase(), "s3cr", "et@", "%et", "db.example")
    assert message.startswith("DATABASE_URL (or resources.mastodon_db.config.database_url) cannot be read")
    assert "percent-encoded" in message


def test_a_percent_encoded_password_works_in_the_url(database: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    password = "a/b@c:d?e#f%g"
    with contextlib.closing(psycopg2.connect(database.url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("CREATE ROLE encoded LOGIN PASSWORD %s", (password,))
        try:
            where = f"{LOOPBACK}:{database.port}/{database.database}"
            monkeypatch.setenv("DATABASE_URL", f"postgresql://encoded:{quote(password, safe='')}@{where}?pool=5")
            assert ask(MastodonDatabase(), "SELECT current_user") == "encoded"
        finally:
            cursor.execute("DROP ROLE encoded")


def test_a_variable_that_a_field_names_must_be_set() -> None:
    with pytest.raises(MissingSettingError) as caught:
        ask(MastodonDatabase(password=Secret(env="NOT_SET")))
    assert str(caught.value) == "NOT_SET is not set; resources.mastodon_db.config.password reads it."


def test_a_secret_in_the_place_of_a_variables_name_is_not_repeated() -> None:
    message = failure(MastodonDatabase(password=Secret(env="hunter2!")), "hunter2")
    assert "resources.mastodon_db.config.password must name an environment variable" in message


@pytest.mark.usefixtures("variables")
def test_nothing_that_can_be_shown_holds_the_password(database: PostgresServer) -> None:
    resource = MastodonDatabase(password=Secret(env="DB_PASS"))
    with resource.session() as connect, contextlib.closing(connect()) as connection:
        shown = [repr(resource), str(resource), resource.model_dump_json(), repr(connect), connection.dsn]
        shown.append(repr(connection.info.dsn_parameters))
    assert not [text for text in shown if database.password in text]
    assert "DB_PASS" in shown[0]
