"""What the commands show people in a terminal, and scripts with ``--json``."""

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
    from mastosync_dagster.runs.history import Watermark

_MEGABYTE = 1_000_000
# Dagster's own lines on the terminal would tear the bar; they are in the UI all the same.
_QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}


def run_with_bar(console: Console, instance: dg.DagsterInstance, run_config: Mapping[str, object]) -> bool:
    """Run ``sync_changes`` in this process.

    Args:
        console: Where the bar and the table go.
        instance: Where the run is recorded.
        run_config: Config of the job's ops.

    Returns:
        Whether it succeeded, that is: no object failed.
    """
    job = build_definitions(BarProgress(console)).resolve_job_def("sync_changes")
    run_id = str(uuid.uuid4())
    # Before the run is on record: at whatever moment this process is killed, the next command sees that it has died.
    lock(instance, run_id)
    result = job.execute_in_process(
        run_config={**run_config, "loggers": _QUIET}, instance=instance, raise_on_error=False, run_id=run_id
    )
    if result.success:
        summary = result.output_for_node("report_changes")
        console.print(_table(summary))
        # Seldom: after the switch, after a refetch.
        for group, tally in summary.groups.items():
            if tally.only_at_destination:
                told = f"{group}: {tally.only_at_destination:,} of those present are only at the destination"
                console.print(told, markup=False)
        return True
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            user_failure = event.step_failure_data.user_failure_data
            text = user_failure.description if user_failure else None
            told = plain(text or (root_of(error).message if error else "failed"))
            console.print(told, style="bold red", markup=False)
    console.print(f"run {result.run_id}: more in the Dagster UI", markup=False)
    return False


def _table(summary: Summary) -> Table:
    table = Table()
    table.add_column("file type")
    for name in ("objects", "copied", "present", "missing", "failed", "MB"):
        table.add_column(name, justify="right")
    for group, tally in summary.groups.items():
        told = counts(tally)
        numbers = (f"{told[name]:,}" for name in ("objects", "copied", "present", "missing", "failed"))
        table.add_row(group, *numbers, f"{told['bytes'] / _MEGABYTE:,.1f}")
    return table


def status_lines(status: Status) -> list[str]:
    """Return what people read about a file type."""
    left, known = status.left, status.watermark
    kinds = ("materialized", "failed", "running", "missing")
    ranges = ", ".join(f"{getattr(status, kind):,} {kind}" for kind in kinds)
    there = status.only_at_destination
    done = f"{status.objects_done:,} done" + (f" ({there:,} only at the destination)" if there else "")
    rest = "all taken, some in doubt" if status.in_doubt and not left.objects else f"{left.objects:,} left"
    done_mb, left_mb = status.bytes_done / _MEGABYTE, left.bytes / _MEGABYTE
    return [
        status.file_type.value,
        f"  ranges       {status.ranges:,}: {ranges}",
        f"  objects      {done}, {status.objects_missing:,} missing, {rest}",
        f"  originals    {done_mb:,.1f} MB done, {left_mb:,.1f} MB left (by the database)",
        *([f"  in doubt     {doubt_text(status.in_doubt)}"] if status.in_doubt else []),
        f"  incremental  {_incremental(known)}",
        *([f"  restored     {RESTORED}; the next incremental run takes every row"] if status.restored else []),
    ]


def _incremental(known: Watermark | None) -> str:
    if known is None:
        return "none yet"
    return f"run {known.run_id}, watermark {known.moment.isoformat(' ', 'seconds')}"


def status_json(status: Status) -> dict[str, object]:
    """Return what scripts read about a file type."""
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
        "watermark": known.moment.isoformat() if known else None,
    }


def estimate_lines(told: Estimate) -> list[str]:
    """Return what people read about what a copy will take."""
    hours = "not known: no run has copied anything yet; --objects-per-second or --megabytes-per-second gives a rate"
    return [
        f"objects   {told.objects:,}",
        f"size      {told.bytes / _MEGABYTE:,.1f} MB (originals by the database, the rest guessed)",
        f"requests  {told.lists:,} list, {told.gets:,} get, {told.puts:,} put",
        f"cost      {told.dollars:,.2f} US dollars for the copy, {told.dollars_a_month:,.2f} a month to keep it",
        f"hours     {hours if told.hours is None else f'{told.hours:,.2f}, one run at a time'}",
    ]
