"""A process that carries out a plan: ``python -m mastosync_dagster_tests.faults.copy_process FOLDER SIDES``.

``SIDES`` is JSON: the fields of `StorageSettings` of source and destination. It has two megabytes for each of its
sixteen threads, and fails where an object was not copied.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.copy.engine import copy_plan
from mastosync_dagster.copy.limits import CopySettings
from mastosync_dagster.s3.storage import Storage, StorageSettings

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.corners import Bucket

MEMORY_MB = 32


def copy_command(folder: Path, source: Bucket, destination: Bucket) -> list[str]:
    """Return the command that carries out the plan in a folder."""
    storages = [
        {
            "name": name,
            "bucket": bucket.name,
            "endpoint_url": bucket.server.endpoint,
            "region": bucket.server.region,
            "access_key_id": bucket.server.access_key_id,
            "secret_access_key": bucket.server.secret_access_key,
        }
        for name, bucket in (("source", source), ("destination", destination))
    ]
    return [sys.executable, "-m", "mastosync_dagster_tests.faults.copy_process", str(folder), json.dumps(storages)]


def _storage(fields: dict[str, str]) -> Storage:
    settings = StorageSettings(**fields)  # type: ignore[arg-type]  # only texts are given
    return Storage(settings)


def main() -> int:
    """Copy."""
    source, destination = (_storage(fields) for fields in json.loads(sys.argv[2]))
    counts = copy_plan(
        Path(sys.argv[1]),
        source,
        destination,
        CopySettings(concurrency=8, memory_mb=MEMORY_MB),
        on_progress=lambda _: None,
        stop=threading.Event(),
    )
    return int(counts.failed + counts.missing > 0)


if __name__ == "__main__":
    sys.exit(main())
