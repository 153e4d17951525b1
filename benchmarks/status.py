"""Measures `mastosync status` with many ID ranges behind it: ``python -m benchmarks.status``."""

from __future__ import annotations

import argparse
import contextlib
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

from benchmarks.report import replace_between
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
_RUNS = 3
_DOCUMENT = Path(__file__).parents[1] / "docs" / "scale.md"
_BEGIN, _END = "<!-- status: written by `python -m benchmarks.status --docs` -->", "<!-- end of status -->"
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


def measure(ranges: int, database_url: str) -> list[str]:
    """Return lines of a table about the command as an admin has it, a process of its own: three runs of it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "dagster.yaml").write_text((Path(__file__).parents[1] / "dagster.yaml").read_text())
        os.environ |= {**SETTINGS, "DATABASE_URL": database_url, "DAGSTER_HOME": folder}
        fill(home, ranges)
        return [_line(ranges) for _ in range(_RUNS)]


def _line(ranges: int) -> str:
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(Path(sys.executable).with_name("mastosync")), "status"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"| {ranges:,} | {time.monotonic() - begun:.1f} | {used:.1f} | {os.getloadavg()[0]:.1f} |"


def main() -> None:
    """Measure, print, and write the table into docs/scale.md if that is wanted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.status", description=__doc__)
    parser.add_argument(
        "--ranges", type=int, nargs="+", default=[2_000, 10_000], help="materialized ID ranges (default 2,000 10,000)"
    )
    parser.add_argument("--docs", action="store_true", help="write the table into docs/scale.md")
    arguments = parser.parse_args()
    with postgres() as server:
        schema = resources.files("mastosync_dagster.demo").joinpath("schema_main.sql").read_text()
        with contextlib.closing(psycopg2.connect(server.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(schema)
            cursor.execute(OTHER_TABLES)
        lines = [line for ranges in arguments.ranges for line in measure(ranges, server.url)]
    busy = "Where the load average is above the cores, compare CPU seconds, and even these are too many."
    text = "\n".join(
        [
            "| ID ranges | seconds | CPU seconds | load average |",
            "|---:|---:|---:|---:|",
            *lines,
            "",
            f"{os.cpu_count()} cores. {busy}",
        ]
    )
    print(text)
    if arguments.docs:
        replace_between(_DOCUMENT, _BEGIN, _END, text)


if __name__ == "__main__":
    main()
