"""Output of the commands, for people in a terminal and for scripts (``--json``)."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from rich.table import Table

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.escaping import plain
from mastosync_dagster.records.doubts import OPEN
from mastosync_dagster.records.summaries import counts
from mastosync_dagster.runs.doubts import doubt_text
from mastosync_dagster.runs.failures import root_of
from mastosync_dagster.runs.progress import BarProgress
from mastosync_dagster.runs.run_lock import lock
from mastosync_dagster.sync.incremental import RESTORED

if TYPE_CHECKING:
    from collections.abc import Mapping

    import dagster as dg
    from rich.console import Console

    from mastosync_dagster.cli.estimate import Estimate
    from mastosync_dagster.cli.status import Status
    from mastosync_dagster.records.summaries import Summary

_MEGABYTE = 1_000_000
# Dagster's own log lines would break the bar; the UI has them.
_QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}


def run_with_bar(console: Console, instance: dg.DagsterInstance, run_config: Mapping[str, object]) -> bool:
    """Run ``sync_changes`` in this process; return whether it succeeded, that is: no object failed."""
    job = build_definitions(BarProgress(console)).resolve_job_def("sync_changes")
    run_id = str(uuid.uuid4())
    # Before the run is on record: whenever this process is killed, the next command finds the run dead.
    lock(instance, run_id)
    result = job.execute_in_process(
        run_config={**run_config, "loggers": _QUIET}, instance=instance, raise_on_error=False, run_id=run_id
    )
    if result.success:
        summary = result.output_for_node("report_changes")
        console.print(_table(summary))
        # Rare: after the switch, after a refetch.
        for group, stats in summary.groups.items():
            if stats.only_at_destination:
                line = f"{group}: {stats.only_at_destination:,} of those present are only at the destination"
                console.print(line, markup=False)
        return True
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            user_failure = event.step_failure_data.user_failure_data
            text = user_failure.description if user_failure else None
            message = plain(text or (root_of(error).message if error else "failed"))
            console.print(message, style="bold red", markup=False)
    console.print(f"run {result.run_id}: more in the Dagster UI", markup=False)
    return False


def _table(summary: Summary) -> Table:
    table = Table()
    table.add_column("file type")
    for name in ("objects", "copied", "present", "missing", "failed", "MB"):
        table.add_column(name, justify="right")
    for group, stats in summary.groups.items():
        by_name = counts(stats)
        numbers = (f"{by_name[name]:,}" for name in ("objects", "copied", "present", "missing", "failed"))
        table.add_row(group, *numbers, f"{by_name['bytes'] / _MEGABYTE:,.1f}")
    return table


def status_lines(status: Status) -> list[str]:
    """Return the lines about a file type."""
    left, known = status.left, status.watermark
    kinds = ("materialized", "failed", "running", "missing")
    ranges = ", ".join(f"{getattr(status, kind):,} {kind}" for kind in kinds)
    there = status.only_at_destination
    done = f"{status.objects_done:,} done" + (f" ({there:,} only at the destination)" if there else "")
    rest = "all taken, some in doubt" if status.in_doubt and not left.objects else f"{left.objects:,} left"
    incremental = f"run {known.run_id}, watermark {known.timestamp.isoformat(' ', 'seconds')}" if known else "none yet"
    done_mb, left_mb = status.bytes_done / _MEGABYTE, left.bytes / _MEGABYTE
    return [
        status.file_type.value,
        f"  ranges       {status.ranges:,}: {ranges}",
        f"  objects      {done}, {status.objects_missing:,} missing, {rest}",
        f"  originals    {done_mb:,.1f} MB done, {left_mb:,.1f} MB left (by the database)",
        *([f"  in doubt     {doubt_text(status.in_doubt)}"] if status.in_doubt else []),
        f"  incremental  {incremental}",
        *([f"  restored     {RESTORED}; the next incremental run takes every row"] if status.restored else []),
    ]


def status_json(status: Status) -> dict[str, object]:
    """Return the JSON object of a file type."""
    known = status.watermark
    return {
        "file_type": status.file_type.value,
        "ranges": status.ranges,
        "materialized": status.materialized,
        "failed": status.failed,
        "running": status.running,
        "missing": status.missing,
        "objects_done": status.objects_done,
        "objects_missing": status.objects_missing,
        "objects_only_at_destination": status.only_at_destination,
        "objects_left": status.left.objects,
        "objects_in_doubt": {why.value: status.in_doubt.get(why, 0) for why in OPEN},
        "bytes_done": status.bytes_done,
        "bytes_left": status.left.bytes,
        "last_incremental": known.run_id if known else None,
        "watermark": known.timestamp.isoformat() if known else None,
    }


def estimate_lines(estimate: Estimate) -> list[str]:
    """Return the lines of an estimate."""
    monthly = estimate.dollars_a_month
    hours = "not known: no run has copied anything yet; --objects-per-second or --megabytes-per-second gives a rate"
    return [
        f"objects   {estimate.objects:,}",
        f"size      {estimate.bytes / _MEGABYTE:,.1f} MB (originals by the database, the rest guessed)",
        f"requests  {estimate.lists:,} list, {estimate.gets:,} get, {estimate.puts:,} put",
        f"cost      {estimate.dollars:,.2f} US dollars for the copy, {monthly:,.2f} a month to keep it",
        f"hours     {hours if estimate.hours is None else f'{estimate.hours:,.2f}, one run at a time'}",
    ]
