"""Measures a large instance: ``python -m benchmarks.scale``. It needs 4 GB of disk for ten million rows."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from benchmarks import dataset, servers
from benchmarks.report import replace_between
from benchmarks.site import Site, site
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.summaries import COUNTERS
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.watermarks import DESTINATION, READ_AT
from mastosync_dagster.units import MEGABYTE, MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLE = FileType.PREVIEW_CARDS
_STEP = 1_000_000
_CHANGED = 1_000
_POLL_SECONDS = 0.05
_DOCUMENT = Path(__file__).parents[1] / "docs" / "scale.md"
_BEGIN, _END = "<!-- measured: written by `python -m benchmarks.scale --docs` -->", "<!-- end of measured -->"


@dataclass(frozen=True)
class Taken:
    """What a command took.

    Attributes:
        cpu: Seconds of processor time.
        peak: Bytes of memory at most.
        read: Bytes that it read, from files and connections.
    """

    seconds: float
    cpu: float
    peak: int
    read: int


def command(*arguments: str) -> Taken:
    """Run a command of mastosync as an admin does, and return what it took."""
    executable = str(Path(sys.executable).with_name(arguments[0]))
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([executable, *arguments[1:]], stdout=log, stderr=log)
        taken = _wait(process)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(arguments)}: {log.read()[-3000:].decode()}")
    return taken


def _wait(process: subprocess.Popen[bytes]) -> Taken:
    begun, read = time.monotonic(), 0
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process.pid}/io").read_text().splitlines()
            read = max(read, int(lines[0].split()[1]))
        time.sleep(_POLL_SECONDS)
    seconds = time.monotonic() - begun
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Taken(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, read)


def fill(made: Site, rows: int, real: int) -> dataset.Rows:
    """Add rows without objects, and after them some whose objects are at the source; return the latter."""
    with contextlib.closing(dataset.connect(made.database)) as connection:
        for first in range(1, rows + 1, _STEP):
            dataset.insert_preview_cards(connection, min(_STEP, rows + 1 - first), first=first)
        found = dataset.small(connection, real, first=rows + 1)
    servers.fill(made.source, found.bodies)
    dataset.settle(made.database)
    return found


def materialize(home: Path, keys: Sequence[str], rows: int) -> None:
    """Put ID ranges on record, as runs over them would have."""
    destination = S3Bucket.destination().settings().identity
    counters = {"objects": rows, "copied": rows, "bytes": rows * 40_000, "seconds": rows / 100}
    metadata: dict[str, dg.MetadataValue[Any]] = {
        READ_AT: dg.MetadataValue.timestamp(datetime.now(timezone.utc)),
        DESTINATION: dg.MetadataValue.text(destination),
        COUNTERS: dg.MetadataValue.json(counters),
    }
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for key in keys:
            instance.report_runless_asset_event(dg.AssetMaterialization(TABLE.value, partition=key, metadata=metadata))


def change(made: Site, rows: dataset.Rows) -> None:
    """Let some of the real rows' files change, as far as the database can tell."""
    with contextlib.closing(dataset.connect(made.database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE preview_cards SET image_updated_at = now() AT TIME ZONE 'UTC' WHERE id BETWEEN %s AND %s",
            (rows.lo, rows.lo + _CHANGED - 1),
        )


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _line(what: str, taken: Taken) -> str:
    return (
        f"| {what} | {taken.seconds:.1f} | {taken.cpu:.1f} | {taken.peak / MIB:,.0f} | {taken.read / MEGABYTE:,.0f} |"
    )


def measure(rows: int, ranges: int) -> list[str]:
    """Return a table in Markdown of what commands and runs take with so many rows and ID ranges."""
    with site(objects=2) as made:
        home, size = made.folder / "home", rows // ranges
        home.mkdir()
        (home / "dagster.yaml").write_text((Path(__file__).parents[1] / "dagster.yaml").read_text())
        os.environ |= {"DAGSTER_HOME": str(home), "MASTOSYNC_ROWS_PER_PARTITION": str(size)}
        real = fill(made, rows, size)
        lines = [_line("`mastosync status`, nothing copied yet", command("mastosync", "status", TABLE.value))]
        lines.append(_line(f"`mastosync ranges`: {ranges + 1:,} new ones", command("mastosync", "ranges", TABLE.value)))
        with dg.DagsterInstance.from_config(str(home)) as instance:
            *keys, last = instance.get_dynamic_partitions(TABLE.partitions_name)
        materialize(home, keys, size)
        before, manifests = _bytes_below(home), _bytes_below(home / "manifests")
        job = ("-m", "mastosync_dagster", "-j", f"sync_{TABLE.value}", "--tags", f'{{"dagster/partition": "{last}"}}')
        lines.append(_line(f"The run of an ID range, {size:,} objects", command("dagster", "job", "execute", *job)))
        manifest = _bytes_below(home / "manifests") - manifests
        history = _bytes_below(home) - before - manifest
        lines.append(_line("`mastosync status`, all ranges copied", command("mastosync", "status")))
        change(made, real)
        night = ("mastosync", "sync", "--changed-since", "last")
        lines.append(_line(f"A night, {_CHANGED:,} rows have changed", command(*night)))
        lines.append(_line("A night, nothing has changed", command(*night)))
    return [
        f"{rows:,} rows in {ranges:,} ID ranges of {size:,} rows, one object each.",
        "",
        "| what | seconds | CPU seconds | peak memory, MB | MB read |",
        "|---|---:|---:|---:|---:|",
        *lines,
        "",
        f"A run adds {history / 1000:,.0f} kB to the history; its manifest has {manifest / size:,.0f} bytes an object.",
    ]


def main() -> None:
    """Measure, print, and write the table into docs/scale.md if that is wanted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of preview_cards (default 10,000,000)")
    parser.add_argument("--ranges", type=int, default=2_000, help="ID ranges of them (default 2,000)")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/scale.md")
    arguments = parser.parse_args()
    text = "\n".join(measure(arguments.rows, arguments.ranges))
    print(text)
    if arguments.docs:
        replace_between(_DOCUMENT, _BEGIN, _END, text)


if __name__ == "__main__":
    main()
