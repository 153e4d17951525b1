"""Parts of mastosync alone, without Dagster. Run as a program by the benchmark, which reads what it prints.

Prints one line of JSON: seconds and CPU seconds of the part itself, imports left out, and what it counted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2

from mastosync_dagster.copy.engine import copy_plan
from mastosync_dagster.copy.limits import CopySettings
from mastosync_dagster.s3.settings import StorageSettings
from mastosync_dagster.s3.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable


# Each part imports what it alone needs: the copy knows neither Mastodon nor Dagster, and its memory is measured without
# them. It returns what is to be measured, as a function, so that the import is not.


def _storage(name: str, prefix: str) -> Storage:
    def variable(rest: str) -> str:
        return os.environ[f"{prefix}{rest}"]

    settings = StorageSettings(
        name=name,
        bucket=variable("S3_BUCKET"),
        endpoint_url=variable("S3_ENDPOINT"),
        region=variable("S3_REGION"),
        access_key_id=variable("AWS_ACCESS_KEY_ID"),
        secret_access_key=variable("AWS_SECRET_ACCESS_KEY"),
        permission="public-read",
    )
    return Storage(settings)


def _storages() -> tuple[Storage, Storage]:
    return _storage("source", ""), _storage("destination", "DESTINATION_")


def _connect() -> psycopg2.extensions.connection:
    return psycopg2.connect(os.environ["DATABASE_URL"])


def plan(folder: Path, table: str, lo: int, hi: int) -> Callable[[], dict[str, object]]:
    """Read the rows of a range and plan them, as the op does."""
    from mastosync_dagster.expected.objects import batches  # noqa: PLC0415  (as above)
    from mastosync_dagster.mastodon import Database, IdRange, Selection, walk_rows  # noqa: PLC0415  (the engine needs none)
    from mastosync_dagster.plan.planner import make_plan  # noqa: PLC0415  (as above)

    def part() -> dict[str, object]:
        source, destination = _storages()
        pages = walk_rows(Database.open(_connect, [table]), Selection(table=table, ids=IdRange(lo, hi)))
        counts = make_plan(
            batches(pages),
            source,
            destination,
            folder,
            listers=8,
            copy_private=False,
        )
        return {name: value for name, value in dataclasses.asdict(counts).items() if isinstance(value, (int, float))}

    return part


def copy(folder: Path, concurrency: int) -> Callable[[], dict[str, object]]:
    """Carry out a plan."""

    def part() -> dict[str, object]:
        source, destination = _storages()
        counts = copy_plan(
            folder,
            source,
            destination,
            CopySettings(concurrency=concurrency),
            on_progress=lambda _: None,
            stop=threading.Event(),
        )
        if counts.failed or counts.missing or counts.stopped:
            raise SystemExit(f"not all was copied: {counts}")
        return {
            "copied": counts.copied,
            "retries": counts.source.retries | counts.destination.retries,
            "hashed_bytes": counts.hashed_bytes,
        }

    return part


def boundaries(table: str) -> Callable[[], dict[str, object]]:
    """Divide a table into ranges."""
    from mastosync_dagster.mastodon import id_boundaries  # noqa: PLC0415  (as in `plan`)

    def part() -> dict[str, object]:
        ranges = sum(1 for _ in id_boundaries(_connect, table, after=None, rows_per_range=50_000))
        return {"ranges": ranges}

    return part


def _measured(part: Callable[[], dict[str, object]]) -> dict[str, object]:
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    counted = part()
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "counted": counted}


def main(name: str, *arguments: str) -> None:
    """Measure a part."""
    if name == "plan":
        folder, table, lo, hi = arguments
        part = plan(Path(folder), table, int(lo), int(hi))
    elif name == "copy":
        folder, concurrency = arguments
        part = copy(Path(folder), int(concurrency))
    else:
        (table,) = arguments
        part = boundaries(table)
    print(json.dumps(_measured(part)))


if __name__ == "__main__":
    main(*sys.argv[1:])
