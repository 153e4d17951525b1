"""Measures `mastosync status` with many ID ranges behind it: ``python -m benchmarks.status``."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2

from mastosync_dagster.demo.servers.start import postgres
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.summaries import COUNTERS
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.watermarks import DESTINATION, READ_AT

SETTINGS = {
    "DESTINATION_S3_BUCKET": "new",
    "DESTINATION_S3_ENDPOINT": "https://s3.example.com",
    "DESTINATION_AWS_ACCESS_KEY_ID": "key",
    "DESTINATION_AWS_SECRET_ACCESS_KEY": "secret",
}
OTHER_TABLES = "CREATE TABLE statuses (id bigint PRIMARY KEY, account_id bigint NOT NULL, deleted_at timestamp)"


def fill(home: Path, ranges: int) -> None:
    """Put materialized ID ranges of media on record."""
    file_type, destination = FileType.MEDIA_ATTACHMENTS, S3Bucket.destination().settings().identity
    with dg.DagsterInstance.from_config(str(home)) as instance:
        keys = [f"{low}-{low + 49_999}" for low in range(1, ranges * 50_000, 50_000)]
        instance.add_dynamic_partitions(file_type.partitions_name, keys)
        metadata: dict[str, dg.MetadataValue[Any]] = {
            READ_AT: dg.MetadataValue.timestamp(datetime.now(timezone.utc)),
            DESTINATION: dg.MetadataValue.text(destination),
            COUNTERS: dg.MetadataValue.json({"objects": 100_000, "copied": 100_000, "bytes": 4e9, "seconds": 300}),
        }
        for key in keys:
            instance.report_runless_asset_event(
                dg.AssetMaterialization(file_type.value, partition=key, metadata=metadata)
            )


def main() -> None:
    """Measure the command as an admin has it: a process of its own, three times."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.status", description=__doc__)
    parser.add_argument("--ranges", type=int, default=2_000, help="materialized ID ranges (default 2,000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, postgres() as server:
        home = Path(folder)
        project = Path(__file__).parents[1]
        (home / "dagster.yaml").write_text((project / "dagster.yaml").read_text())
        os.environ |= {**SETTINGS, "DATABASE_URL": server.url, "DAGSTER_HOME": folder}
        schema = resources.files("mastosync_dagster.demo").joinpath("schema_main.sql").read_text()
        with psycopg2.connect(server.url) as connection, connection.cursor() as cursor:
            cursor.execute(schema)
            cursor.execute(OTHER_TABLES)
        fill(home, arguments.ranges)
        command = [str(Path(sys.executable).with_name("mastosync")), "status"]
        for _ in range(3):
            begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            outcome = subprocess.run(command, check=True, capture_output=True, text=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f"{arguments.ranges:,} ranges: {time.monotonic() - begun:.2f} s, {used:.2f} s of processor time")
        print(outcome.stdout)


if __name__ == "__main__":
    main()
