"""An instance between servers that misbehave, and jobs that run against it with little patience."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg2

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.demo.instance.load import build
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster_tests.support.corners import Bucket, create_bucket, create_database, environment_of
from mastosync_dagster_tests.support.instance_cases import ALL_CASES
from mastosync_dagster_tests.support.large_media import add_large
from mastosync_dagster_tests.support.transfers import open_uploads

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import dagster as dg

    from mastosync_dagster.demo.instance.book import GeneratedObject, Instance
    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server
    from mastosync_dagster.environment import Environment
    from mastosync_dagster.s3.settings import StorageSettings
    from mastosync_dagster_tests.support.proxy import Proxy

MIB = 1024 * 1024
TABLES = tuple(file_type.value for file_type in FileType)
READ_SECONDS = 4.0
"""Long enough for a loaded machine, short enough for tests that wait for it."""
VIDEO_MIB = 17
FEW_THREADS = {"ops": {"copy": {"config": {"concurrency": 16, "single_put_mb": VIDEO_MIB}}}}
"""Enough for servers in this process. The first video goes in one request, the others are too large for that."""

_FIRST_VIDEO = 900_000_000
"""An id that no generated row has, however many there are: serial ids are below, snowflakes far above."""

_patient_settings = S3Bucket.settings


def impatient_settings(bucket: S3Bucket, environment: Environment | None = None) -> StorageSettings:
    """Return a bucket's settings, with timeouts that notice a dead peer after seconds instead of a minute."""
    settings = _patient_settings(bucket, environment)
    return replace(settings, read_timeout=READ_SECONDS, upload_timeout=8.0)


@dataclass(frozen=True)
class Original:
    """A generated instance that tests share: its database to copy from, its bucket to read only."""

    instance: Instance
    database: PostgresServer
    bucket: Bucket

    @property
    def expected(self) -> tuple[GeneratedObject, ...]:
        """What a sync of all file types must bring to the destination."""
        return self.instance.objects_of(*TABLES)

    @property
    def lines(self) -> set[str]:
        """The keys of which a manifest of all file types must say something."""
        missing = {each.key for each in self.instance.missing_of(*TABLES)}
        return {each.key for each in self.expected} | missing


def make_original(postgres: PostgresServer, s3: S3Server, *, rows: int, videos: int) -> Original:
    """Generate an instance.

    Args:
        postgres: Where its database goes.
        s3: Where its bucket goes.
        rows: About so many rows, some 1.5 objects each.
        videos: So many further rows with a video; the first one is copied in one request, the others in parts.
    """
    database, bucket = create_database(postgres), create_bucket(s3)
    with contextlib.closing(psycopg2.connect(database.url)) as connection:
        instance = build(connection, s3, bucket.name, cases=ALL_CASES, rows=rows)
        added = []
        for number in range(videos):
            body = random.Random(number).randbytes(VIDEO_MIB * MIB + number)

            def put(key: str, headers: Mapping[str, Any], body: bytes = body) -> None:
                bucket.client.put_object(Bucket=bucket.name, Key=key, Body=body, **headers)

            added.append(add_large(connection, _FIRST_VIDEO + number, f"video{number}.mp4", body, put))
    return Original(replace(instance, objects=(*instance.objects, *added)), database, bucket)


@dataclass(frozen=True)
class FaultyInstallation:
    """An instance, a proxy before each of its S3 servers, nothing copied yet, and a Dagster home."""

    original: Original
    destination: Bucket
    source_proxy: Proxy
    destination_proxy: Proxy
    dagster: dg.DagsterInstance

    def run(
        self,
        job: str = "sync_changes",
        partition: str | None = None,
        config: Mapping[str, object] = FEW_THREADS,
    ) -> dg.ExecuteInProcessResult:
        """Run a job in this process; by default over every row of all file types."""
        return (
            build_definitions()
            .resolve_job_def(job)
            .execute_in_process(instance=self.dagster, partition_key=partition, run_config=config, raise_on_error=False)
        )

    def open_uploads(self) -> list[str]:
        """Return the keys of uploads in parts that nobody has ended."""
        return open_uploads(self.destination)


def environment(
    database: PostgresServer, source: Bucket, destination: Bucket, source_url: str, destination_url: str, home: Path
) -> dict[str, str]:
    """Return the variables that point at these servers; a table is one ID range."""
    variables = environment_of(database, source, destination, source_url, destination_url, home)
    return variables | {"MASTOSYNC_ROWS_PER_PARTITION": "100000"}
