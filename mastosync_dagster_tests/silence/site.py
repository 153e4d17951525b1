"""A small instance on hosts of its own, and commands that run on the host ``client``."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest

from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.demo.instance.load import build
from mastosync_dagster.demo.servers.start import PostgresServer, postgres, rclone_s3
from mastosync_dagster.records.manifest import read_manifest
from mastosync_dagster_tests.support.corners import Bucket, create_bucket, create_database, environment_of
from mastosync_dagster_tests.support.instance_cases import ALL_CASES
from mastosync_dagster_tests.support.network import Line, Network, make_network
from mastosync_dagster_tests.support.ssh import PASSWORD, USER, SSHServer, ssh_server
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator

    from mastosync_dagster.demo.instance.book import Instance
    from mastosync_dagster.records.manifest import ManifestLine

PROJECT = Path(__file__).parents[2]
SLOWLY = {"MASTOSYNC_DESTINATION_REQUESTS_PER_SECOND": "5"}
"""So that a copy of forty rows takes half a minute."""
SYNC = ("mastosync", "sync", "accounts", "custom_emojis", "preview_cards")
LARGE = ("-m", "length", "--length", "1001:65535")
"""Packets of more bytes than these vanish without a word."""
_ROWS = 40
_END_SECONDS = 150.0


@dataclass
class Ended:
    """A command that has ended: its status, its whole output, and the seconds that it took."""

    status: int
    output: str
    seconds: float


@dataclass
class Running:
    """A command that runs on the client."""

    process: subprocess.Popen[str]
    started: float = field(default_factory=time.monotonic)

    def end(self, seconds: float = _END_SECONDS) -> Ended:
        """Wait for its end. The seconds count from now."""
        now = time.monotonic()
        try:
            output, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, _ = self.process.communicate()
            raise AssertionError(f"it has not ended within {seconds} s:\n{output}") from None
        return Ended(self.process.returncode, output, time.monotonic() - now)

    def signal(self, number: signal.Signals, seconds: float = _END_SECONDS) -> Ended:
        """Send a signal, and wait for the end."""
        self.process.send_signal(number)
        return self.end(seconds)

    def wait_for(self, line: str) -> str:
        """Read its output until a line has this text; returns what was read."""
        assert self.process.stdout is not None
        read = ""
        while line not in read:
            more = self.process.stdout.readline()
            assert more, f"it ended without {line!r}:\n{read}"
            read += more
        return read


@dataclass(frozen=True)
class Site:
    """The hosts ``client``, ``db``, ``ssh``, ``s3a`` (source) and ``s3b`` (destination)."""

    network: Network
    instance: Instance
    database: PostgresServer
    source: Bucket
    destination: Bucket
    ssh: SSHServer
    folder: Path

    def home(self, name: str) -> Path:
        """Return a Dagster home of that name."""
        home = self.folder / name
        if not home.exists():
            home.mkdir()
            (home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
        return home

    def manifest(self, home: str) -> list[ManifestLine]:
        """Return the lines of the only manifest of a home."""
        (file,) = [each for each in (self.home(home) / "manifests").rglob("*.parquet") if "doubts" not in str(each)]
        return [line for batch in read_manifest(file) for line in batch]

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables of a command on the client."""
        clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
        return {
            **clean,
            **environment_of(
                self.database,
                self.source,
                self.destination,
                self.source.server.endpoint,
                self.destination.server.endpoint,
                home,
            ),
            "DESTINATION_S3_PERMISSION": "",
            "MASTOSYNC_COPY_PRIVATE": "true",
            "MASTOSYNC_ROWS_PER_PARTITION": "10",
            "PYTHONUNBUFFERED": "1",
            # Its default, which is refused where the history is on another host.
            "MASTOSYNC_MANIFESTS": str(home / "manifests"),
        }

    def tunnel(self) -> dict[str, str]:
        """Return the variables of the tunnel."""
        known_hosts = self.folder / "known_hosts"
        known_hosts.write_text(self.ssh.known_hosts_line())
        return {
            "SSH_TUNNEL_HOST": self.ssh.host,
            "SSH_TUNNEL_PORT": str(self.ssh.port),
            "SSH_TUNNEL_USER": USER,
            "SSH_TUNNEL_PASSWORD": PASSWORD,
            "SSH_TUNNEL_KNOWN_HOSTS": str(known_hosts),
        }

    def start(self, *command: str, home: str = "home", **environment: str) -> Running:
        """Start a command on the client: ``mastosync …``, ``dagster …`` or ``python -c …``."""
        program = str(Path(sys.executable).with_name(command[0]))
        return Running(
            subprocess.Popen(
                self.network.command("client", program, *command[1:]),
                env={**self.environment(self.home(home)), **environment},
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )

    def begin_copy(self, *command: str, home: str, **variables: str) -> tuple[Site, Running]:
        """Begin a copy to an empty destination, and wait until some objects have arrived."""
        fresh = with_destination(self)
        running = fresh.start(*command, home=home, **variables)
        wait_until(lambda: fresh.copied() >= 3, 120)
        return fresh, running

    @property
    def expected(self) -> int:
        """How many objects a whole copy of `SYNC` brings."""
        return len(self.instance.objects_of("accounts", "custom_emojis", "preview_cards"))

    def run(self, *command: str, home: str = "home", **environment: str) -> Ended:
        """Run a command on the client to its end."""
        return self.start(*command, home=home, **environment).end()

    @contextlib.contextmanager
    def connection(self) -> Iterator[psycopg2.extensions.connection]:
        """Yield a connection from the database's own host."""
        with self.network.inside("db"):
            made = psycopg2.connect(self.database.url)
        with contextlib.closing(made):
            made.autocommit = True
            yield made

    def sessions(self) -> list[tuple[str, str]]:
        """Return the sessions on the instance's database that are not the tests': the state, and the query."""
        with self.connection() as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT state, query FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
                " AND backend_type = 'client backend' AND application_name <> 'test'",
                (self.database.database,),
            )
            return cursor.fetchall()

    def copied(self) -> int:
        """Return how many objects are at the destination."""
        with self.network.inside("s3b"):
            return len(list_keys(self.destination.server, self.destination.name))

    def ports(self, address: str) -> list[int]:
        """Return the client's own ports of its TCP connections to an address, with or without a port."""
        command = self.network.command("client", "ss", "-Hnt", "state", "established", "dst", address)
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        return [int(line.split()[2].rpartition(":")[2]) for line in found]

    def wait_for_sockets(self, state: str, address: str, seconds: float = 30) -> None:
        """Wait until the client has a socket in a state (``syn-sent``, ``established``) to an address."""

        def found() -> bool:
            command = self.network.command("client", "ss", "-Hntu", "state", state, "dst", address)
            return bool(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())

        wait_until(found, seconds)


