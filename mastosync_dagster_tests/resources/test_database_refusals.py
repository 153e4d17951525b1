"""What a database's server says while a connection is opened, in any language: which settings are named for it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.demo.servers.start import LOOPBACK
from mastosync_dagster.resources import ConnectionFailedError, MastodonDatabase

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_TLS, _NO_GSS = struct.pack("!I", 80877103), struct.pack("!I", 80877104)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("DB_", "DATABASE_", "SSH_TUNNEL_", "MASTOSYNC_", "PG")):
            monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def refusing(text: bytes, severity: str) -> Iterator[int]:
    """Refuse every client as PostgreSQL does, whose own languages need locales of the system; yields the port."""
    fields = b"".join(b"%c%b\0" % (kind, value) for kind, value in zip(b"SVCM", _fields(text, severity), strict=True))
    answer = b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0"

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    while connection.recv(4096)[4:8] in {_NO_TLS, _NO_GSS}:
                        connection.sendall(b"N")
                    connection.sendall(answer)

    with socket.create_server((LOOPBACK, 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def _fields(text: bytes, severity: str) -> tuple[bytes, ...]:
    return severity.encode(), b"FATAL", b"28P01", text


def refusal(monkeypatch: pytest.MonkeyPatch, text: bytes, severity: str = "FATAL") -> ConnectionFailedError:
    with refusing(text, severity) as port:
        for name, value in {"HOST": LOOPBACK, "PORT": str(port), "PASS": "s3cret"}.items():
            monkeypatch.setenv(f"DB_{name}", value)
        with pytest.raises(ConnectionFailedError) as caught, MastodonDatabase().session() as connect:
            connect()
    return caught.value


@pytest.mark.parametrize(
    ("severity", "text"),
    [
        ("FATAL", "Passwort-Authentifizierung für Benutzer »mastodon« fehlgeschlagen"),
        ("FATAL", "Datenbank »mastodon_production« existiert nicht"),
        ("FATAL", "Rolle »mastodon« existiert nicht"),
        ("FATAL", "authentification par mot de passe échouée pour l'utilisateur « mastodon »"),
        ("ВАЖНО", 'пользователь "mastodon" не прошёл проверку подлинности (по паролю)'),
        ("致命错误", '用户 "mastodon" Password 认证失败'),
        ("FATAL", 'role "mastodon" is not permitted to log in'),
        ("FATAL", 'database "mastodon_production" is not currently accepting connections'),
    ],
)
def test_a_refusal_of_user_or_database_in_any_language_names_them_and_is_permanent(
    monkeypatch: pytest.MonkeyPatch, severity: str, text: str
) -> None:
    error = refusal(monkeypatch, text.encode(), severity)
    assert f"as mastodon: {text}. Check " in str(error)
    assert "DB_USER" in str(error)
    assert "DB_PASS" in str(error)
    assert "DB_NAME" in str(error)
    assert "DB_HOST" not in str(error)
    assert error.permanent


@pytest.mark.parametrize("encoding", ["latin-1", "koi8-r"])
def test_a_refusal_in_another_encoding_is_one_too(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    text = {"latin-1": "Rolle »mastodon« existiert nicht", "koi8-r": 'роль "mastodon" не существует'}[encoding]
    error = refusal(monkeypatch, text.encode(encoding))
    assert "DB_USER" in str(error)
    assert "DB_HOST" not in str(error)
    assert error.permanent


@pytest.mark.parametrize(
    "text",
    [
        "tut mir leid, schon zu viele Verbindungen",
        "das Datenbanksystem startet",
        "sorry, too many clients already",
        "the database system is starting up",
        "the database system is not yet accepting connections",
        'too many connections for role "mastodon"',
        'too many connections for database "mastodon_production"',
        "remaining connection slots are reserved for roles with the SUPERUSER attribute",
    ],
)
def test_a_server_that_takes_no_connection_now_is_asked_again(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    error = refusal(monkeypatch, text.encode())
    assert f"as mastodon: {text}." in str(error)
    assert "DB_HOST" not in str(error)
    assert ("Check" in str(error)) is (text.startswith(("tut", "das")))
    assert not error.permanent
