"""libpq's own variables, which change every connection: they are named where one fails, and never lead it elsewhere."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from mastosync_dagster.demo.servers.start import LOOPBACK, PostgresServer, postgres
from mastosync_dagster.environment import SettingsError
from mastosync_dagster.resources import ConnectionFailedError, MastodonDatabase

SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("DB_", "DATABASE_", "SSH_TUNNEL_", "MASTOSYNC_", "PG")):
            monkeypatch.delenv(name, raising=False)


def failure() -> str:
    with (
        pytest.raises((ConnectionFailedError, SettingsError)) as caught,
        MastodonDatabase().session() as connect,
        contextlib.closing(connect()),
    ):
        pass
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGOPTIONS", "-c no_such_setting=1"),
        ("PGREQUIREAUTH", "md5"),
        ("PGTARGETSESSIONATTRS", "standby"),
        ("PGGSSENCMODE", "require"),
        ("PGSERVICE", "no-such-service"),
        ("PGSSLNEGOTIATION", "direct"),
        ("PGSSLROOTCERT", "system"),
        ("PGCHANNELBINDING", "require"),
    ],
)
def test_a_variable_of_libpq_is_named_where_a_connection_fails(
    monkeypatch: pytest.MonkeyPatch, database: PostgresServer, name: str, value: str
) -> None:
    # The fixture drops the database over libpq, too.
    with monkeypatch.context() as variables:
        variables.setenv("DATABASE_URL", database.url)
        variables.setenv("PGDATA", "/srv/postgresql")  # of the server
        variables.setenv("PGUSER", "overridden")
        variables.setenv(name, value)
        message = failure()
    assert message.endswith(f" The environment also sets {name}, which libpq reads.")


@pytest.mark.parametrize("name", ["PGTARGETSESSIONATTRS", "PGSERVICE", "PGREQUIREAUTH", "PGGSSENCMODE"])
@pytest.mark.parametrize("value", [f"postgresql://u:{SECRET}@db/d", f"u:{SECRET}@db", f"x password={SECRET}"])
def test_no_value_of_a_variable_of_libpq_is_repeated_if_it_may_hold_a_password(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("DB_HOST", LOOPBACK)
    monkeypatch.setenv(name, value)
    message = failure()
    assert name in message
    assert SECRET not in message


def test_a_socket_is_not_left_for_the_address_of_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="mastosync-pg-") as folder:
        sockets = Path(folder) / "socket"
        sockets.mkdir()
        Path(folder).chmod(0o755)
        sockets.chmod(0o777)
        with postgres(Path(folder), f"unix_socket_directories={sockets}") as server:
            monkeypatch.setenv("PGHOSTADDR", "127.0.0.99")
            for name, value in {"PORT": server.port, "USER": server.user, "PASS": server.password}.items():
                monkeypatch.setenv(f"DB_{name}", str(value))
            monkeypatch.setenv("DB_HOST", str(sockets))
            monkeypatch.setenv("DB_NAME", "postgres")
            with (
                MastodonDatabase().session() as connect,
                contextlib.closing(connect()) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute("SELECT inet_server_addr()")
                assert cursor.fetchone() == (None,)


@pytest.mark.parametrize("hosts", ["db1:5432,db2:5433", "db1,db2:5433"])
def test_a_url_that_gives_hosts_their_own_ports_is_not_said_to_have_a_password_at_fault(
    monkeypatch: pytest.MonkeyPatch, hosts: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:{SECRET}@{hosts}/d")
    message = failure()
    assert message.startswith(
        "DATABASE_URL (or resources.mastodon_db.config.database_url) gives several hosts different ports"
    )
    assert "DB_HOST" in message
    assert "DB_PORT" in message
    assert SECRET not in message


def test_what_the_sentence_about_several_hosts_says_works(
    monkeypatch: pytest.MonkeyPatch, database: PostgresServer
) -> None:
    login = f"{database.user}:{database.password}"
    monkeypatch.setenv("DB_PORT", str(database.port))
    same = f"{LOOPBACK}:{database.port},localhost:{database.port}"
    for url, hosts in ((same, ""), (f"{LOOPBACK},localhost", ""), ("", f"localhost,{LOOPBACK}")):
        monkeypatch.setenv("DATABASE_URL", f"postgresql://{login}@{url}/{database.database}")
        monkeypatch.setenv("DB_HOST", hosts)
        with MastodonDatabase().session() as connect, contextlib.closing(connect()) as connection:
            assert connection.info.dbname == database.database
