"""Mastodon's database as a Dagster resource: psycopg2, through an SSH tunnel where one is configured."""

from __future__ import annotations

import contextlib
import getpass
import ipaddress
import logging
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg
import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn
from pydantic import Field

from mastosync_dagster.addresses import KnownAddresses, LookUpError, connect_first
from mastosync_dagster.environment import DATABASE, Environment, MissingSettingError, SettingsError, expanded
from mastosync_dagster.escaping import one_line
from mastosync_dagster.mastodon.connection import Reconnecting, set_up_session
from mastosync_dagster.mastodon.waits import LimitedConnection, SilentError, limited
from mastosync_dagster.pool import Pool
from mastosync_dagster.resources.database_errors import ConnectionFailedError
from mastosync_dagster.resources.fields import Fields, Secret, refuse_variables
from mastosync_dagster.resources.misplaced import may_hold_password, one_host, one_name, one_path
from mastosync_dagster.resources.ssh.settings import TunnelSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.addresses import Address
    from mastosync_dagster.resources.ssh.tunnel import Tunnel

_LOG = logging.getLogger(__name__)
_ONE_OF_MANY_SECONDS = 1.0
"""How long each of several hosts has to answer, as long as another one does."""

# Of libpq's own variables, those that no setting of ours wins over; PGDATA is the server's.
_OF_LIBPQ = re.compile(
    r"PG(?!(?:HOST|HOSTADDR|PORT|USER|DATABASE|SSLMODE|APPNAME|CLIENTENCODING|DATA)$)[A-Z]+", re.ASCII
)
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_VERIFYING_MODES = frozenset({"verify-ca", "verify-full"})
_SSH_CREDENTIALS = ("ssh_tunnel_password", "ssh_tunnel_key_file", "ssh_tunnel_key_passphrase")
_NO_FILE = "/dev/null/none"
# Parameters of DATABASE_URL that only say how TLS is verified.
_TLS_CHECKS = frozenset({"sslrootcert", "sslcrl", "sslcrldir", "sslnegotiation", "ssl_min_protocol_version"})


@dataclass(frozen=True, slots=True)
class _Target:
    """The connection parameters under libpq's names."""

    host: str
    port: int
    dbname: str
    user: str
    password: str | None = field(repr=False)
    sslmode: str
    other: Mapping[str, str] = field(repr=False)


