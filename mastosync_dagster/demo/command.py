"""``mastosync demo``: the sync jobs on a generated instance, with servers that run as long as the command."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import psycopg2
from rich.console import Console

from mastosync_dagster.demo.comparison import compare
from mastosync_dagster.demo.dagster_processes import dagster_ui, runs_process
from mastosync_dagster.demo.home import (
    DESTINATION_BUCKET,
    SOURCE_BUCKET,
    DemoError,
    Servers,
    environment_of_runs,
    fresh_home,
)
from mastosync_dagster.demo.instance.cases import CASES
from mastosync_dagster.demo.instance.load import Instance, build, grow
from mastosync_dagster.demo.servers.start import LOOPBACK, ServerError, postgres, rclone_s3
from mastosync_dagster.demo.verdict import table, total, unexpected
from mastosync_dagster.installation.processes import StopRequested, stop_requests
from mastosync_dagster.ranges.file_types import FILE_TYPES
from mastosync_dagster.units import MEGABYTE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mastosync_dagster.demo.dagster_processes import RunsProcess

_ROWS = 3000
_NEW_ROWS = 600
_WRONG_LINES = 20
_SIGNALLED = 128  # what shells add to the number of the signal that ended a command


def run_demo(*, ui: bool, directory: Path) -> int:
    """Generate a small instance, sync it through Dagster, check the destination, and print the result.

    With ``ui``, then let the instance grow, and serve the Dagster UI on loopback until Ctrl-C. The Dagster home lies in
    ``directory``; that of an earlier demo is removed. Call it in the main thread, where signals arrive.

    Returns:
        Exit status: 0 if everything is as expected, 128 plus the signal's number if one stopped it, else 1.
    """
    # Lines are never broken, so that keys can be taken from them; the table fits into 80 columns.
    console = Console(highlight=False, soft_wrap=True)
    # libcurl reads proxies from the environment, and nothing else turns that off.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = LOOPBACK
    try:
        with stop_requests(), fresh_home(directory.resolve()) as home:
            return _demo(console, home, ui=ui)
    except StopRequested as request:
        console.print(f"stopped by {request.signal.name}")
        return _SIGNALLED + request.signal
    except (DemoError, ServerError) as error:
        console.print(str(error), style="bold red", markup=False)
        return 1


def _demo(console: Console, home: Path, *, ui: bool) -> int:
    console.print("A generated instance, copied between two S3 servers on this machine, takes about a minute:")
    with contextlib.ExitStack() as stack:
        with _stage(console, "PostgreSQL and two S3 servers"):
            servers = Servers(
                database=stack.enter_context(postgres()),
                source=stack.enter_context(rclone_s3(buckets=(SOURCE_BUCKET,))),
                destination=stack.enter_context(rclone_s3(buckets=(DESTINATION_BUCKET,))),
            )
        environment, url = environment_of_runs(home, servers), servers.database.url
        # Importing Dagster takes that process seconds: the instance is made meanwhile.
        with runs_process(environment, home / "demo-runs.log") as dagster:
            with _stage(console, "an instance") as results, contextlib.closing(psycopg2.connect(url)) as connection:
                instance = build(connection, servers.source, SOURCE_BUCKET, cases=CASES, rows=_ROWS)
                results.append(_described(instance))
            wrong = _sync_and_check(console, dagster, instance, servers)
            if ui:
                with _stage(console, "a day later") as results, contextlib.closing(psycopg2.connect(url)) as connection:
                    now = datetime.now(timezone.utc)
                    more = grow(connection, servers.source, SOURCE_BUCKET, instance, rows=_NEW_ROWS, now=now)
                    dagster.ask("ranges")
                    results.append(_described(more))
        if ui:
            _serve(console, home, environment)
        else:
            console.print(
                f"The runs and their manifests are in {home}.\n"
                "To see them in the Dagster UI: make demo-ui (or: mastosync demo --ui)"
            )
    return 1 if wrong else 0


def _sync_and_check(console: Console, dagster: RunsProcess, instance: Instance, servers: Servers) -> Sequence[str]:
    """Sync, check the destination, sync again, and print the results. Returns what is not as expected."""
    objects = instance.objects_of(*FILE_TYPES)
    with _stage(console, "a sync") as results:
        dagster.ask("ranges")
        runs = dagster.ask("sync")
        results.append(f"{len(runs)} ID ranges, a run of Dagster each")
    with _stage(console, "the destination listed, and every object read"):
        comparison = compare(servers.destination, DESTINATION_BUCKET, objects)
    with _stage(console, "a second sync, of everything in one run") as results:
        again = dagster.ask("again")
        counts = total(again)
        results.append(f"{counts['copied']:,} copied, {counts['present']:,} present")
    wrong = [
        *unexpected("first sync", runs, instance, copied=len(objects), present=0),
        *unexpected("second sync", again, instance, copied=0, present=len(objects)),
        *comparison.differences,
    ]
    console.print(table(runs))
    console.print(f"checked: {comparison.equal:,} objects equal, {len(comparison.differences):,} differ")
    for line in wrong[:_WRONG_LINES]:
        console.print(line, style="red", markup=False)
    if len(wrong) > _WRONG_LINES:
        console.print(f"… and {len(wrong) - _WRONG_LINES:,} lines more", style="red")
    return wrong


def _serve(console: Console, home: Path, environment: Mapping[str, str]) -> None:
    """Serve the Dagster UI until a signal asks to stop."""
    with contextlib.ExitStack() as stack:
        with _stage(console, "the Dagster UI"):
            ui = stack.enter_context(dagster_ui(home, environment, home / "demo-ui.log"))
        console.print(
            f"{ui.url} is the Dagster UI; Ctrl-C ends it and the servers.\n"
            "The rows of the day later wait for a second backfill: Catalog > media_attachments > Materialize >"
            " Missing > Launch.\nIts runs start within half a minute."
        )
        try:
            ui.wait()
        except StopRequested:
            console.print("stopping, which takes some seconds")


def _described(instance: Instance) -> str:
    rows = sum(len(rows) for table, rows in instance.rows.items() if table != "statuses")
    megabytes = sum(expected.size for expected in instance.objects) / MEGABYTE
    return f"{rows:,} rows, {len(instance.objects):,} objects, {megabytes:.1f} MB"


@contextlib.contextmanager
def _stage(console: Console, what: str) -> Iterator[list[str]]:
    """Print a line with the time that the block took, and with what the block appends to the list.

    A terminal shows meanwhile what goes on.
    """
    started = time.monotonic()
    results: list[str] = []
    with console.status(what):
        yield results
    console.print(f"{time.monotonic() - started:5.1f} s  {': '.join([what, *results])}", markup=False)
