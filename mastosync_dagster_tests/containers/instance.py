"""A generated instance in containers: Mastodon's database in an internal network, and the two storages beside it."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg2

from mastosync_dagster.demo.comparison import Comparison, compare, list_keys
from mastosync_dagster.demo.instance.load import build
from mastosync_dagster.demo.servers.start import LOOPBACK, PostgresServer, S3Server, boto3_client
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.containers.engine import SERVERS_IMAGE, docker
from mastosync_dagster_tests.support.instance_cases import ALL_CASES
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster.demo.instance.book import Instance

NETWORK = "mastosync-test-mastodon"
_PREFIX = "mastosync-test-"
_SOURCE, _DESTINATION = "media", "media-copy"
_PORTS = {"db": 5432, "source": 9000, "destination": 9000}


@dataclass(frozen=True)
class Mastodon:
    """The instance, as this process reaches it: by ports of loopback."""

    instance: Instance
    database: PostgresServer
    source: S3Server
    destination: S3Server
    rows_per_range: int

    @property
    def env_production(self) -> str:
        """Mastodon's own file of settings, as far as it matters: what else is in it must not be read."""
        return "\n".join(
            [
                "LOCAL_DOMAIN=social.example",
                "SECRET_KEY_BASE=not-for-mastosync",
                "DB_HOST=db",
                f"DB_USER={self.database.user}",
                f"DB_PASS={self.database.password}",
                f"DB_NAME={self.database.database}",
                f"S3_BUCKET={_SOURCE}",
                "S3_ENDPOINT=http://source:9000",
                f"S3_REGION={self.source.region}",
                f"AWS_ACCESS_KEY_ID={self.source.access_key_id}",
                f"AWS_SECRET_ACCESS_KEY={self.source.secret_access_key}",
                "",
            ]
        )

    @property
    def destination_env(self) -> str:
        """What an admin writes for the destination. rclone's server keeps no ACLs, and nobody reads it unsigned."""
        return "\n".join(
            [
                f"DESTINATION_S3_BUCKET={_DESTINATION}",
                "DESTINATION_S3_ENDPOINT=http://destination:9000",
                f"DESTINATION_S3_REGION={self.destination.region}",
                f"DESTINATION_AWS_ACCESS_KEY_ID={self.destination.access_key_id}",
                f"DESTINATION_AWS_SECRET_ACCESS_KEY={self.destination.secret_access_key}",
                "DESTINATION_S3_PERMISSION=",
                "MASTOSYNC_COPY_PRIVATE=true",
                f"MASTOSYNC_ROWS_PER_PARTITION={self.rows_per_range}",
                "",
            ]
        )

    @property
    def copied(self) -> int:
        """How many objects the destination has."""
        return len(list_keys(self.destination, _DESTINATION))

    def empty_destination(self) -> None:
        """Delete what was copied."""
        client = boto3_client(self.destination)
        for key in list_keys(self.destination, _DESTINATION):
            client.delete_object(Bucket=_DESTINATION, Key=key)

    def compare(self, *tables: str) -> Comparison:
        """Compare every object of the destination with what the instance must have there."""
        expected = self.instance.objects_of(*(tables or tuple(FileType)))
        return compare(self.destination, _DESTINATION, expected)


@contextlib.contextmanager
def mastodon(folder: Path, *, rows: int, rows_per_range: int = 140) -> Iterator[Mastodon]:
    """Run an instance with about so many rows until the block ends; the folder is for files with its passwords."""
    with contextlib.ExitStack() as stack:
        docker("network", "create", NETWORK)
        stack.callback(docker, "network", "rm", NETWORK)
        password = secrets.token_hex(8)
        stack.callback(docker, "rm", "--force", "--volumes", *(_PREFIX + name for name in _PORTS))
        _start("db", folder, POSTGRES_USER="mastodon", POSTGRES_DB="mastodon", POSTGRES_PASSWORD=password)
        keys = {name: (secrets.token_hex(8), secrets.token_hex(20)) for name in ("source", "destination")}
        for name, (key, secret) in keys.items():
            server = [
                "rclone",
                "serve",
                "s3",
                "--addr",
                ":9000",
                "--config",
                "",
                "--vfs-cache-mode",
                "off",
                "-q",
                ":memory:",
            ]
            _start(name, folder, *server, RCLONE_AUTH_KEY=f'"{key},{secret}"')
        ports = {name: _port(name) for name in _PORTS}
        database = PostgresServer(ports["db"], "mastodon", password, "mastodon", pid=0)
        source, destination = (
            S3Server(f"http://{LOOPBACK}:{ports[name]}", key, secret, pid=0, log=folder / name)
            for name, (key, secret) in keys.items()
        )
        wait_until(lambda: _answers(database), 60)
        for storage, bucket in ((source, _SOURCE), (destination, _DESTINATION)):
            boto3_client(storage).create_bucket(Bucket=bucket)
        with contextlib.closing(psycopg2.connect(database.url)) as connection:
            instance = build(connection, source, _SOURCE, cases=ALL_CASES, rows=rows)
        yield Mastodon(instance, database, source, destination, rows_per_range)


def _start(name: str, folder: Path, *command: str, **variables: str) -> None:
    """Start a server in the instance's network, with its port on loopback too."""
    settings = folder / f"{name}.env"
    settings.write_text("".join(f"{variable}={value}\n" for variable, value in variables.items()))
    published = f"{LOOPBACK}::{_PORTS[name]}"
    where = ["--network", NETWORK, "--network-alias", name, "--publish", published]
    docker("run", "--detach", "--name", _PREFIX + name, "--env-file", str(settings), *where, SERVERS_IMAGE, *command)


def _port(name: str) -> int:
    return int(docker("port", _PREFIX + name, str(_PORTS[name])).splitlines()[0].rpartition(":")[2])


def _answers(server: PostgresServer) -> bool:
    try:
        psycopg2.connect(server.url, connect_timeout=2).close()
    except psycopg2.OperationalError:
        return False
    return True