def _is_here(host: str) -> bool:
    """Return whether a connection to a host does not leave this machine."""
    if host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class MastodonDatabase(dg.ConfigurableResource["MastodonDatabase"]):
    """The PostgreSQL database of a Mastodon instance, read-only. Unset fields come from Mastodon's own variables."""

    database_url: Secret | None = Field(
        default=None,
        description="postgresql://… with the password, as {env: NAME}. Unset: DATABASE_URL. It wins over the DB_ "
        "variables; the fields below win over it.",
    )
    host: str | None = Field(
        default=None,
        description="Host, or folder of the Unix socket; through a tunnel, as the SSH server sees it. "
        "Unset: DB_HOST, else localhost.",
    )
    port: int | None = Field(default=None, description="TCP port. Unset: DB_PORT, else 5432.")
    dbname: str | None = Field(default=None, description="Database. Unset: DB_NAME, else mastodon_production.")
    user: str | None = Field(default=None, description="User. Unset: DB_USER, else mastodon.")
    password: Secret | None = Field(default=None, description="Password, as {env: NAME}. Unset: DB_PASS.")
    sslmode: str | None = Field(
        default=None, description=f"One of {', '.join(_SSL_MODES)}. Unset: DB_SSLMODE, else prefer."
    )
    connect_timeout: int | None = Field(
        default=None,
        description="Seconds until a connection attempt fails; the login at the SSH server has 30 at least. "
        "Unset: DB_CONNECT_TIMEOUT, else 10.",
    )
    ssh_tunnel_host: str | None = Field(
        default=None, description="SSH server to reach the database through. Unset: SSH_TUNNEL_HOST; none: no tunnel."
    )
    ssh_tunnel_port: int | None = Field(default=None, description="Its port. Unset: SSH_TUNNEL_PORT, else 22.")
    ssh_tunnel_user: str | None = Field(
        default=None, description="Who logs in there. Unset: SSH_TUNNEL_USER, else the user that runs this."
    )
    ssh_tunnel_password: Secret | None = Field(
        default=None, description="That user's password, as {env: NAME}. Unset: SSH_TUNNEL_PASSWORD."
    )
    ssh_tunnel_key_file: str | None = Field(default=None, description="Private key file. Unset: SSH_TUNNEL_KEY_FILE.")
    ssh_tunnel_key_passphrase: Secret | None = Field(
        default=None,
        description="What the key file is encrypted with, as {env: NAME}. Unset: SSH_TUNNEL_KEY_PASSPHRASE.",
    )
    ssh_tunnel_known_hosts: str | None = Field(
        default=None,
        description="File with the SSH server's key, which is always checked. "
        "Unset: SSH_TUNNEL_KNOWN_HOSTS, else ~/.ssh/known_hosts.",
    )

    VARIABLES: ClassVar[Mapping[str, str]] = DATABASE

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Check the variables that run config names before anything is opened."""
        refuse_variables(context, "mastodon_db", self.VARIABLES)

    @contextlib.contextmanager
    def session(
        self,
        *,
        retry_first: bool = False,
        warn: Callable[[str], object] = _LOG.warning,
        seconds: float = math.inf,
    ) -> Iterator[Callable[[], Connection]]:
        """Open the tunnel if one is configured, and yield a function that opens connections.

        The function may be called from any thread, any number of times; the caller closes the connection. It reopens a
        lost tunnel. It raises ConnectionFailedError, as does opening the tunnel.

        Args:
            retry_first: The first connection is retried for as long as later ones; else an error is raised at once.
            warn: Gets a sentence when the database, or the tunnel, is lost, and when it is back.
            seconds: No connection is opened, and no answer awaited, after so many seconds.
        """
        fields = _fields(self, Environment.read())
        target = _target(fields)
        deadline = time.monotonic() + seconds
        timeout = fields.number("connect_timeout", lowest=1, highest=600, default=10)
        database = _Database(fields, target, timeout, deadline)
        tunnel_settings = _tunnel_settings(fields, target)
        if tunnel_settings is None:
            yield Reconnecting(database.connect, at_once=not retry_first, warn=warn, deadline=deadline)
            return
        # Importing paramiko takes 14 MB and a fifteenth of a run's start: only runs with a tunnel need it.
        from mastosync_dagster.resources.ssh.tunnel import Tunnel  # noqa: PLC0415  (see the line above)

        tunnel = Tunnel(replace(tunnel_settings, connect_timeout=timeout, deadline=deadline))
        try:
            if not retry_first:
                tunnel.address()
            connect = partial(database.connect_through, tunnel)
            yield Reconnecting(connect, at_once=not retry_first, warn=warn, deadline=deadline)
        finally:
            tunnel.close()


class _Database:
    """Opens connections to one database, none after ``deadline`` (of the monotonic clock)."""

    def __init__(self, fields: Fields, target: _Target, connect_timeout: float, deadline: float) -> None:
        self.fields = fields
        self.target = target
        self._connect_timeout = connect_timeout
        self._deadline = deadline
        self._known = KnownAddresses()
        self._kept: Address | None = None

    def connect(self) -> Connection:
        """Connect without a tunnel."""
        self._check_time()
        try:
            return self._open(self._addresses())
        except (psycopg2.Error, OSError) as error:
            raise self._failure(error) from None

    def connect_through(self, tunnel: Tunnel) -> Connection:
        """Connect through a tunnel; once more if the tunnel was lost."""
        self._check_time()
        for last in (False, True):
            address, port = tunnel.address()
            try:
                # With the name beside the address, sslmode verify-full compares the certificate with the name.
                ends: dict[str, str | int] = {"host": self.target.host, "hostaddr": address, "port": port}
                return self._open(ends, through_tunnel=True)
            except psycopg2.Error as error:
                failure = self._failure(error)
                # What the database has answered itself needs no question, and once the time is over there is none.
                # Otherwise psycopg2's error is the same for a lost tunnel and for a database that hangs up.
                if failure.permanent or tunnel.reaches_database(silent=isinstance(error, SilentError)) or last:
                    raise failure from None
        raise AssertionError  # the second attempt returns or raises

    def _check_time(self) -> None:
        if self._seconds <= 0:
            raise self._failure(TimeoutError("no answer in time"))

    @property
    def _seconds(self) -> float:
        """How long a connection may take that is begun now."""
        return min(self._connect_timeout, self._deadline - time.monotonic())

    def _failure(self, error: Exception) -> ConnectionFailedError:
        return _failure(self.target, self.fields, error, permanent=self._seconds <= 0)

    def _addresses(self) -> dict[str, str | int]:
        """Return libpq's parameters for the addresses to connect to: of several, those that answer.

        libpq itself looks up without a limit, and waits for each address as long as for the only one.
        """
        target = self.target
        hosts = target.host.split(",")
        if "hostaddr" in target.other:
            return {"host": target.host, "port": target.port}
        if any(host.startswith(("/", "@")) for host in hosts):
            # An address, of PGHOSTADDR too, would win over the socket.
            return {"host": target.host, "hostaddr": "", "port": target.port}
        if len(hosts) == 1:
            return {"host": target.host, "hostaddr": self._one_address(target.host), "port": target.port}
        answering = dict(self._answering(hosts))
        if not answering:
            raise TimeoutError(f"none of {', '.join(hosts)} answers")
        # In the admin's order: libpq may look for the one of them that takes writes.
        return {"host": ",".join(answering), "hostaddr": ",".join(answering.values()), "port": target.port}

    def _one_address(self, host: str) -> str:
        addresses = self._known.look_up(host, self.target.port, self._seconds)
        if len(addresses) == 1:
            return addresses[0].ip
        # The one that worked first: one that does not answer costs seconds at every connection.
        addresses.sort(key=lambda address: address != self._kept)
        self._kept, connected = connect_first(addresses, self._seconds)
        connected.close()
        return self._kept.ip

    def _answering(self, hosts: Sequence[str]) -> Iterator[tuple[str, str]]:
        found = self._look_up(hosts)
        for seconds in (_ONE_OF_MANY_SECONDS, self._connect_timeout):
            answering = []
            for host, addresses in found.items():
                with contextlib.suppress(OSError):
                    address, connected = connect_first(addresses, min(seconds, self._seconds))
                    connected.close()
                    answering.append((host, address.ip))
            if answering:
                return iter(answering)
        return iter(())

    def _look_up(self, hosts: Sequence[str]) -> dict[str, list[Address]]:
        """Return the addresses of the hosts that have some: all are looked up at once."""

        def look_up(host: str) -> list[Address] | LookUpError:
            try:
                return self._known.look_up(host, self.target.port, self._seconds)
            except LookUpError as error:
                return error

        with Pool(len(hosts)) as pool:
            answers = dict(zip(hosts, pool.map(look_up, hosts), strict=True))
        found = {host: answer for host, answer in answers.items() if not isinstance(answer, LookUpError)}
        for answer in answers.values():
            if not found and isinstance(answer, LookUpError):
                raise answer
        return found

    def _open(self, address: Mapping[str, str | int], *, through_tunnel: bool = False) -> Connection:
        # No `options`: pgbouncer refuses startup parameters that it does not know.
        parameters: dict[str, Any] = {
            **self._login(through_tunnel=through_tunnel),
            **self.target.other,
            **address,
            # A client that sets none gets the server's: LATIN1, or SQL_ASCII, in which no other letter can be sent.
            "client_encoding": "UTF8",
            "dbname": self.target.dbname,
            "user": self.target.user,
            "sslmode": self.target.sslmode,
            "application_name": "mastosync",
            "connect_timeout": self._connect_timeout,
            "keepalives": 1,
            "keepalives_idle": 20,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 35_000,
        }
        connect = limited(self._seconds, self._deadline)
        try:
            connection: LimitedConnection = psycopg2.connect(make_dsn(**parameters), connection_factory=connect)
        except UnicodeDecodeError as error:
            # Until the login a server speaks in the encoding of its own, and psycopg2 takes it for UTF-8.
            raise psycopg2.OperationalError(error.object.decode(errors="replace")) from None
        connection.name = f"the database {self.target.dbname} at {self.target.host}:{self.target.port}"
        if through_tunnel:
            connection.name += f" (through the SSH server {self.fields.text('ssh_tunnel_host')})"
        try:
            set_up_session(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _login(self, *, through_tunnel: bool) -> dict[str, str | None]:
        """Return libpq's parameters for the password and for how it may be sent; those of DATABASE_URL win."""
        login = {"password": self.target.password}
        if "password" in self.fields.apart:
            # Without a password libpq would use PGPASSWORD or ~/.pgpass.
            login = {"password": self.target.password or "", "passfile": _NO_FILE}
        named = any(getattr(self.fields.config, name) is not None for name in ("host", "port", "ssh_tunnel_host"))
        # libpq takes lists of hosts; hostaddr has precedence.
        hosts = (self.target.other.get("hostaddr") or self.target.host).split(",")
        trusted = (through_tunnel or all(map(_is_here, hosts))) and not named
        if self.target.sslmode not in _VERIFYING_MODES and not trusted:
            # An impostor could ask for the password in clear text. PGREQUIREAUTH is libpq's own variable for this.
            stated = None if named else self.fields.environment.process.get("PGREQUIREAUTH")
            login["require_auth"] = stated or "!password"
        return login


