"""An SSH tunnel to the database: sshtunnel's forwarding over a connection whose host key is verified first.

sshtunnel itself compares with one given host key only, hides the reason of a failed start, puts the password into its
``repr`` and connects without a time limit. So the connection is made here, with paramiko, and passed to sshtunnel
(``_connect_to_gateway`` and ``_transport`` of sshtunnel 0.5.1; the tests fail where a later one differs).
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import TYPE_CHECKING

import paramiko
import sshtunnel
from paramiko.auth_handler import AuthOnlyHandler

from mastosync_dagster.addresses import KnownAddresses, connect_first
from mastosync_dagster.escaping import one_line
from mastosync_dagster.resources.database_errors import ConnectionFailedError
from mastosync_dagster.resources.ssh.known_hosts import HostKey, host_name, known_host
from mastosync_dagster.resources.ssh.private_key import LockedKeyError, read_private_key
from mastosync_dagster.resources.ssh.settings import TunnelSettings, setting

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mastosync_dagster.resources.ssh.known_hosts import KnownHost

_LOOPBACK = "127.0.0.1"
_KEEPALIVE_SECONDS = 10
_LOST_MILLISECONDS = 30_000
_STOP_SECONDS = 1.0
_ADMINISTRATIVELY_PROHIBITED = 1
_POLL_SECONDS = 0.02
_PROBE_SECONDS = 3.0
"""How long a database has to answer behind an SSH server that answers, once a connection to it has failed."""
_AS_SEEN = (
    "DB_HOST and DB_PORT (or DATABASE_URL, or resources.mastodon_db.config.host and .port) are as seen from the SSH"
    " server."
)
_INTERACTIVE = "keyboard-interactive"
_LATE, _ENDED = "Authentication timeout.", "Authentication failed: transport shut down or saw EOF"
"""paramiko's own errors for a login without an answer: of the class of those for a wrong password."""
_RSA_ALGORITHMS = ("rsa-sha2-512", "rsa-sha2-256")


class _RefusedError(ConnectionFailedError):
    """The SSH server refused the login."""


class _AuthHandler(AuthOnlyHandler):
    """paramiko's, which also sees an answer that comes before paramiko begins to wait for it.

    `send_auth_request` makes the event of the answer when it has sent the request: on a busy machine too late, and the
    login waits for its time limit (paramiko 5.1.0, auth_handler.py).
    """

    def wait_for_response(self, event: threading.Event) -> list[str]:
        # A refusal takes the user's name away.
        if self.username is None or self.authenticated:
            event.set()
        allowed: list[str] = super().wait_for_response(event)
        return allowed


class _Transport(paramiko.ServiceRequestingTransport):  # type: ignore[name-defined,misc]  # newer than its types
    """paramiko's connection that requests the service "ssh-userauth" once, as OpenSSH does, with a time limit.

    `paramiko.Transport` requests it before each method, and some servers end the connection at the second request.
    """

    _service_userauth_accepted: bool

    def ensure_session(self) -> None:
        """Request the service; paramiko's own method waits without limit, also where the connection was lost."""
        if self._service_userauth_accepted:
            return
        request = paramiko.Message()
        request.add_byte(paramiko.common.cMSG_SERVICE_REQUEST)
        request.add_string("ssh-userauth")
        self._send_message(request)
        deadline = time.monotonic() + self.auth_timeout
        while not self._service_userauth_accepted:
            if not self.is_active():
                raise paramiko.SSHException("it does not let anybody log in")
            if time.monotonic() > deadline:
                raise paramiko.AuthenticationException(_LATE)
            time.sleep(_POLL_SECONDS)
        self.auth_handler = self.get_auth_handler()

    def get_auth_handler(self) -> _AuthHandler:
        """Return what logs in."""
        return _AuthHandler(self)


