"""Measures a night of an instance with many private objects: ``python -m benchmarks.private_night``."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from benchmarks import dataset, servers
from benchmarks.network import Place
from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.demo.servers.start import postgres
from mastosync_dagster.installation.processes import stop_requests

if TYPE_CHECKING:
    from mastosync_dagster.demo.servers.start import PostgresServer

_NIGHT = {"ops": {"plan_changes": {"config": {"file_types": ["media_attachments"], "changed_since": "last"}}}}


def _execute(database: PostgresServer, query: str) -> None:
    with contextlib.closing(dataset.connect(database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(query)


def night(instance: dg.DagsterInstance, sides: tuple[servers.Server, servers.Server]) -> tuple[float, int]:
    """Run the incremental job. Returns its seconds, and the requests to both servers."""
    before, begun = _requests(sides), time.monotonic()
    job = build_definitions().resolve_job_def("sync_changes")
    result = job.execute_in_process(instance=instance, run_config=_NIGHT, raise_on_error=False)
    if not result.success:
        raise SystemExit("the night failed: DAGSTER_HOME's log says why")
    return time.monotonic() - begun, (_requests(sides) - before).total()


def _requests(sides: tuple[servers.Server, servers.Server]) -> Counter[str]:
    return sum((Counter(side.counts()) for side in sides), Counter())


def measure(objects: int) -> tuple[tuple[float, int], tuple[float, int]]:
    """Return seconds and requests of a quiet night, first without private objects, then with so many."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(stop_requests())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mastosync-private-night-")))
        database = stack.enter_context(postgres())
        source = stack.enter_context(servers.server(servers.Kind.MEMORY, Place(), folder / "bin"))
        destination = stack.enter_context(servers.server(servers.Kind.MEMORY, Place(), folder / "bin"))
        dataset.create_tables(database)
        with contextlib.closing(dataset.connect(database)) as connection:
            rows = dataset.media(connection, objects)
        servers.fill(source, rows.bodies)
        os.environ.update(
            source.environment()
            | destination.environment("DESTINATION_")
            | {"DATABASE_URL": database.url, "DAGSTER_HOME": str(folder), "DESTINATION_S3_PERMISSION": "public-read"}
        )
        instance = stack.enter_context(dg.DagsterInstance.local_temp(str(folder), {"telemetry": {"enabled": False}}))
        sides = (source, destination)
        night(instance, sides)  # copies
        public = night(instance, sides)
        _execute(database, "UPDATE accounts SET suspended_at = now()")
        night(instance, sides)  # makes private
        return public, night(instance, sides)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.private_night", description=__doc__)
    parser.add_argument("--objects", type=int, default=10_000, help="private objects (default 10,000)")
    objects: int = parser.parse_args().objects
    (seconds, requests), (private_seconds, private_requests) = measure(objects)
    print(f"a quiet night, nothing private: {requests:,} requests, {seconds:.1f} s")
    print(f"a quiet night, {objects:,} private objects: {private_requests:,} requests, {private_seconds:.1f} s")


if __name__ == "__main__":
    main()