def _fields(resource: MastodonDatabase, environment: Environment) -> Fields:
    """Return the fields merged as Rails merges them: the parts of DATABASE_URL win over the DB_ variables."""
    fields = Fields("mastodon_db", resource, resource.VARIABLES, environment)
    # An SSH server in run config also decides which database is reached.
    elsewhere = fields.detached("host", "password") | fields.detached("ssh_tunnel_host", "password")
    apart = elsewhere | fields.detached("ssh_tunnel_host", *_SSH_CREDENTIALS)
    url = fields.secret("database_url")
    if url is not None:
        name = fields.name("database_url")
        fields = replace(fields, between=_parse_url(url, name), between_name=name)
    if not apart:
        # A URL in run config has its own password, or there is none.
        return replace(fields, apart=fields.detached("database_url", "password"))
    if resource.password is None and fields.text("password") is not None:
        raise MissingSettingError(fields.alone("host" if resource.host is not None else "ssh_tunnel_host", "password"))
    kept = fields.variables.keys() - {"password"} | _TLS_CHECKS
    between = {part: value for part, value in fields.between.items() if part in kept}
    return replace(fields, between=between, apart=apart)


def _target(fields: Fields) -> _Target:
    """Return where to connect. Defaults are those for production in Mastodon's config/database.yml."""
    host = fields.text("host") or "localhost"
    parts = "put the port into DB_PORT, user and password into DB_USER and DB_PASS"
    return _Target(
        host=one_host(host, fields.exact_name("host"), parts=parts, url="put it into DATABASE_URL"),
        port=fields.port("port", default=5432),
        dbname=one_name(fields.text("dbname") or "mastodon_production", fields.exact_name("dbname")),
        user=one_name(fields.text("user") or "mastodon", fields.exact_name("user")),
        password=fields.secret("password"),
        sslmode=fields.one_of("sslmode", _SSL_MODES, default="prefer"),
        other={name: value for name, value in fields.between.items() if name not in fields.variables},
    )