class Tunnel:
    """A tunnel that is opened when it is needed, and reopened when it was lost. Thread-safe."""

    def __init__(self, settings: TunnelSettings) -> None:
        self._settings = settings
        self._addresses = KnownAddresses()
        self._lock = threading.Lock()
        self._forwarder: _Forwarder | None = None
        self._port = 0

    def address(self) -> tuple[str, int]:
        """Return address and port of the tunnel's end on this machine; open the tunnel if it is not open."""
        with self._lock:
            if self._forwarder is None or not self._forwarder.is_active:
                self._close()
                self._forwarder, self._port = self._open()
            return _LOOPBACK, self._port

    def _open(self) -> tuple[_Forwarder, int]:
        forwarder = _Forwarder(self._settings, self._addresses)
        try:
            forwarder.start()
            port = forwarder.local_bind_port
        except sshtunnel.BaseSSHTunnelForwarderError as error:
            _stop(forwarder)
            raise ConnectionFailedError(f"The tunnel through {self._settings.server} broke: {error}.") from error
        except BaseException:
            _stop(forwarder)
            raise
        return forwarder, port

    def reaches_database(self, *, silent: bool) -> bool:
        """Return whether a connection through the tunnel works; close the tunnel if the SSH connection was lost.

        Args:
            silent: A connection has waited for the database in vain, rather than been refused.

        Raises:
            ConnectionFailedError: The SSH server refuses or fails to connect to the database; or, if ``silent``, it
                answers, and the database does not. The tunnel is closed, so that nothing waits in it.
        """
        with self._lock:
            if self._forwarder is None or not self._forwarder.is_active:
                return False
            answers = self._forwarder.answers()
            try:
                if answers:
                    self._forwarder.open_channel().close()
                    return True
            except paramiko.ChannelException as error:
                raise _forwarding_error(self._settings, error) from error
            except (paramiko.SSHException, EOFError, OSError) as error:
                if silent and self._forwarder.is_active:
                    self._close()
                    raise _silent_database_error(self._settings) from error
            self._close()
            return False

    def close(self) -> None:
        """Close the tunnel; connections through it end."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._forwarder is not None:
            forwarder, self._forwarder = self._forwarder, None
            _stop(forwarder)


class _Forwarder(sshtunnel.SSHTunnelForwarder):  # type: ignore[misc]  # sshtunnel publishes no types
    """sshtunnel's listener and its threads, over a connection that was verified here."""

    is_active: bool
    local_bind_port: int

    def __init__(self, settings: TunnelSettings, addresses: KnownAddresses) -> None:
        self._settings = settings
        self._addresses = addresses
        super().__init__(
            ssh_address_or_host=(settings.host, settings.port),
            ssh_username=settings.user,
            ssh_password="not given: _connect_to_gateway logs in",  # noqa: S106  (required, and printed)
            ssh_config_file=None,
            allow_agent=False,
            host_pkey_directories=[],
            compression=False,
            # By default it listens on every interface.
            local_bind_address=(_LOOPBACK, 0),
            remote_bind_address=(settings.remote_host, settings.remote_port),
            logger=_quiet_logger("mastosync_dagster.tunnel"),
        )

    def __repr__(self) -> str:
        return f"_Forwarder({self._settings!r})"

    __str__ = __repr__

    def open_channel(self) -> paramiko.Channel:
        """Open a connection from the SSH server to the database."""
        return self._transport.open_channel(
            "direct-tcpip",
            dest_addr=(self._settings.remote_host, self._settings.remote_port),
            src_addr=(_LOOPBACK, 0),
            timeout=min(_PROBE_SECONDS, self._settings.seconds),
        )

    def answers(self) -> bool:
        """Return whether the SSH server still answers: to the request for a session, if only by refusing it."""
        try:
            self._transport.open_session(timeout=self._settings.seconds).close()
        except paramiko.ChannelException:
            return True
        except (paramiko.SSHException, EOFError, OSError):
            return False
        return True

    def _connect_to_gateway(self) -> None:
        """Connect in place of sshtunnel, which would swallow paramiko's errors but passes ConnectionFailedError on."""
        self._transport: paramiko.Transport = _log_in(self._settings, self._addresses)


def _stop(forwarder: _Forwarder) -> None:
    """Stop a forwarder, with a time limit.

    ``stop`` waits without limit for a listener whose thread was never started, as after an interrupt in ``start``.
    """
    stopper = threading.Thread(target=forwarder.stop, kwargs={"force": True}, name="tunnel-stop", daemon=True)
    stopper.start()
    stopper.join(_STOP_SECONDS)


def _quiet_logger(name: str) -> logging.Logger:
    """Return a logger that is silent unless its level was set: the libraries log tracebacks of errors raised here."""
    logger = logging.getLogger(name)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL + 1)
    return logger


