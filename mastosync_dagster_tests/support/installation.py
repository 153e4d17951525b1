"""A generated instance, a proxy that counts before each of its S3 servers, and ways to run jobs against them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import psycopg2

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.demo.comparison import Comparison, compare, list_keys
from mastosync_dagster.demo.instance.load import build
from mastosync_dagster.environment import rows_per_partition
from mastosync_dagster.mastodon import is_remote, stored_objects
from mastosync_dagster.ranges.partitions import FileType, range_key, register_ranges, registered_ranges
from mastosync_dagster.records.summaries import with_counters
from mastosync_dagster.resources import MastodonDatabase
from mastosync_dagster_tests.support.corners import (
    Bucket,
    create_bucket,
    create_database,
    drop_database,
    environment_of,
)
from mastosync_dagster_tests.support.proxy import Kind, Proxy, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    import pytest

    from mastosync_dagster.demo.instance.case import Case
    from mastosync_dagster.demo.instance.load import Instance
    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server

ROWS = 300
ROWS_PER_PARTITION = 40
PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Installation:
    """An instance with its servers and a Dagster home, and the environment that points at them."""

    instance: Instance
    database: PostgresServer
    source: Bucket
    destination: Bucket
    source_proxy: Proxy
    destination_proxy: Proxy
    dagster: dg.DagsterInstance
    environment: Mapping[str, str]
    definitions: dg.Definitions = field(default_factory=build_definitions)

    def register(self, *file_types: FileType) -> dict[FileType, list[str]]:
        """Register ID ranges as ``mastosync ranges`` does, and return the new keys, or all if a sync was first."""
        keys = {}
        with MastodonDatabase().session() as connect:
            for file_type in file_types or FileType:
                new = register_ranges(self.dagster, file_type, connect, rows_per_partition=rows_per_partition())
                keys[file_type] = [range_key(ids) for ids in new or registered_ranges(self.dagster, file_type)]
        return keys

    def run(
        self,
        job: str,
        partition: str | None = None,
        config: Mapping[str, object] | None = None,
        run_id: str | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run a job in this process, recorded in the Dagster home."""
        return self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.dagster, partition_key=partition, run_config=config, raise_on_error=False, run_id=run_id
        )

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one of this interpreter's commands (``dagster``, ``mastosync``) in a process of its own."""
        return subprocess.run(
            [str(Path(sys.executable).with_name(arguments[0])), *arguments[1:]],
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            cwd=PROJECT,
        )

    def forget(self) -> None:
        """Count requests from now on."""
        self.source_proxy.forget()
        self.destination_proxy.forget()

    def requests(self, *, probes: bool = False) -> Counter[Kind]:
        """Return the requests about objects to both storages, or those about probes, by kind.

        Each run that may move the watermark also asks the destination what time it is, once.
        """
        proxies = (self.source_proxy, self.destination_proxy)
        return Counter(
            request.kind
            for proxy in proxies
            for request in proxy.requests
            if (request.key or request.method != "HEAD")
            and probes == ("/mastosync-check/" in request.key + request.prefix)
        )

    def compare(self, *tables: str) -> Comparison:
        """Hold the destination against the generator's book, by an independent listing."""
        expected = self.instance.objects_of(*tables) if tables else self.instance.objects_of(*FileType)
        return compare(self.destination.server, self.destination.name, expected)


def without_cache(world: Installation) -> Bucket:
    """Return another bucket at the source's server, with local objects alone."""
    bucket = create_bucket(world.source.server)
    for key in list_keys(world.source.server, world.source.name):
        if not key.startswith("cache/"):
            body = world.source.client.get_object(Bucket=world.source.name, Key=key)["Body"].read()
            bucket.client.put_object(Bucket=bucket.name, Key=key, Body=body)
    return bucket


def old_copy(world: Installation, accounts: int) -> Bucket:
    """Return another bucket at the source's server, with the files of the oldest local accounts alone."""
    bucket = create_bucket(world.source.server)
    rows = sorted(world.instance.rows["accounts"], key=lambda row: int(str(row["id"])))
    with_files = [
        each for row in rows if not is_remote("accounts", row) and (each := list(stored_objects("accounts", row)))
    ]
    for stored in (each for some in with_files[:accounts] for each in some):
        with contextlib.suppress(world.source.client.exceptions.NoSuchKey):
            body = world.source.client.get_object(Bucket=world.source.name, Key=stored.key)["Body"].read()
            bucket.client.put_object(Bucket=bucket.name, Key=stored.key, Body=body)
    return bucket


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> Mapping[str, object]:
    """Return the metadata of an asset's materialization in a run."""
    (materialization,) = result.asset_materializations_for_node(f"{asset}.report")
    return with_counters({name: value.value for name, value in materialization.metadata.items()})


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """Return the message with which a failed run's step failed."""
    assert not result.success
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data.user_failure_data
    assert data is not None, event.step_failure_data.error
    return data.description or ""


def environment_for(
    database: PostgresServer, source: Bucket, destination: Bucket, source_url: str, destination_url: str, home: Path
) -> dict[str, str]:
    """Return the variables that point at these servers."""
    return {
        **environment_of(database, source, destination, source_url, destination_url, home),
        # rclone's server keeps no ACLs, and nobody reads it without a signature.
        "DESTINATION_S3_PERMISSION": "",
        "MASTOSYNC_COPY_PRIVATE": "true",
        "MASTOSYNC_ROWS_PER_PARTITION": str(ROWS_PER_PARTITION),
    }


@dataclass(frozen=True)
class Original:
    """A generated instance that all tests share: its database to copy from, its bucket to read only."""

    instance: Instance
    database: PostgresServer
    bucket: Bucket

    @classmethod
    def generated(
        cls, postgres_server: PostgresServer, source_server: S3Server, *, cases: Sequence[Case], rows: int
    ) -> Self:
        """Generate an instance of about so many rows, in which each case occurs."""
        database, bucket = create_database(postgres_server), create_bucket(source_server)
        with contextlib.closing(psycopg2.connect(database.url)) as connection:
            instance = build(connection, source_server, bucket.name, cases=cases, rows=rows)
        return cls(instance, database, bucket)


@contextlib.contextmanager
def make_world(
    original: Original, destination_bucket: Bucket, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installation]:
    """A world whose destination is this bucket. Its source bucket is to be read only."""
    instance, source_bucket = original.instance, original.bucket
    database = create_database(original.database, template=original.database.database)
    home.mkdir()
    (home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    with (
        s3_proxy(source_bucket.server.endpoint) as source_proxy,
        s3_proxy(destination_bucket.server.endpoint) as destination_proxy,
    ):
        environment = environment_for(
            database, source_bucket, destination_bucket, source_proxy.endpoint, destination_proxy.endpoint, home
        )
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with dg.DagsterInstance.get() as dagster:
            yield Installation(
                instance,
                database,
                source_bucket,
                destination_bucket,
                source_proxy,
                destination_proxy,
                dagster,
                environment,
            )
    drop_database(database)