def _parse_url(url: str, name: str) -> dict[str, str]:
    """Return the parts of a database URL under libpq's names.

    Parameters that libpq does not know (``pool``, ``prepared_statements``) are for Rails, and dropped.
    """
    # The message repeats no part of the URL: a password with unencoded characters may end up in any of them.
    problem = SettingsError(
        f"{name} cannot be read: it must look like postgresql://user:password@host:5432/dbname, and in the password "
        "the characters % / @ : ? # must be percent-encoded (%25 %2F %40 %3A %3F %23)."
    )
    address, _, query = url.rpartition("?") if url.rfind("?") > url.rfind("@") else (url, "", "")
    kept = "&".join(part for part in query.split("&") if part and _is_libpq_parameter(part.partition("=")[0]))
    try:
        parts: dict[str, str] = parse_dsn(f"{address}?{kept}" if kept else address)
    except (psycopg2.Error, UnicodeError):
        parts = {}
    if not url.startswith(("postgresql://", "postgres://")) or not parts:
        raise problem
    # libpq's list has a port for each host, which may be empty.
    ports = set(parts.pop("port", "").split(","))
    if not ("".join(ports) or "0").isdecimal() or any("@" in parts.get(part, "") for part in ("host", "dbname")):
        raise problem
    if len(ports) > 1:
        raise SettingsError(
            f"{name} gives several hosts different ports, and mastosync takes one for all: list the hosts without"
            " ports, there or in DB_HOST, and put the port into DB_PORT."
        )
    port = ports.pop()
    return {**parts, "port": port} if port else parts