def _log_in(settings: TunnelSettings, addresses: KnownAddresses) -> paramiko.Transport:
    """Connect to the SSH server, verify its key, and only then log in: with the key, else with the password."""
    known = _read_known_hosts(settings)
    key = _read_key(settings)
    if key is not None:
        try:
            return _verified(settings, _connect(settings, addresses), known, key)
        except _RefusedError:
            if settings.password is None:
                raise
    # Over a new connection: some servers accept no second method after a refusal.
    return _verified(settings, _connect(settings, addresses), known, None)


def _verified(
    settings: TunnelSettings, connection: socket.socket, known: KnownHost, key: paramiko.PKey | None
) -> paramiko.Transport:
    transport = _Transport(connection)
    try:
        transport.set_log_channel(_quiet_logger("mastosync_dagster.tunnel.ssh").name)
        transport.banner_timeout = settings.seconds
        options = transport.get_security_options()
        options.key_types = _known_first(options.key_types, known)
        try:
            transport.start_client(timeout=settings.seconds)
            presented = transport.get_remote_server_key()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise ConnectionFailedError(
                f"{settings.server} does not talk SSH with us: {_reason(error)}. "
                f"Check {setting('host')} and {setting('port')}.",
                permanent=isinstance(error, paramiko.ssh_exception.IncompatiblePeer),
            ) from error
        _verify(settings, known, HostKey(presented.get_name(), presented.asbytes()))
        _authenticate(settings, transport, key)
        # Not before: some servers end a connection that sends anything else while somebody logs in.
        transport.set_keepalive(_KEEPALIVE_SECONDS)
    except BaseException:
        transport.close()
        connection.close()
        raise
    return transport


def _reason(error: Exception) -> str:
    """Return an error's text; the end of a connection has none, and what the server says may be anything."""
    return one_line(str(error)).strip().rstrip(".") or "it ended the connection"


def _connect(settings: TunnelSettings, addresses: KnownAddresses) -> socket.socket:
    try:
        found = addresses.look_up(settings.host, settings.port, settings.seconds)
        _, connection = connect_first(found, settings.seconds)
    except OSError as error:
        reason = error.strerror or error
        raise ConnectionFailedError(
            f"The SSH server {settings.server} cannot be reached: {reason}. "
            f"Check {setting('host')} and {setting('port')}."
        ) from error
    # A silent peer counts as lost after three unanswered keepalives.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _LOST_MILLISECONDS)
    return connection


def _read_known_hosts(settings: TunnelSettings) -> KnownHost:
    try:
        return known_host(settings.known_hosts, settings.host, settings.port)
    except OSError as error:
        raise ConnectionFailedError(
            f"{settings.known_hosts} cannot be read: {error.strerror}. Check {setting('known_hosts')}.", permanent=True
        ) from error


def _known_first(offered: Iterable[str], known: KnownHost) -> tuple[str, ...]:
    """Return the algorithms with the listed keys' first, so that the server presents a key that can be compared."""
    listed = {
        algorithm
        for key in known.keys
        for algorithm in (_RSA_ALGORITHMS if key.kind == paramiko.RSAKey.name else (key.kind,))
    }
    return tuple(sorted(offered, key=lambda algorithm: algorithm not in listed))


def _verify(settings: TunnelSettings, known: KnownHost, presented: HostKey) -> None:
    """Raise ConnectionFailedError unless the server's key is listed."""
    if any(key.blob == presented.blob for key in known.revoked):
        raise ConnectionFailedError(
            f"The SSH server {settings.server} presented the {presented.kind} key {presented.fingerprint}, which "
            f"{settings.known_hosts} lists as revoked. Nothing was sent to it.",
            permanent=True,
        )
    if any((key.kind, key.blob) == (presented.kind, presented.blob) for key in known.keys):
        return
    name = host_name(settings.host, settings.port)
    changed = [key for key in known.keys if key.kind == presented.kind and known.name == name]
    if changed:
        listed = ", ".join(f"{key.fingerprint} in line {key.line}" for key in changed)
        raise ConnectionFailedError(
            f"The key of the SSH server {settings.server} has CHANGED: it presented the {presented.kind} key "
            f"{presented.fingerprint}, but {settings.known_hosts} lists {listed}. Either the server was set up anew, "
            "or somebody stands between it and this machine. Nothing was sent to it. Only if its admin confirms the "
            f"new fingerprint, replace that line ({setting('known_hosts')}).",
            permanent=True,
        )
    encoded = paramiko.PKey.from_type_string(presented.kind, presented.blob).get_base64()
    raise ConnectionFailedError(
        f"The SSH server {settings.server} is unknown: {settings.known_hosts} does not list its {presented.kind} key "
        f"{presented.fingerprint}. Nothing was sent to it. If that is its fingerprint (on the server: for f in "
        f"/etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $f; done), add this line to the file "
        f"({setting('known_hosts')}), as `ssh-keyscan -p {settings.port} {settings.host}` prints it too:\n"
        f"{name} {presented.kind} {encoded}",
        permanent=True,
    )


