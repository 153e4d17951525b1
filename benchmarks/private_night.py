"""Measures a night of an instance with many private objects: ``python -m benchmarks.private_night``."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections import Counter
from typing import TYPE_CHECKING

import dagster as dg

from benchmarks import dataset, servers
from benchmarks.site import site
from mastosync_dagster.definitions import build_definitions

if TYPE_CHECKING:
    from mastosync_dagster.demo.servers.start import PostgresServer

_NIGHT = {"ops": {"plan_changes": {"config": {"file_types": ["media_attachments"], "changed_since": "last"}}}}


def _execute(database: PostgresServer, query: str) -> None:
    with contextlib.closing(dataset.connect(database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(query)


def night(instance: dg.DagsterInstance, storages: tuple[servers.Server, servers.Server]) -> tuple[float, int]:
    """Run the incremental job. Returns its seconds, and the requests to both servers."""
    before, begun = _requests(storages), time.monotonic()
    job = build_definitions().resolve_job_def("sync_changes")
    result = job.execute_in_process(instance=instance, run_config=_NIGHT, raise_on_error=False)
    if not result.success:
        raise SystemExit("the night failed: DAGSTER_HOME's log says why")
    return time.monotonic() - begun, (_requests(storages) - before).total()


def _requests(storages: tuple[servers.Server, servers.Server]) -> Counter[str]:
    return sum((Counter(storage.counts()) for storage in storages), Counter())


def measure(objects: int) -> tuple[tuple[float, int], tuple[float, int]]:
    """Return seconds and requests of a quiet night, first without private objects, then with so many."""
    options = {"telemetry": {"enabled": False}}
    with site(objects) as made, dg.DagsterInstance.local_temp(str(made.folder), options) as instance:
        os.environ["DAGSTER_HOME"] = str(made.folder)
        storages = (made.source, made.destination)
        night(instance, storages)  # copies
        public = night(instance, storages)
        _execute(made.database, "UPDATE accounts SET suspended_at = now()")
        night(instance, storages)  # makes private
        return public, night(instance, storages)


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