def _is_libpq_parameter(word: str) -> bool:
    try:
        make_dsn(**{word: "x"})
    except psycopg2.ProgrammingError:
        return False
    return True


def _tunnel_settings(fields: Fields, target: _Target) -> TunnelSettings | None:
    """Return how to reach the database through an SSH server; None if none is configured."""
    host = fields.text("ssh_tunnel_host")
    if host is None:
        return None
    parts = "put port, user and password into SSH_TUNNEL_PORT, SSH_TUNNEL_USER and SSH_TUNNEL_PASSWORD"
    one_host(host, fields.name("ssh_tunnel_host"), parts=parts, url=f"put the host alone there, and {parts}")
    if target.host.startswith(("/", "@")) or "," in target.host:
        several = "a list" if "," in target.host else "a Unix socket"
        raise SettingsError(
            f"The database's host is {several}, {target.host}, and a tunnel leads to one host. Set "
            f"{fields.name('host')} to the host as the SSH server {host} sees it, such as localhost; or, without a "
            f"tunnel, unset {fields.name('ssh_tunnel_host')}."
        )
    password, key_file = fields.secret("ssh_tunnel_password"), fields.text("ssh_tunnel_key_file")
    if password is None and key_file is None:
        if "ssh_tunnel_password" in fields.apart:
            raise MissingSettingError(fields.alone("ssh_tunnel_host", "ssh_tunnel_password"))
        raise MissingSettingError(
            f"{fields.name('ssh_tunnel_host')} is set, so {fields.name('ssh_tunnel_key_file')} or "
            f"{fields.name('ssh_tunnel_password')} must be."
        )
    return TunnelSettings(
        host=host,
        port=fields.port("ssh_tunnel_port", default=22),
        user=fields.text("ssh_tunnel_user") or _own_user(fields),
        known_hosts=_known_hosts(fields),
        remote_host=target.host,
        remote_port=target.port,
        password=password,
        key_file=None if key_file is None else one_path(key_file, fields.name("ssh_tunnel_key_file")),
        key_passphrase=fields.secret("ssh_tunnel_key_passphrase"),
    )


def _known_hosts(fields: Fields) -> Path:
    """Return the file of known hosts. The default one need not exist: the error of an unknown key names it."""
    name, named = fields.name("ssh_tunnel_known_hosts"), fields.text("ssh_tunnel_known_hosts")
    if named is None:
        return expanded("~/.ssh/known_hosts", f"{name} is not set, and stands for")
    path = expanded(named, f"{name} names")
    try:
        path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{name} names {named}, which cannot be read: {reason}.") from None
    return path


def _own_user(fields: Fields) -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a user id without a name.
        return fields.needed("ssh_tunnel_user")


@dataclass(frozen=True, slots=True)
class _Cause:
    """A pattern in messages of libpq or PostgreSQL, and the settings to check."""

    pattern: str
    check: tuple[str, ...]
    permanent: bool = True
    hint: str = ""