def _read_key(settings: TunnelSettings) -> paramiko.PKey | None:
    if settings.key_file is None:
        return None
    try:
        return read_private_key(settings.key_file, settings.key_passphrase)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}. Check {setting('key_file')}"
    except LockedKeyError:
        given = settings.key_passphrase is not None
        problem = (
            f"cannot be decrypted: check {setting('key_passphrase')}"
            if given
            else f"is encrypted, and {setting('key_passphrase')} is not set"
        )
    except ValueError:
        problem = f"is no private key that can be used (RSA, ECDSA or Ed25519). Check {setting('key_file')}"
    # Outside of the handlers: a parser's error, as the cause, may quote the file.
    raise ConnectionFailedError(f"The SSH key file {settings.key_file} {problem}.", permanent=True)


def _authenticate(settings: TunnelSettings, transport: paramiko.Transport, key: paramiko.PKey | None) -> None:
    """Log in with the key, or with the password, or with both if the server requires both."""
    transport.auth_timeout = settings.login_seconds
    allowed: list[str] = []
    cause: Exception | None = None
    try:
        if key is not None:
            allowed = transport.auth_publickey(settings.user, key)
        if settings.password is not None and not transport.is_authenticated():
            allowed = _send_password(transport, settings.user, settings.password)
    except paramiko.BadAuthenticationType as error:
        allowed, cause = error.allowed_types, error
    except paramiko.AuthenticationException as error:
        if str(error) == _LATE:
            raise ConnectionFailedError(
                f"The SSH server {settings.server} did not answer the login of {settings.login} within "
                f"{transport.auth_timeout:.0f} s. Is it overloaded?"
            ) from error
        cause = error
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise ConnectionFailedError(
            f"The SSH server {settings.server} failed while {settings.login} logged in: {_reason(error)}."
        ) from error
    if transport.is_authenticated():
        return
    tried = [setting("key_file")] if settings.key_file is not None else []
    tried += [setting("password")] if settings.password is not None else []
    takes = f" It takes: {', '.join(allowed)}." if allowed else ""
    # Some servers refuse a login in this way, too; others were restarted meanwhile.
    ended = str(cause) == _ENDED
    problem = (
        f"ended the connection while {settings.login} logged in."
        if ended
        else f"does not let the user {settings.login} in.{takes}"
    )
    raise _RefusedError(
        f"The SSH server {settings.server} {problem} Check {', '.join([setting('user'), *tried])}.", permanent=not ended
    ) from cause


def _send_password(transport: paramiko.Transport, user: str, password: str) -> list[str]:
    """Log in with a password. Returns the methods that are required beside it; BadAuthenticationType as paramiko.

    A server whose passwords go through PAM may ask for them itself (keyboard-interactive), and do so alone.
    """

    def answers(_title: str, _instructions: str, prompts: Sequence[tuple[str, bool]]) -> list[str]:
        return ["" if shown else password for _, shown in prompts]

    try:
        return transport.auth_password(user, password, fallback=False)
    except paramiko.BadAuthenticationType as error:
        if _INTERACTIVE not in error.allowed_types:
            raise
        return transport.auth_interactive(user, answers)


def _forwarding_error(settings: TunnelSettings, error: paramiko.ChannelException) -> ConnectionFailedError:
    if error.code == _ADMINISTRATIVELY_PROHIBITED:
        return ConnectionFailedError(
            f"The SSH server {settings.server} forbids {settings.login} to forward to {settings.database}: allow it in "
            "its sshd_config (AllowTcpForwarding, PermitOpen).",
            permanent=True,
        )
    return ConnectionFailedError(
        f"The SSH server {settings.server} cannot reach the database at {settings.database}. {_AS_SEEN}"
    )


def _silent_database_error(settings: TunnelSettings) -> ConnectionFailedError:
    return ConnectionFailedError(
        f"The SSH server {settings.server} answers, but the database at {settings.database} does not answer it. "
        + _AS_SEEN
    )
