"""A real SSH server on loopback, in a thread of the test process, that lets itself be asked what reached it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import asyncssh

from mastosync_dagster.demo.servers.start import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
    from pathlib import Path

    from asyncssh.forward import SSHForwarder

USER = "tunnel"
PASSWORD = "ssh-pässword-5d1f"
_START_SECONDS = 20.0
_Result = TypeVar("_Result")


@dataclass
class SSHServer:
    """A running SSH server.

    Attributes:
        port: TCP port on 127.0.0.1.
        host_keys: Its host keys.
        logins: The user names of every attempt to log in, in order: empty while nobody has sent a credential.
        forwards: The addresses that clients asked to be connected to.
    """

    port: int
    host_keys: list[asyncssh.SSHKey]
    loop: asyncio.AbstractEventLoop
    state: _State
    host: str = LOOPBACK

    @property
    def logins(self) -> list[str]:
        return self.state.logins

    @property
    def forwards(self) -> list[tuple[str, int]]:
        return self.state.forwards

    @property
    def open_connections(self) -> int:
        """How many clients are connected."""
        return len(self.state.connections)

    def drop_connections(self) -> None:
        """Cut every client off, as when the server restarts."""

        async def drop() -> None:
            for connection in list(self.state.connections):
                connection.abort()
                await connection.wait_closed()

        asyncio.run_coroutine_threadsafe(drop(), self.loop).result(_START_SECONDS)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the server answer nothing while the block runs, with its connections open."""
        thaw, stopped = threading.Event(), threading.Event()

        def stop() -> None:
            stopped.set()
            thaw.wait(_START_SECONDS)

        self.loop.call_soon_threadsafe(stop)
        stopped.wait(_START_SECONDS)
        try:
            yield
        finally:
            thaw.set()

    def known_hosts_line(self, *, name: str | None = None, key: asyncssh.SSHKey | None = None) -> str:
        """Return the line of known_hosts for a host key, by default for the first one."""
        public = (key or self.host_keys[0]).export_public_key("openssh").decode().split()
        return f"{name or f'[{self.host}]:{self.port}'} {public[0]} {public[1]}\n"

    def fingerprint(self) -> str:
        """Return the fingerprint of the first host key, as ssh-keygen prints it."""
        fingerprint: str = self.host_keys[0].get_fingerprint()
        return fingerprint


@dataclass
class _State:
    password: str | None
    client_keys: Sequence[asyncssh.SSHKey]
    forwarding: bool
    asks: bool
    meanwhile: Callable[[asyncssh.SSHServerConnection], Awaitable[object]] | None
    connections: set[asyncssh.SSHServerConnection] = field(default_factory=set)
    logins: list[str] = field(default_factory=list)
    forwards: list[tuple[str, int]] = field(default_factory=list)
    forwarders: list[SSHForwarder] = field(default_factory=list)


class _Login(asyncssh.SSHServer):
    """What the server does with one client."""

    def __init__(self, state: _State) -> None:
        self._state = state
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._state.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._connection is not None:
            self._state.connections.discard(self._connection)

    def begin_auth(self, username: str) -> bool:
        self._state.logins.append(username)
        return True

    def password_auth_supported(self) -> bool:
        return self._state.password is not None and not self._state.asks

    def kbdint_auth_supported(self) -> bool:
        return self._state.password is not None and self._state.asks

    def get_kbdint_challenge(
        self, username: str, lang: str, submethods: str
    ) -> tuple[str, str, str, list[tuple[str, bool]]]:
        del username, lang, submethods
        return "", "", "", [("Password: ", False)]

    def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> bool:
        return (username, list(responses)) == (USER, [self._state.password])

    async def validate_password(self, username: str, password: str) -> bool:
        if self._state.meanwhile is not None and self._connection is not None:
            await self._state.meanwhile(self._connection)
        return (username, password) == (USER, self._state.password)

    def public_key_auth_supported(self) -> bool:
        return bool(self._state.client_keys)

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        allowed = [client_key.public_data for client_key in self._state.client_keys]
        return username == USER and key.public_data in allowed

    async def connection_requested(  # type: ignore[override]  # it awaits what is awaitable
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> SSHForwarder:
        del orig_host, orig_port
        self._state.forwards.append((dest_host, dest_port))
        if not self._state.forwarding:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "forwarding is off")
        assert self._connection is not None
        forwarder = await self._connection.forward_connection(dest_host, dest_port)
        # asyncssh forgets the socket where the client goes away meanwhile.
        self._state.forwarders.append(forwarder)
        return forwarder


@contextlib.contextmanager
def ssh_server(
    *,
    password: str | None = PASSWORD,
    client_keys: Sequence[asyncssh.SSHKey] = (),
    host_key_types: Sequence[str] = ("ssh-ed25519",),
    forwarding: bool = True,
    asks: bool = False,
    meanwhile: Callable[[asyncssh.SSHServerConnection], Awaitable[object]] | None = None,
    host: str = LOOPBACK,
) -> Iterator[SSHServer]:
    """Run an SSH server until the block ends.

    Args:
        password: The password of `USER`; None: it takes none.
        client_keys: Keys that let `USER` in.
        host_key_types: A host key of each type is made.
        forwarding: Whether it lets clients forward.
        asks: It takes the password as the answer to a question alone (keyboard-interactive), as through PAM.
        meanwhile: What it does before it answers a password.
        host: The address on which it listens.
    """
    state = _State(password=password, client_keys=client_keys, forwarding=forwarding, asks=asks, meanwhile=meanwhile)
    keys = [asyncssh.generate_private_key(kind) for kind in host_key_types]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="ssh-server")
    thread.start()

    def run(coroutine: Coroutine[object, object, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(_START_SECONDS)

    try:

        async def listen() -> asyncssh.SSHAcceptor:
            return await asyncssh.create_server(lambda: _Login(state), host, 0, server_host_keys=keys)

        acceptor = run(listen())
        server = SSHServer(port=acceptor.get_port(), host_keys=keys, loop=loop, state=state, host=host)
        try:
            yield server
        finally:
            server.drop_connections()

            async def close() -> None:
                acceptor.close()
                await acceptor.wait_closed()
                for forwarder in state.forwarders:
                    forwarder.close()
                tasks = asyncio.all_tasks() - {asyncio.current_task()}
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

            run(close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_START_SECONDS)
        loop.close()


def hashed(name: str) -> str:
    """Return a host name as ``HashKnownHosts yes`` writes it."""
    salt = os.urandom(20)
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def write_key(key: asyncssh.SSHKey, path: Path, *, passphrase: str | None = None, form: str = "openssh") -> Path:
    """Write a private key file, encrypted with little work (bcrypt warns below 50 rounds)."""
    path.write_bytes(key.export_private_key(form, passphrase=passphrase, rounds=50))
    path.chmod(0o600)
    return path