# Matched by text, since psycopg2 passes no error code on while it connects.
_CAUSES = (
    _Cause(
        r"(?i)(peer|ident) authentication failed",
        ("host", "user", "password"),
        hint=" The server asks there for no password, and lets in the OS user of the role's name alone: run mastosync"
        " as that user, or name a role that has a password, at the host 127.0.0.1.",
    ),
    _Cause(r"password authentication failed|no password supplied|authentication failed", ("user", "password")),
    _Cause(
        r"requested a cleartext password",
        ("sslmode",),
        hint=" It was not sent, since the server is not verified: let it accept scram-sha-256, or set verify-full.",
    ),
    _Cause(r"pg_hba\.conf", ("sslmode",), hint=" The server's pg_hba.conf decides who may connect from where."),
    # Sent before TLS begins by a server that cannot accept a connection now (shutdown, no memory).
    _Cause(r"error response during SSL exchange", ("host", "port"), permanent=False),
    # The other end went away, or failed, while TLS was under way: no setting of TLS is at fault.
    _Cause(
        r"SSL SYSCALL error|SSL connection has been closed|unexpected eof|alert internal error",
        ("host", "port"),
        permanent=False,
    ),
    _Cause(r"SSL|certificate", ("sslmode",)),
    _Cause(
        r"too many (clients|connections)|slots are reserved|system is (starting|shutting|in recovery|not yet)",
        (),
        permanent=False,
        hint=" The server takes no connection now.",
    ),
    _Cause(r"role .* does not exist|no such user", ("user",)),
    _Cause(r"database .* does not exist|no such database|permission denied for database", ("dbname",)),
    _Cause(r"cannot be resolved", ("host",), permanent=False),
)
_ELSE = _Cause("", ("host", "port"), permanent=False)
# A server says what it refuses in any language; whatever it is, host and port are right.
_ANSWERED = _Cause("", ("user", "password", "dbname"), permanent=False)


def _answered(target: _Target, reason: str) -> _Cause:
    """Return the cause of an answer in words that are not known: an error of a login quotes the user or the database.

    Others, such as of a server that starts up, may pass.
    """
    names = "|".join(map(re.escape, (target.user, target.dbname)))
    return replace(_ANSWERED, permanent=re.search(rf"[^\w\s]\s?({names})\s?[^\w\s]", reason) is not None)


def _failure(target: _Target, fields: Fields, error: Exception, *, permanent: bool) -> ConnectionFailedError:
    text = getattr(error, "strerror", None) or str(error)
    reasons = re.findall(r"(?m)^connection to .*? failed: (.+)", text) or text.strip().splitlines()[:1]
    said = one_line(reasons[-1]).strip().rstrip(".") if reasons else "no reason given"
    # libpq puts two blanks between the severity and the text of the server's own errors, and nowhere else.
    severity, _, answer = said.partition(":  ")
    reason = answer or severity
    libpq = {name: value for name, value in fields.environment.process.items() if _OF_LIBPQ.fullmatch(name) and value}
    for value in (target.password, *filter(may_hold_password, (*libpq.values(), *target.other.values()))):
        if value:
            reason = reason.replace(one_line(value), "***")
    cause = next((cause for cause in _CAUSES if re.search(cause.pattern, reason)), None)
    if cause is None:
        cause = _answered(target, reason) if answer else _ELSE
    check = " and ".join(dict.fromkeys(fields.name(name) for name in cause.check))
    hint = f" Check {check}.{cause.hint}" if check else cause.hint
    if not any(fields.text(name) for name in ("host", "port", "dbname", "user", "password")):
        hint += f" Nothing says where the database is. {fields.environment.missing('DATABASE_URL', 'DB_HOST')}"
    if libpq:
        hint += f" The environment also sets {', '.join(sorted(libpq))}, which libpq reads."
    where = f"{target.dbname} at {target.host}:{target.port} as {target.user}"
    return ConnectionFailedError(
        f"Cannot connect to the database {where}: {reason}.{hint}",
        permanent=permanent or cause.permanent,
    )
