"""The tunnel to the database: over a real SSH server, to a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import asyncssh
import paramiko
import psutil
import psycopg2
import pytest

from mastosync_dagster.addresses import KnownAddresses
from mastosync_dagster.demo.servers.start import LOOPBACK, free_port
from mastosync_dagster.environment import SettingsError
from mastosync_dagster.resources import ConnectionFailedError, MastodonDatabase
from mastosync_dagster.resources.ssh import settings as tunnel_settings
from mastosync_dagster.resources.ssh import tunnel
from mastosync_dagster.resources.ssh.settings import TunnelSettings
from mastosync_dagster_tests.support.ssh import PASSWORD, USER, SSHServer, hashed, ssh_server, write_key
from mastosync_dagster_tests.support.tcp import silent_port
from mastosync_dagster_tests.support.waiting import slowdown, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import PostgresServer


@pytest.fixture(scope="module")
def ssh() -> Iterator[SSHServer]:
    """An SSH server that takes a password."""
    with ssh_server() as server:
        yield server


@pytest.fixture
def configure(
    monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer, tmp_path: Path
) -> Callable[..., MastodonDatabase]:
    """Set the variables for a database behind an SSH server; more of them by keyword."""

    def set_variables(server: SSHServer, known_hosts: str | None = None, **variables: str) -> MastodonDatabase:
        file = tmp_path / "known_hosts"
        file.write_text(server.known_hosts_line() if known_hosts is None else known_hosts)
        values = {
            "DB_HOST": postgres_server.host,
            "DB_PORT": str(postgres_server.port),
            "DB_NAME": postgres_server.database,
            "DB_USER": postgres_server.user,
            "DB_PASS": postgres_server.password,
            "SSH_TUNNEL_HOST": server.host,
            "SSH_TUNNEL_PORT": str(server.port),
            "SSH_TUNNEL_USER": USER,
            "SSH_TUNNEL_PASSWORD": PASSWORD,
            "SSH_TUNNEL_KNOWN_HOSTS": str(file),
            **variables,
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        return MastodonDatabase()

    return set_variables


def answer(database: MastodonDatabase) -> object:
    """Open a session, connect, and return what the database answers."""
    with database.session() as connect, contextlib.closing(connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 41 + 1")
        row = cursor.fetchone()
        assert row is not None
        return row[0]


def failure(database: MastodonDatabase) -> str:
    """Return the message with which a session fails; it never holds a secret."""
    with pytest.raises((ConnectionFailedError, SettingsError)) as caught:
        answer(database)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert PASSWORD not in repr(chain)
        chain = chain.__cause__
    return str(caught.value)


def test_a_password_opens_the_tunnel(configure: Callable[..., MastodonDatabase], ssh: SSHServer) -> None:
    assert answer(configure(ssh)) == 42
    assert ssh.logins[-1] == USER


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "passphrase"),
    [("ssh-ed25519", None), ("ssh-ed25519", "key-pässphrase"), ("ecdsa-sha2-nistp256", None), ("ssh-rsa", None)],
)
def test_a_key_file_opens_the_tunnel(
    configure: Callable[..., MastodonDatabase], tmp_path: Path, kind: str, passphrase: str | None
) -> None:
    key = asyncssh.generate_private_key(kind)
    file = write_key(key, tmp_path / "key", passphrase=passphrase)
    with ssh_server(password=None, client_keys=[key]) as server:
        database = configure(
            server,
            SSH_TUNNEL_PASSWORD="",
            SSH_TUNNEL_KEY_FILE=str(file),
            SSH_TUNNEL_KEY_PASSPHRASE=passphrase or "",
        )
        assert answer(database) == 42


def test_the_password_is_tried_where_the_key_is_refused(
    configure: Callable[..., MastodonDatabase], tmp_path: Path
) -> None:
    file = write_key(asyncssh.generate_private_key("ssh-ed25519"), tmp_path / "key")
    with ssh_server(client_keys=[asyncssh.generate_private_key("ssh-ed25519")]) as server:
        assert answer(configure(server, SSH_TUNNEL_KEY_FILE=str(file))) == 42


@pytest.mark.parametrize("asks", [False, True])
def test_an_answer_that_comes_before_it_is_waited_for_counts(
    configure: Callable[..., MastodonDatabase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, asks: bool
) -> None:
    send = paramiko.Transport._send_message  # type: ignore[attr-defined]  # the types lack it

    def send_and_dawdle(self: paramiko.Transport, message: paramiko.Message) -> None:
        send(self, message)
        if message.asbytes().startswith(paramiko.common.cMSG_USERAUTH_REQUEST):
            time.sleep(0.3)

    monkeypatch.setattr(paramiko.Transport, "_send_message", send_and_dawdle)
    file = write_key(asyncssh.generate_private_key("ssh-ed25519"), tmp_path / "key")
    with ssh_server(client_keys=[asyncssh.generate_private_key("ssh-ed25519")], asks=asks) as server:
        assert answer(configure(server, SSH_TUNNEL_KEY_FILE=str(file))) == 42
        assert "does not let the user" in failure(configure(server, SSH_TUNNEL_PASSWORD="wrong"))


def test_a_password_that_the_server_asks_for_itself_opens_the_tunnel(
    configure: Callable[..., MastodonDatabase],
) -> None:
    # asyncssh ends a connection that requests the service "ssh-userauth" a second time.
    with ssh_server(asks=True) as server:
        assert answer(configure(server)) == 42
        message = failure(configure(server, SSH_TUNNEL_PASSWORD="wrong"))
        assert f"does not let the user {USER} in" in message
        assert "SSH_TUNNEL_PASSWORD" in message


@pytest.mark.parametrize(
    ("content", "passphrase", "message"),
    [
        (None, "", "key cannot be read: No such file or directory. Check SSH_TUNNEL_KEY_FILE"),
        ("encrypted", "", "key is encrypted, and SSH_TUNNEL_KEY_PASSPHRASE"),
        ("encrypted", "wrong", "key cannot be decrypted: check SSH_TUNNEL_KEY_PASSPHRASE"),
        ("public", "", "key is no private key that can be used (RSA, ECDSA or Ed25519). Check SSH_TUNNEL_KEY_FILE"),
        ("public", "wrong", "key is no private key that can be used"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_named_before_anybody_is_connected(
    configure: Callable[..., MastodonDatabase],
    ssh: SSHServer,
    tmp_path: Path,
    content: str | None,
    passphrase: str,
    message: str,
) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    file = tmp_path / "key"
    if content == "encrypted":
        write_key(key, file, passphrase="right")
    elif content == "public":
        file.write_bytes(key.export_public_key())
    seen = len(ssh.logins)
    assert message in failure(configure(ssh, SSH_TUNNEL_KEY_FILE=str(file), SSH_TUNNEL_KEY_PASSPHRASE=passphrase))
    assert len(ssh.logins) == seen


def test_an_unknown_host_key_is_refused_with_its_fingerprint_and_the_line_to_add(
    configure: Callable[..., MastodonDatabase],
) -> None:
    with ssh_server() as server:
        database = configure(server, known_hosts="")
        message = failure(database)
        assert f"The SSH server {LOOPBACK}:{server.port} is unknown" in message
        assert server.fingerprint() in message
        assert "SSH_TUNNEL_KNOWN_HOSTS (or resources.mastodon_db.config.ssh_tunnel_known_hosts)" in message
        assert f"ssh-keyscan -p {server.port} {LOOPBACK}" in message
        assert server.logins == []
        assert answer(configure(server, known_hosts=message.splitlines()[-1])) == 42


def test_a_changed_host_key_is_refused_before_a_credential_is_sent(
    configure: Callable[..., MastodonDatabase],
) -> None:
    with ssh_server() as server:
        other = asyncssh.generate_private_key("ssh-ed25519")
        message = failure(configure(server, known_hosts="# kept\n" + server.known_hosts_line(key=other)))
        assert "has CHANGED" in message
        assert server.fingerprint() in message
        assert f"{other.get_fingerprint()} in line 2" in message
        assert server.logins == []


def test_a_revoked_host_key_is_refused_although_it_is_listed(configure: Callable[..., MastodonDatabase]) -> None:
    with ssh_server() as server:
        line = server.known_hosts_line()
        assert "revoked" in failure(configure(server, known_hosts=f"{line}@revoked * {line.split(' ', 1)[1]}"))
        assert server.logins == []


def test_a_missing_known_hosts_file_is_named(configure: Callable[..., MastodonDatabase], ssh: SSHServer) -> None:
    message = failure(configure(ssh, SSH_TUNNEL_KNOWN_HOSTS="/nowhere/known_hosts"))
    assert "SSH_TUNNEL_KNOWN_HOSTS" in message
    assert "/nowhere/known_hosts" in message


def test_known_hosts_is_by_default_the_one_of_the_user(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = configure(ssh, SSH_TUNNEL_KNOWN_HOSTS="")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"{tmp_path}/.ssh/known_hosts does not list" in failure(database)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text(ssh.known_hosts_line())
    assert answer(database) == 42


@pytest.mark.long
@pytest.mark.parametrize(
    "line",
    [
        "{hashed} {key}",
        "other.example,[127.0.0.1]:{port},third.example {key}",
        "[127.0.0.*]:* {key}",
        # Listed for the host on the standard port only: ssh takes that too.
        "127.0.0.1 {key}",
        "@cert-authority * {other}\nmalformed\n|1|x|y {other}\n127.0.0.1 ssh-ed25519 !\n[127.0.0.1]:{port} {key}",
    ],
)
def test_the_forms_of_known_hosts_are_understood(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer, line: str
) -> None:
    name = f"[{ssh.host}]:{ssh.port}"
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    key = ssh.known_hosts_line().split(" ", 1)[1]
    known_hosts = line.format(hashed=hashed(name), key=key, port=ssh.port, other=other)
    assert answer(configure(ssh, known_hosts=known_hosts)) == 42


@pytest.mark.parametrize(
    "line", ["!127.0.0.1,127.0.0.* {key}", "# 127.0.0.1 {key}", "127.0.0.2 {key}", "{hashed} {key}"]
)
def test_a_line_for_another_host_does_not_count(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer, line: str
) -> None:
    key = ssh.known_hosts_line().split(" ", 1)[1]
    known_hosts = line.format(hashed=hashed("[127.0.0.1]:22"), key=key)
    assert "is unknown" in failure(configure(ssh, known_hosts=known_hosts))


@pytest.mark.long
@pytest.mark.parametrize("listed", [0, 1, 2])
def test_of_several_host_keys_the_listed_one_is_asked_for(
    configure: Callable[..., MastodonDatabase], listed: int
) -> None:
    with ssh_server(host_key_types=("ssh-rsa", "ecdsa-sha2-nistp256", "ssh-ed25519")) as server:
        line = server.known_hosts_line(key=server.host_keys[listed])
        assert answer(configure(server, known_hosts=line)) == 42


def test_a_wrong_password_is_refused_in_plain_words(configure: Callable[..., MastodonDatabase], ssh: SSHServer) -> None:
    message = failure(configure(ssh, SSH_TUNNEL_PASSWORD="wrong-5d1f"))
    assert f"does not let the user {USER} in" in message
    assert "Check SSH_TUNNEL_USER" in message
    assert "SSH_TUNNEL_PASSWORD (or resources.mastodon_db.config.ssh_tunnel_password)" in message
    assert "wrong-5d1f" not in message


def test_a_password_where_the_server_takes_keys_only_is_refused_in_plain_words(
    configure: Callable[..., MastodonDatabase],
) -> None:
    with ssh_server(password=None, client_keys=[asyncssh.generate_private_key("ssh-ed25519")]) as server:
        assert "It takes: publickey." in failure(configure(server))


def test_a_tunnel_without_password_and_key_is_refused(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer
) -> None:
    message = failure(configure(ssh, SSH_TUNNEL_PASSWORD=""))
    assert "SSH_TUNNEL_KEY_FILE" in message
    assert "SSH_TUNNEL_PASSWORD" in message


def test_an_unreachable_ssh_server_is_named(configure: Callable[..., MastodonDatabase], ssh: SSHServer) -> None:
    port = free_port()
    message = failure(configure(ssh, SSH_TUNNEL_PORT=str(port)))
    assert f"The SSH server {LOOPBACK}:{port} cannot be reached: Connection refused" in message
    assert "SSH_TUNNEL_PORT" in message


def test_an_ssh_host_that_does_not_resolve_is_named(configure: Callable[..., MastodonDatabase], ssh: SSHServer) -> None:
    message = failure(configure(ssh, SSH_TUNNEL_HOST="no-such-host.invalid"))
    assert "no-such-host.invalid" in message
    assert "SSH_TUNNEL_HOST" in message


def test_a_server_that_does_not_talk_ssh_is_named(
    configure: Callable[..., MastodonDatabase],
    ssh: SSHServer,
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tunnel_settings, "_CONNECT_SECONDS", 1.0)
    message = failure(configure(ssh, SSH_TUNNEL_PORT=str(postgres_server.port)))
    assert "does not talk SSH" in message
    assert "SSH_TUNNEL_PORT" in message


def test_a_server_that_forbids_forwarding_is_recognised(configure: Callable[..., MastodonDatabase]) -> None:
    with ssh_server(forwarding=False) as server:
        assert "AllowTcpForwarding" in failure(configure(server))


def test_a_database_that_the_ssh_server_cannot_reach_is_recognised(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer
) -> None:
    port = free_port()
    message = failure(configure(ssh, DB_PORT=str(port)))
    assert f"cannot reach the database at 127.0.0.1:{port}" in message
    assert "as seen from the SSH server" in message


def test_a_wrong_database_password_is_recognised(configure: Callable[..., MastodonDatabase], ssh: SSHServer) -> None:
    message = failure(configure(ssh, DB_PASS="wrong-8a0c"))
    assert "password authentication failed" in message
    assert "DB_PASS" in message
    assert "wrong-8a0c" not in message


def test_a_unix_socket_through_a_tunnel_makes_no_sense_and_says_so(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer
) -> None:
    message = failure(configure(ssh, DB_HOST="/var/run/postgresql"))
    assert "Unix socket" in message
    assert "DB_HOST" in message
    assert "localhost" in message


@pytest.mark.parametrize("hosts", ["127.0.0.1,localhost", "@abstract"])
def test_a_tunnel_leads_to_one_host_and_says_so(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer, hosts: str
) -> None:
    message = failure(configure(ssh, DB_HOST=hosts))
    assert hosts in message
    assert "Set DB_HOST (or resources.mastodon_db.config.host) to the host as the SSH server" in message


def test_the_host_name_is_resolved_by_the_ssh_server(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer, postgres_server: PostgresServer
) -> None:
    assert answer(configure(ssh, DB_HOST="localhost")) == 42
    assert ssh.forwards[-1] == ("localhost", postgres_server.port)


def _footprint() -> set[object]:
    entries = psutil.Process().net_connections("tcp")
    connections = ((entry.laddr, entry.raddr) for entry in entries if entry.status in {"LISTEN", "ESTABLISHED"})
    return {*threading.enumerate(), *connections}


@pytest.mark.parametrize("ending", ["well", "failure", "interrupt", "open connection"])
def test_nothing_is_left_of_the_tunnel_after_the_session(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer, ending: str
) -> None:
    class Interrupt(BaseException):
        """As Dagster raises it: no Exception."""

    database = configure(ssh)
    wait_until(lambda: ssh.open_connections == 0)
    before = _footprint()
    kept: list[psycopg2.extensions.connection] = []
    with contextlib.suppress(Interrupt, RuntimeError), database.session() as connect:
        kept = [connect(), connect()]
        if ending != "open connection":
            for connection in kept:
                connection.close()
        assert _footprint() - before
        if ending == "failure":
            raise RuntimeError
        if ending == "interrupt":
            raise Interrupt
    for connection in kept:
        if not connection.closed:
            with pytest.raises(psycopg2.OperationalError):
                connection.cursor().execute("SELECT 1")
            connection.close()
    # (What another test of this process left may end meanwhile: only what is new counts.)
    wait_until(lambda: not _footprint() - before)
    assert ssh.open_connections == 0


def test_the_tunnel_listens_on_loopback_only(configure: Callable[..., MastodonDatabase], ssh: SSHServer) -> None:
    def listening() -> set[tuple[str, int]]:
        entries = psutil.Process().net_connections("tcp")
        return {(entry.laddr.ip, entry.laddr.port) for entry in entries if entry.status == "LISTEN"}

    before = listening()
    with configure(ssh).session():
        new = [host for host, _ in listening() - before]
    assert new == [LOOPBACK]


def test_stopping_does_not_wait_for_a_listener_that_never_ran(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As after an interrupt between the two: sshtunnel itself would wait for ever.
    configure(ssh)
    monkeypatch.setattr(tunnel, "_STOP_SECONDS", 0.2)
    forwarder = tunnel._Forwarder(
        TunnelSettings(
            host=ssh.host,
            port=ssh.port,
            user=USER,
            known_hosts=tmp_path / "known_hosts",
            remote_host=LOOPBACK,
            remote_port=1,
            password=PASSWORD,
        ),
        KnownAddresses(),
    )
    forwarder._create_tunnels()
    (listener,) = forwarder._server_list
    started = time.monotonic()
    tunnel._stop(forwarder)
    assert time.monotonic() - started < 5
    wait_until(lambda: not forwarder.is_active)
    # Let the thread that waits come to its end.
    listener.serve_forever()
    wait_until(lambda: not any(thread.name == "tunnel-stop" for thread in threading.enumerate()))


def test_nothing_is_left_of_a_tunnel_that_failed_to_open(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer
) -> None:
    before = _footprint()
    failure(configure(ssh, SSH_TUNNEL_PASSWORD="wrong"))
    failure(configure(ssh, known_hosts=""))
    wait_until(lambda: not _footprint() - before)


def test_a_tunnel_that_drops_is_opened_anew_by_the_next_connection(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer
) -> None:
    before = _footprint()
    with configure(ssh).session() as connect:
        for _ in range(3):
            with contextlib.closing(connect()) as connection:
                ssh.drop_connections()
                with pytest.raises(psycopg2.OperationalError):
                    connection.cursor().execute("SELECT 1")
        with contextlib.closing(connect()) as connection:
            connection.cursor().execute("SELECT 1")
    wait_until(lambda: not _footprint() - before)


def test_threads_share_one_tunnel(configure: Callable[..., MastodonDatabase], ssh: SSHServer) -> None:
    wait_until(lambda: ssh.open_connections == 0)
    with configure(ssh).session() as connect:
        answers: list[object] = []

        def ask() -> None:
            with contextlib.closing(connect()) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(0.05)")
                answers.append(ssh.open_connections)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [1] * 8


@pytest.mark.long
def test_an_ssh_server_that_stops_answering_ends_in_an_error_in_time(
    configure: Callable[..., MastodonDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ssh_server() as server:
        configure(server)
        with MastodonDatabase(connect_timeout=2).session() as connect:
            started = time.monotonic()
            with server.frozen(), monkeypatch.context() as patience:
                patience.setattr(tunnel_settings, "_CONNECT_SECONDS", 1.0)
                with pytest.raises(ConnectionFailedError, match="does not talk SSH"):
                    connect()
            assert time.monotonic() - started < 15
            with contextlib.closing(connect()) as connection:
                connection.cursor().execute("SELECT 1")


def test_a_database_that_is_silent_behind_an_ssh_server_that_answers_is_named(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer
) -> None:
    with silent_port() as port:
        database = configure(ssh, DB_HOST=LOOPBACK, DB_PORT=str(port), DB_CONNECT_TIMEOUT="2")
        started = time.monotonic()
        message = failure(database)
        seconds = time.monotonic() - started
    assert f"The SSH server {ssh.host}:{ssh.port} answers, but the database at {LOOPBACK}:{port} does not" in message
    # Two for the connection, three for what is asked afterwards.
    assert seconds < 10 * slowdown()


def test_neither_library_writes_to_the_terminal(
    configure: Callable[..., MastodonDatabase],
    ssh: SSHServer,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    failure(configure(ssh, DB_PORT=str(free_port())))
    failure(configure(ssh, SSH_TUNNEL_PASSWORD="wrong"))
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if not record.name.startswith("asyncssh")] == []


def test_what_the_tunnel_shows_of_itself_holds_no_secret(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer, tmp_path: Path
) -> None:
    configure(ssh)
    settings = TunnelSettings(
        host=ssh.host,
        port=ssh.port,
        user=USER,
        known_hosts=tmp_path / "known_hosts",
        remote_host=LOOPBACK,
        remote_port=1,
        password=PASSWORD,
        key_passphrase="also-secret-9b",
    )
    forwarder = tunnel._Forwarder(settings, KnownAddresses())
    for shown in (repr(settings), repr(forwarder), str(forwarder), str(vars(forwarder))):
        assert PASSWORD not in shown
        assert "also-secret-9b" not in shown


def test_a_password_beside_the_ssh_user_is_not_repeated(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer
) -> None:
    message = failure(configure(ssh, SSH_TUNNEL_USER=f"{USER}:{PASSWORD}"))
    assert f"does not let the user {USER}:… in. Check SSH_TUNNEL_USER" in message


def connection_failure(database: MastodonDatabase) -> ConnectionFailedError:
    with pytest.raises(ConnectionFailedError) as caught:
        answer(database)
    return caught.value


async def _late(_: asyncssh.SSHServerConnection) -> None:
    await asyncio.sleep(1.5)


async def _cut(connection: asyncssh.SSHServerConnection) -> None:
    connection.abort()


def test_a_login_may_take_longer_than_a_connection(
    configure: Callable[..., MastodonDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel_settings, "_CONNECT_SECONDS", 1.0)
    # asyncssh ends a connection that asks for anything else before the login has ended.
    monkeypatch.setattr(tunnel, "_KEEPALIVE_SECONDS", 1)
    with ssh_server(meanwhile=_late) as server:
        assert answer(configure(server)) == 42


def test_a_login_that_takes_too_long_is_no_wrong_password_and_may_be_tried_again(
    configure: Callable[..., MastodonDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel_settings, "_LOGIN_SECONDS", 1.0)
    with ssh_server(meanwhile=_late) as server:
        error = connection_failure(configure(server, DB_CONNECT_TIMEOUT="1"))
        assert str(error) == (
            f"The SSH server {LOOPBACK}:{server.port} did not answer the login of {USER} within 1 s. Is it overloaded?"
        )
        assert not error.permanent
        # Who sets a longer limit for connections waits as long for the login.
        assert answer(configure(server, DB_CONNECT_TIMEOUT="20")) == 42


def test_a_server_that_goes_away_during_the_login_is_no_wrong_password_and_may_be_asked_again(
    configure: Callable[..., MastodonDatabase],
) -> None:
    with ssh_server(meanwhile=_cut) as server:
        error = connection_failure(configure(server))
    assert f"ended the connection while {USER} logged in" in str(error)
    assert ": ." not in str(error)
    assert not error.permanent


@pytest.mark.parametrize("first", [b"", b"SSH-2.0-none\r\n"])
def test_a_server_that_ends_the_connection_without_a_reason_gets_one_in_words(
    configure: Callable[..., MastodonDatabase], ssh: SSHServer, first: bytes
) -> None:
    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(first)
            connection.recv(4096)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass

    with socket.create_server((LOOPBACK, 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        error = connection_failure(configure(ssh, SSH_TUNNEL_PORT=str(port)))
        thread.join()
    assert str(error).startswith(f"{LOOPBACK}:{port} does not talk SSH with us: ")
    assert ": . " not in str(error)
    assert not error.permanent
