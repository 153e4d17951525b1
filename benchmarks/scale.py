"""Measures a large instance: ``python -m benchmarks.scale``. It needs 4 GB of disk for ten million rows."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.utils import make_new_run_id

from benchmarks import dataset, servers
from benchmarks.report import replace_between
from benchmarks.site import Site, site
from mastosync_dagster.ranges.partitions import FileType, parse_range
from mastosync_dagster.records.doubts import Doubt, DoubtLine, DoubtWriter
from mastosync_dagster.records.manifest import FORMAT, ManifestLine
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.parquet import LineWriter
from mastosync_dagster.records.summaries import COUNTERS
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.doubt_lists import DoubtList
from mastosync_dagster.runs.manifests import ManifestOrigin, manifest_store
from mastosync_dagster.runs.watermarks import DESTINATION, READ_AT
from mastosync_dagster.units import MEGABYTE, MIB
from mastosync_dagster_tests.support.tcp_proxy import TcpProxy, tcp_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TABLE = FileType.PREVIEW_CARDS
_STEP = 1_000_000
_CHANGED = 1_000
_IN_DOUBT = 5
_MANIFESTS = "manifests"
_NOTHING = "import mastosync_dagster.cli.console, mastosync_dagster.definitions as d; d.build_definitions()"
"""Loads what commands and runs load."""
_COLUMNS = ("seconds", "CPU seconds", "peak MB", "MB: database", "MB: storages", "MB: files", "MB read")
_COUNTED = """Read are the bytes that the database sends; those that both storages send, manifests and doubt lists among
them; and those of files, mostly the history, less the {modules:,.0f} MB of a process that only loads what a command
loads."""
_POLL_SECONDS = 0.05
_DOCUMENT = Path(__file__).parents[1] / "docs" / "scale.md"
_BEGIN, _END = "<!-- measured: written by `python -m benchmarks.scale --docs` -->", "<!-- end of measured -->"


@dataclass(frozen=True)
class Taken:
    """What a command took.

    Attributes:
        cpu: Seconds of processor time.
        peak: Bytes of memory at most.
        files: Bytes that it read from files, Python's own modules included.
    """

    seconds: float
    cpu: float
    peak: int
    files: int


@dataclass(frozen=True)
class Meter:
    """Writes lines about commands. What comes from the database and the storages passes through its proxies.

    Attributes:
        storages: Source, and destination with the bucket of manifests.
        modules: Bytes of files that a command reads which does nothing: `_NOTHING`.
    """

    database: TcpProxy
    storages: tuple[TcpProxy, ...]
    modules: int

    def line(self, what: str, *arguments: str) -> str:
        """Run a command, and return a line of the table about it."""
        database, storages = self.database.received, self._received()
        taken = command(*arguments)
        read = (self.database.received - database, self._received() - storages, max(taken.files - self.modules, 0))
        cells = (f"{taken.seconds:.1f}", f"{taken.cpu:.1f}", f"{taken.peak / MIB:,.0f}")
        return " | ".join((f"| {what}", *cells, *(f"{each / MEGABYTE:,.1f}" for each in (*read, sum(read))))) + " |"

    def _received(self) -> int:
        return sum(each.received for each in self.storages)


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


@contextlib.contextmanager
def metered(made: Site) -> Iterator[Meter]:
    """Let the variables of this process name proxies before the servers, and a bucket for manifests."""
    with contextlib.ExitStack() as stack:
        ports = (made.database.port, made.source.port, made.destination.port)
        database, source, destination = (stack.enter_context(tcp_proxy(port)) for port in ports)
        made.destination.client().create_bucket(Bucket=_MANIFESTS)
        os.environ |= replace(
            made,
            database=replace(made.database, port=database.port),
            source=replace(made.source, port=source.port),
            destination=replace(made.destination, port=destination.port),
        ).settings()
        os.environ["MASTOSYNC_MANIFESTS"] = f"s3://{_MANIFESTS}"
        yield Meter(database, (source, destination), command("python", "-c", _NOTHING).files)


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
    """Leave behind what runs over ID ranges do: a run, a materialization, a manifest and a doubt list of each."""
    destination = S3Bucket.destination()
    origin = ManifestOrigin(destination.settings().identity, acls=True)
    counters = {"objects": rows, "copied": rows, "bytes": rows * 40_000, "seconds": rows / 100}
    metadata: dict[str, dg.MetadataValue[Any]] = {
        READ_AT: dg.MetadataValue.timestamp(datetime.now(timezone.utc)),
        DESTINATION: dg.MetadataValue.text(origin.destination_id),
        COUNTERS: dg.MetadataValue.json(counters),
    }
    with dg.DagsterInstance.from_config(str(home)) as instance, tempfile.TemporaryDirectory() as folder:
        store = manifest_store(instance, destination)
        doubts = DoubtList(store, origin, TABLE.value)
        for key in keys:
            instance.report_runless_asset_event(dg.AssetMaterialization(TABLE.value, partition=key, metadata=metadata))
            run = dg.DagsterRun(f"sync_{TABLE.value}", make_new_run_id(), status=dg.DagsterRunStatus.SUCCESS)
            instance.add_run(run)
            lines = [_line(row_id) for row_id in range(parse_range(key).lo, parse_range(key).lo + rows)]
            with LineWriter[ManifestLine](Path(folder) / "manifest", FORMAT.schema(origin.metadata())) as writer:
                for line in lines:
                    writer.write(line)
            store.write(Path(folder) / "manifest", TABLE.value, key, run.run_id)
            with DoubtWriter(Path(folder) / "doubts", origin.metadata()) as listed:
                for line in lines[:_IN_DOUBT]:
                    listed.write(DoubtLine(line.row_id, line.part, Doubt.MISSING, 0, line.key))
            doubts.publish(Path(folder) / "doubts", key, run.run_id)


def _line(row_id: int) -> ManifestLine:
    key = f"cache/{TABLE.value}/images/{row_id:012}/original/{row_id:016x}.jpg"
    return ManifestLine(
        *(TABLE.value, row_id, "image/original", key, key, Outcome.COPIED, None, None, 40_000, f"{row_id:032x}"),
        private=False,
        remote=True,
    )


def change(made: Site, rows: dataset.Rows) -> None:
    """Let some of the real rows' files change, as far as the database can tell."""
    with contextlib.closing(dataset.connect(made.database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE preview_cards SET image_updated_at = now() AT TIME ZONE 'UTC' WHERE id BETWEEN %s AND %s",
            (rows.lo, rows.lo + _CHANGED - 1),
        )


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measure(rows: int, ranges: int) -> list[str]:
    """Return a table in Markdown of what commands and runs take with so many rows and ID ranges."""
    load = os.getloadavg()[0]
    with site(objects=2) as made, metered(made) as meter:
        home, size = made.folder / "home", rows // ranges
        home.mkdir()
        (home / "dagster.yaml").write_text((Path(__file__).parents[1] / "dagster.yaml").read_text())
        os.environ |= {"DAGSTER_HOME": str(home), "MASTOSYNC_ROWS_PER_PARTITION": str(size)}
        real = fill(made, rows, size)
        lines = [meter.line("`mastosync status`, nothing copied yet", "mastosync", "status", TABLE.value)]
        lines.append(meter.line(f"`mastosync ranges`: {ranges + 1:,} new ones", "mastosync", "ranges", TABLE.value))
        with dg.DagsterInstance.from_config(str(home)) as instance:
            *keys, last = instance.get_dynamic_partitions(TABLE.partitions_name)
        materialize(home, keys, size)
        before = _bytes_below(home)
        job = ("-m", "mastosync_dagster", "-j", f"sync_{TABLE.value}", "--tags", f'{{"dagster/partition": "{last}"}}')
        lines.append(meter.line(f"The run of an ID range, {size:,} objects", "dagster", "job", "execute", *job))
        history, manifest = _bytes_below(home) - before, _manifest_bytes(made, last)
        lines.append(meter.line("`mastosync status`, all ranges copied", "mastosync", "status"))
        change(made, real)
        night = ("mastosync", "sync", "--changed-since", "last")
        lines.append(meter.line(f"The first night, {_CHANGED:,} rows have changed", *night))
        lines.append(meter.line("A night, nothing has changed", *night))
    busy = " The machine was busy: compare CPU seconds." if load > 1 else ""
    objects = f"{rows:,} rows in {ranges:,} ID ranges of {size:,} rows, one object each."
    return [
        f"{objects} Each range has a manifest and a doubt list of {_IN_DOUBT} objects, in a bucket.",
        "",
        f"| what | {' | '.join(_COLUMNS)} |",
        f"|---|{'---:|' * len(_COLUMNS)}",
        *lines,
        "",
        _COUNTED.format(modules=meter.modules / MEGABYTE),
        "",
        f"A run adds {history / 1000:,.0f} kB to the history, and {manifest / size:,.0f} bytes of manifest an object.",
        "",
        f"{os.cpu_count()} cores, load average before the first command: {load:.1f}.{busy}",
    ]


def _manifest_bytes(made: Site, key: str) -> int:
    listed = made.destination.client().list_objects_v2(Bucket=_MANIFESTS, Prefix=f"{TABLE.value}/{key}/")
    return sum(each["Size"] for each in listed.get("Contents", ()))


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
