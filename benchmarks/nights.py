"""Measures what commands take with years of nights behind them: ``python -m benchmarks.nights``."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from mastosync_dagster.cli.latest_outcomes import Inventory
from mastosync_dagster.process import limit_malloc_arenas
from mastosync_dagster.ranges.file_types import FileType
from mastosync_dagster.records.folding import fold_manifests
from mastosync_dagster.records.manifest import ManifestLine, ManifestWriter
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.store import FolderManifests
from mastosync_dagster.runs.doubts import CHANGES
from mastosync_dagster.runs.manifests import Damaged
from mastosync_dagster.runs.watermarks import DESTINATION, SYNC_CHANGES, WATERMARK, watermark

if TYPE_CHECKING:
    from collections.abc import Iterable

_RANGES, _RANGE_OBJECTS = 20, 10_000
_DESTINATION_ID = "s3.example.com/media/"


def _line(table: FileType, number: int) -> ManifestLine:
    key = f"{table.value}/files/{number:012d}/original/{number:032x}.jpg"
    return ManifestLine(
        *(table.value, number, "file/original", key, key, Outcome.COPIED, None, None, 40_000, f"{number:032x}"),
        private=False,
        remote=True,
    )


def _publish(folder: Path, lines: Iterable[ManifestLine], group: str, partition: str, run_id: str) -> None:
    with ManifestWriter(folder / "manifest.parquet") as writer:
        for line in lines:
            writer.write(line)
    FolderManifests(folder / "manifests").write(folder / "manifest.parquet", group, partition, run_id)


def fill(folder: Path, nights: int, objects: int) -> None:
    """Write manifests of some ID ranges, and of folded nights that took so many objects each, half of them new."""
    media, accounts = FileType.MEDIA_ATTACHMENTS, FileType.ACCOUNTS
    for low in range(0, _RANGES * _RANGE_OBJECTS, _RANGE_OBJECTS):
        lines = (_line(media, number) for number in range(low, low + _RANGE_OBJECTS))
        _publish(folder, lines, media.value, f"{low}-{low + _RANGE_OBJECTS - 1}", f"range-{low}")
    new = _RANGES * _RANGE_OBJECTS
    for night in range(nights):
        first = new + night * (objects // 2)
        lines = [_line(media, first + number) for number in range(objects // 2)]
        lines += [_line(accounts, (night * 7 + number) % 5_000) for number in range(objects // 2)]
        _publish(folder, lines, SYNC_CHANGES, CHANGES, f"night-{night}")
        fold_manifests(FolderManifests(folder / "manifests"), SYNC_CHANGES, CHANGES, print)


def report(folder: Path) -> str:
    """Read the newest line of every object, as `mastosync report` does; return what it took."""
    limit_malloc_arenas()
    begun, objects = time.process_time(), 0
    for file_type in (FileType.MEDIA_ATTACHMENTS, FileType.ACCOUNTS):
        inventory = Inventory(FolderManifests(folder / "manifests"), file_type, Damaged(print))
        for _ in inventory.lines([Outcome.MISSING]):
            pass
        objects += inventory.totals.outcomes.total()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{objects:,} objects, {time.process_time() - begun:.2f} s of processor time, {peak:,.0f} MiB at most"


def status(nights: int) -> str:
    """Read the watermark from a history of so many nights, as `mastosync status` does; return what it took."""
    with tempfile.TemporaryDirectory() as home:
        instance = dg.DagsterInstance.local_temp(home)
        for night in range(nights):
            metadata: dict[str, dg.MetadataValue[Any]] = {
                WATERMARK: dg.MetadataValue.timestamp(datetime.fromtimestamp(1_700_000_000 + night, timezone.utc)),
                DESTINATION: dg.MetadataValue.text(_DESTINATION_ID),
            }
            instance.report_runless_asset_event(dg.AssetObservation(FileType.ACCOUNTS.value, metadata=metadata))
        begun = time.process_time()
        found = watermark(instance, FileType.ACCOUNTS, _DESTINATION_ID)
        assert (found is None) == (nights == 0)  # noqa: S101  (what is measured must be what is meant)
        return f"watermark of a file type: {time.process_time() - begun:.2f} s of processor time"


def main() -> None:
    """Measure without nights and with them, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nights", description=__doc__)
    parser.add_argument("--nights", type=int, default=1_000, help="incremental runs (default 1,000: three years)")
    parser.add_argument("--objects", type=int, default=400, help="objects of each (default 400)")
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.report:
        print(report(arguments.report))
        return
    for nights in (0, arguments.nights):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.process_time()
            fill(Path(folder), nights, arguments.objects)
            print(f"{nights:,} nights: {time.process_time() - begun:.2f} s of processor time to write and fold them")
            command = [sys.executable, "-m", "benchmarks.nights", "--report", folder]
            print(
                f"{nights:,} nights, report:",
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(),
            )
        print(f"{nights:,} nights, status:", status(nights))


if __name__ == "__main__":
    main()
