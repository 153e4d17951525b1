"""Settings with something else in them than they take, such as a URL with its password: no message repeats it."""

from __future__ import annotations

import os
import re

import pytest

from mastosync_dagster.demo.servers.start import LOOPBACK, free_port
from mastosync_dagster.environment import SettingsError
from mastosync_dagster.resources import ConnectionFailedError, MastodonDatabase

SECRET = "s3cr3t"
URL = f"postgresql://mastodon:{SECRET}@{LOOPBACK}:5432/mastodon_production"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("DB_", "DATABASE_", "SSH_TUNNEL_", "MASTOSYNC_", "PG")):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DB_HOST", LOOPBACK)
    monkeypatch.setenv("DB_PORT", str(free_port()))


def failure(**fields: str) -> str:
    """Return the message with which a connection fails, after a look for the secret in it and in what caused it."""
    database = MastodonDatabase.model_validate(fields)
    with pytest.raises((ConnectionFailedError, SettingsError)) as caught, database.session() as connect:
        connect()
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return str(caught.value)


@pytest.mark.parametrize("password", ["", SECRET])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_HOST", URL),
        ("DB_HOST", f"mastodon:{SECRET}@db.example"),
        ("DB_HOST", f"mastodon:{SECRET}"),
        ("DB_HOST", f"//mastodon:{SECRET}@db.example/mastodon"),
        ("DB_HOST", f"//mastodon:{SECRET}/+@db.example/mastodon"),
        ("DB_HOST", f"host=db.example password={SECRET}"),
        ("DB_HOST", f"db.example/mastodon?password={SECRET}"),
        ("DB_HOST", f"{LOOPBACK},mastodon:{SECRET}@db.example"),
        ("DB_NAME", URL),
        ("DB_NAME", f"mastodon:{SECRET}@db.example/mastodon"),
        ("DB_NAME", f"mastodon:{SECRET}"),
        ("DB_NAME", f"dbname=mastodon PASSWORD = {SECRET}"),
        ("DB_NAME", f"mastodon?password={SECRET}"),
        ("DB_USER", URL),
        ("DB_USER", f"mastodon:{SECRET}"),
        ("DB_USER", f"user=mastodon password={SECRET}"),
    ],
)
def test_what_holds_a_password_by_mistake_is_refused_by_name_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, password: str
) -> None:
    monkeypatch.setenv("DB_PASS", password)
    monkeypatch.setenv(name, value)
    message = failure()
    assert message.startswith(f"{name} (or resources.mastodon_db.config.")
    assert ("holds a URL: put it into DATABASE_URL" in message) is (value == URL)
    assert "\n" not in message


@pytest.mark.parametrize("name", ["dbname", "user"])
def test_a_field_that_holds_a_password_is_not_repeated_either(name: str) -> None:
    assert failure(**{name: URL}) == f"resources.mastodon_db.config.{name} holds a URL: put it into DATABASE_URL."


def test_a_user_of_the_url_that_holds_a_password_is_named_as_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://mastodon%3A{SECRET}@{LOOPBACK}:{free_port()}/mastodon")
    assert failure().startswith("user in DATABASE_URL (or resources.mastodon_db.config.database_url) holds more")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSH_TUNNEL_HOST", f"ssh://tunnel:{SECRET}@ssh.example"),
        ("SSH_TUNNEL_HOST", f"tunnel:{SECRET}@ssh.example"),
        ("SSH_TUNNEL_HOST", f"tunnel:{SECRET}"),
        ("SSH_TUNNEL_HOST", f"{SECRET}@ssh.example"),
        ("SSH_TUNNEL_KEY_FILE", f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n"),
        ("SSH_TUNNEL_KEY_FILE", f"LS0tLS1CRUdJTiBPUEVOU1NIIFBSSVZBVEUgS0VZLS0tLS0K{SECRET}"),
    ],
)
def test_what_holds_a_secret_in_a_setting_of_the_tunnel_is_refused_by_name_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("SSH_TUNNEL_HOST", LOOPBACK)
    monkeypatch.setenv("SSH_TUNNEL_PORT", str(free_port()))
    monkeypatch.setenv("SSH_TUNNEL_PASSWORD", "x")
    monkeypatch.setenv("SSH_TUNNEL_USER", "tunnel")
    monkeypatch.setenv("SSH_TUNNEL_KNOWN_HOSTS", os.devnull)
    monkeypatch.setenv(name, value)
    assert failure().startswith(f"{name} (or resources.mastodon_db.config.{name.lower()}) holds ")


@pytest.mark.parametrize(
    "host",
    ["::1", "fe80::1%lo", "db-1.example_intern", "127.0.0.1,::1", "/cloudsql/project:europe-west1:db", "@abstract"],
)
def test_every_form_of_a_host_is_taken(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("DB_HOST", host)
    monkeypatch.setenv("DB_CONNECT_TIMEOUT", "1")
    assert " holds " not in failure()


@pytest.mark.parametrize("user", ["mastodon@server", "postgres.project", "a b"])
def test_users_of_hosted_databases_are_taken(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    monkeypatch.setenv("DB_USER", user)
    assert re.search("Connection refused", failure())