@contextlib.contextmanager
def make_site(folder: Path, line: Line | None = None) -> Iterator[Site]:
    """Make the hosts, their servers, and a small instance."""
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(make_network("db", "ssh", "s3a", "s3b", client_line=line))
        with network.inside("db"):
            server = stack.enter_context(postgres(host=network.address("db")))

        def bucket(host: str) -> Bucket:
            with network.inside(host):
                return create_bucket(stack.enter_context(rclone_s3(host=network.address(host))))

        source, destination = bucket("s3a"), bucket("s3b")
        with network.inside("ssh"):
            ssh = stack.enter_context(ssh_server(host=network.address("ssh")))
        with network.inside("db"):
            database = create_database(server)
        with network.inside("s3a"):
            connection = stack.enter_context(_inside(network, "db", database))
            instance = build(connection, source.server, source.name, cases=ALL_CASES, rows=_ROWS)
            connection.close()
        yield Site(network, instance, database, source, destination, ssh, folder)


@contextlib.contextmanager
def _inside(network: Network, host: str, database: PostgresServer) -> Iterator[psycopg2.extensions.connection]:
    with network.inside(host):
        made = psycopg2.connect(database.url)
    with contextlib.closing(made):
        yield made


@contextlib.contextmanager
def pgbouncer(site: Site) -> Iterator[dict[str, str]]:
    """Run Debian's pgbouncer on the database's host. Yields the variables that point at it."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not shutil.which(program):
        pytest.skip("pgbouncer is not installed")
    # pytest's own folders are for this user alone, and pgbouncer runs as another.
    folder = Path(tempfile.mkdtemp(prefix="mastosync-pgbouncer-"))
    folder.chmod(0o777)
    users, settings = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text(f'"{site.database.user}" "{site.database.password}"\n')
    settings.write_text(
        f"[databases]\n* = host={site.database.host} port={site.database.port}\n[pgbouncer]\n"
        f"listen_addr = {site.network.address('db')}\nlisten_port = 6432\n"
        f"auth_type = scram-sha-256\nauth_file = {users}\n"
        f"pool_mode = transaction\nunix_socket_dir =\nlogfile = {folder / 'log'}\n"
    )
    for file in (users, settings):
        file.chmod(0o644)
    command = site.network.command("db", program, "-u", "nobody", str(settings))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"postgresql://{site.database.user}:{site.database.password}@{site.database.host}:6432"
            variables = {"DATABASE_URL": f"{url}/{site.database.database}"}

            def answers() -> bool:
                with site.network.inside("db"), contextlib.suppress(psycopg2.OperationalError):
                    psycopg2.connect(variables["DATABASE_URL"]).close()
                    return True
                return False

            wait_until(answers, 10)
            yield variables
        finally:
            process.terminate()
            shutil.rmtree(folder)


def another_bucket(site: Site, host: str, bucket: Bucket) -> Bucket:
    """Return an empty bucket on the same server."""
    with site.network.inside(host):
        return create_bucket(bucket.server)


def with_destination(site: Site) -> Site:
    """Return the site with an empty destination."""
    return replace(site, destination=another_bucket(site, "s3b", site.destination))
