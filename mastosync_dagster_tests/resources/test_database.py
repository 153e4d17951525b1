"""The database as a resource, without a tunnel: settings, precedence and errors against a real PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg2
import pytest

from mastosync_dagster.demo.servers.start import LOOPBACK, free_port, postgres
from mastosync_dagster.environment import MissingSettingError, SettingsError
from mastosync_dagster.resources import ConnectionFailedError, MastodonDatabase, Secret
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster.demo.servers.start import PostgresServer


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
def test_the_time_limit_of_a_connection_may_come_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_CONNECT_TIMEOUT", "7")
    with MastodonDatabase().session() as connect, contextlib.closing(connect()) as connection:
        assert connection.info.dsn_parameters["connect_timeout"] == "7"
    with MastodonDatabase(connect_timeout=5).session() as connect, contextlib.closing(connect()) as connection:
        assert connection.info.dsn_parameters["connect_timeout"] == "5"
    monkeypatch.setenv("DB_CONNECT_TIMEOUT", "soon")
    assert "DB_CONNECT_TIMEOUT" in failure(MastodonDatabase())


@pytest.mark.parametrize(
    ("where", "rule"), [("socket", "local all all peer"), (LOOPBACK, "host all all 127.0.0.1/32 ident")]
)
def test_a_server_that_asks_the_operating_system_who_it_is_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, where: str, rule: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="mastosync-pg-") as folder:
        socket_folder = Path(folder) / "socket"
        socket_folder.mkdir()
        Path(folder).chmod(0o755)
        socket_folder.chmod(0o777)
        with postgres(Path(folder), f"unix_socket_directories={socket_folder}") as server:
            (Path(folder) / "data" / "pg_hba.conf").write_text(f"{rule}\n")
            os.kill(server.pid, signal.SIGHUP)
            monkeypatch.setenv("DB_HOST", where if where == LOOPBACK else str(socket_folder))
            monkeypatch.setenv("DB_PORT", str(server.port))
            monkeypatch.setenv("DB_USER", "nobody_here")
            wait_until(lambda: "authentication failed for user" in failure(MastodonDatabase()))
            message = failure(MastodonDatabase())
    assert "run mastosync as that user, or name a role that has a password, at the host 127.0.0.1" in message
    assert "DB_HOST" in message
    assert "DB_USER" in message


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
    monkeypatch.setenv("MASTOSYNC_SECRET_URL", database.url)
    monkeypatch.setenv("DB_PORT", str(free_port()))
    assert ask(MastodonDatabase(database_url=Secret(env="MASTOSYNC_SECRET_URL"))) == database.database
    assert variables["DB_NAME"] == database.database


@pytest.mark.usefixtures("variables")
def test_a_password_may_come_from_a_variable_that_is_made_for_it(
    database: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASS", "wrong")
    monkeypatch.setenv("MASTOSYNC_SECRET_OTHER", database.password)
    assert ask(MastodonDatabase(password=Secret(env="MASTOSYNC_SECRET_OTHER"))) == database.database


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
    assert "MASTOSYNC_ENV_FILE" not in message
    assert "MASTOSYNC_ENV_FILE, which names the file with such settings, is not set." in failure(MastodonDatabase())
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
        ({"DB_HOST": "no-such-host.invalid"}, "the name no-such-host.invalid cannot be resolved", ["DB_HOST"]),
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


URL = "postgresql://mastodon:secret@db.example/mastodon?"
URL_NAME = "DATABASE_URL (or resources.mastodon_db.config.database_url)"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DB_PORT", "5432x", "DB_PORT (or resources.mastodon_db.config.port) must be a whole number from 1 to 65535."),
        ("DB_PORT", "0", "must be a whole number from 1 to 65535"),
        ("DB_SSLMODE", "on", "DB_SSLMODE (or resources.mastodon_db.config.sslmode) must be one of disable, allow"),
        ("DATABASE_URL", f"{URL}connect_timeout=soon", f"connect_timeout in {URL_NAME} must be a whole number from 1"),
        ("DATABASE_URL", f"{URL}sslmode=on", f"sslmode in {URL_NAME} must be one of disable, allow"),
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
        "postgresql://mastodon:s3cret%ff@db.example/mastodon",
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


@contextlib.contextmanager
def asking_for_the_password_in_clear() -> Iterator[tuple[int, list[bytes]]]:
    """Answer one client as a server that wants the password in clear; yields the port, and what the client sends."""
    heard: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                while data := connection.recv(4096):
                    heard.append(data)
                    # Eight bytes ask for TLS or GSS, which this server does not have.
                    connection.sendall(b"N" if len(data) == 8 else b"R\x00\x00\x00\x08\x00\x00\x00\x03")

    with socket.create_server(("0.0.0.0", 0)) as listener:  # noqa: S104  (an address that is not loopback's)
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1], heard
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


ELSEWHERE = "0.0.0.0"  # noqa: S104  (it leads to this machine, and does not look so)


@pytest.mark.long(cases=4)
@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
@pytest.mark.parametrize(
    ("variables", "fields"),
    [
        ({"DB_HOST": ELSEWHERE}, {}),
        ({"DB_HOST": f"127.0.0.1,{ELSEWHERE}"}, {}),
        ({"DATABASE_URL": f"postgresql://u:s3cret@{ELSEWHERE}/d"}, {}),
        ({"DATABASE_URL": f"postgresql://u:s3cret@localhost/d?hostaddr={ELSEWHERE}"}, {}),
        ({"DB_HOST": ELSEWHERE, "PGREQUIREAUTH": "scram-sha-256"}, {}),
        # Another port of this machine may be anybody's.
        ({"DB_HOST": "127.0.0.1"}, {"port": True}),
        ({}, {"host": ELSEWHERE, "password": Secret(env="MASTOSYNC_SECRET_X")}),
        ({}, {"host": "127.0.0.1", "password": Secret(env="MASTOSYNC_SECRET_X")}),
    ],
)
def test_whoever_asks_for_the_password_in_clear_does_not_get_it_over_a_way_that_is_not_verified(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], fields: dict[str, object], sslmode: str
) -> None:
    monkeypatch.setenv("DB_PASS", "s3cret")
    monkeypatch.setenv("MASTOSYNC_SECRET_X", "s3cret")
    monkeypatch.setenv("DB_SSLMODE", sslmode)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with asking_for_the_password_in_clear() as (port, heard):
        fields = {name: port if value is True else value for name, value in fields.items()}
        monkeypatch.setenv("DB_PORT", str(port))
        message = failure(MastodonDatabase.model_validate(fields), "s3cret")
    assert b"s3cret" not in b"".join(heard)
    if "," not in variables.get("DB_HOST", ""):  # the first of two fails for another reason
        assert "a cleartext password" in message
        assert "Check DB_SSLMODE (or resources.mastodon_db.config.sslmode). It was not sent" in message


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ELSEWHERE])
def test_an_admin_may_send_the_password_in_clear(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    with asking_for_the_password_in_clear() as (port, heard):
        allowed = "?require_auth=password" if host == ELSEWHERE else ""
        monkeypatch.setenv("DATABASE_URL", f"postgresql://u:s3cret@{host}:{port}/d{allowed}")
        failure(MastodonDatabase(), "s3cret")
    assert b"s3cret" in b"".join(heard)


@pytest.mark.usefixtures("variables")
def test_a_server_that_is_not_verified_still_takes_scram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_HOST", ELSEWHERE)
    assert ask(MastodonDatabase(), "SELECT current_setting('password_encryption')") == "scram-sha-256"


@pytest.mark.parametrize("url", [False, True])
@pytest.mark.parametrize(
    "fields",
    [{"host": "db.evil.example"}, {"ssh_tunnel_host": "ssh.evil.example"}, {"host": "db", "ssh_tunnel_host": "s"}],
)
def test_a_host_in_run_config_gets_no_password_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], *, url: bool
) -> None:
    monkeypatch.setenv("DB_PASS", "s3cret")
    if url:
        monkeypatch.setenv("DATABASE_URL", "postgresql://u:s3cret@db.example/d")
    field = f"resources.mastodon_db.config.{next(iter(fields))}"
    message = failure(MastodonDatabase.model_validate(fields), "s3cret")
    assert message == (
        f"Run config sets {field}, and credentials of the environment are not sent to it: set "
        "resources.mastodon_db.config.password there too, a secret as {env: MASTOSYNC_SECRET_…}."
    )
    for name in ("DB_PASS", "DATABASE_URL", "PATH"):
        message = failure(MastodonDatabase.model_validate({**fields, "password": Secret(env=name)}), "s3cret")
        assert "resources.mastodon_db.config.password must name an environment variable" in message


def test_an_ssh_server_in_run_config_gets_no_key_or_password_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("s3cret")
    for name in ("SSH_TUNNEL_PASSWORD", "SSH_TUNNEL_KEY_PASSPHRASE", "MASTOSYNC_SECRET_X"):
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("SSH_TUNNEL_KEY_FILE", str(tmp_path / "key"))
    given = {"ssh_tunnel_host": "ssh.evil.example", "password": Secret(env="MASTOSYNC_SECRET_X")}
    assert failure(MastodonDatabase.model_validate(given), "s3cret") == (
        "Run config sets resources.mastodon_db.config.ssh_tunnel_host, and credentials of the environment are not sent "
        "to it: set resources.mastodon_db.config.ssh_tunnel_password there too, "
        "a secret as {env: MASTOSYNC_SECRET_…}."
    )
    given["ssh_tunnel_password"] = Secret(env="SSH_TUNNEL_PASSWORD")
    message = failure(MastodonDatabase.model_validate(given), "s3cret")
    assert "resources.mastodon_db.config.ssh_tunnel_password must name an environment variable" in message


def test_a_url_in_run_config_goes_without_the_password_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASS", "s3cret")
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    with asking_for_the_password_in_clear() as (port, heard):
        monkeypatch.setenv("MASTOSYNC_SECRET_URL", f"postgresql://u@127.0.0.1:{port}/d")
        failure(MastodonDatabase(database_url=Secret(env="MASTOSYNC_SECRET_URL")), "s3cret")
    assert b"s3cret" not in b"".join(heard)


def test_a_host_in_run_config_is_not_given_what_libpq_finds_by_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".pgpass").write_text("*:*:*:*:s3cret\n")
    (tmp_path / ".pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / ".pgpass"))
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@localhost/d?require_auth=password&password=s3cret")
    with asking_for_the_password_in_clear() as (port, heard):
        monkeypatch.setenv("MASTOSYNC_SECRET_X", "other")
        given = {"host": "127.0.0.1", "port": port, "password": Secret(env="MASTOSYNC_SECRET_X")}
        failure(MastodonDatabase.model_validate(given), "s3cret")
    assert b"s3cret" not in b"".join(heard)
    monkeypatch.delenv("DATABASE_URL")
    with asking_for_the_password_in_clear() as (port, heard):
        failure(MastodonDatabase(host="127.0.0.1", port=port), "s3cret")
    assert b"s3cret" not in b"".join(heard)


def test_a_host_in_run_config_with_its_password_there_is_reached(
    database: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASS", "wrong")
    monkeypatch.setenv("MASTOSYNC_SECRET_X", database.password)
    given = {"host": database.host, "port": database.port, "dbname": database.database, "user": database.user}
    assert (
        ask(MastodonDatabase.model_validate({**given, "password": Secret(env="MASTOSYNC_SECRET_X")})) == given["dbname"]
    )


def test_a_password_with_a_line_break_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASS", "s3cret\nvalue")
    message = failure(MastodonDatabase(), "s3cret")
    assert message.startswith("DB_PASS (or resources.mastodon_db.config.password) holds a line break")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hun%0Ater2@localhost/d")
    assert failure(MastodonDatabase(), "ter2").startswith("DATABASE_URL (or resources.mastodon_db.config.database_url)")


def test_a_variable_that_a_field_names_must_be_set() -> None:
    with pytest.raises(MissingSettingError) as caught:
        ask(MastodonDatabase(password=Secret(env="MASTOSYNC_SECRET_X")))
    says = "MASTOSYNC_SECRET_X is not set; resources.mastodon_db.config.password reads it."
    assert str(caught.value).startswith(says)


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


@pytest.mark.usefixtures("variables")
def test_a_server_that_is_going_down_may_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(8)
                    connection.sendall(b"Ecould not fork new process for connection\n\0")

        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setenv("DB_HOST", LOOPBACK)
        monkeypatch.setenv("DB_PORT", str(server.getsockname()[1]))
        with pytest.raises(ConnectionFailedError) as caught:
            ask(MastodonDatabase(sslmode="require"))
        assert not caught.value.permanent
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize(
    ("reply", "says", "permanent"),
    [
        (b"", "SSL SYSCALL error: EOF detected", False),
        (b"\x15\x03\x03\x00\x02\x02\x50", "alert internal error", False),
        (b"\x15\x03\x03\x00\x02\x02\x30", "alert unknown ca", True),
    ],
)
def test_a_server_that_goes_away_in_the_middle_of_tls_may_be_asked_again(
    monkeypatch: pytest.MonkeyPatch, reply: bytes, says: str, *, permanent: bool
) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(8)
                    connection.sendall(b"S")
                    connection.recv(4096)  # what TLS begins with
                    connection.sendall(reply)

        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setenv("DB_HOST", LOOPBACK)
        monkeypatch.setenv("DB_PORT", str(server.getsockname()[1]))
        with pytest.raises(ConnectionFailedError, match=says) as caught:
            ask(MastodonDatabase(sslmode="require"))
        assert caught.value.permanent is permanent
        assert ("Check DB_HOST" in str(caught.value)) is not permanent
