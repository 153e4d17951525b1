"""A run of ``sync_changes`` in a terminal: a bar while it goes on, a table at its end, plain words if it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.progress import BarProgress
from mastosync_dagster.reports import counts

if TYPE_CHECKING:
    from collections.abc import Mapping

    import dagster as dg
    from rich.console import Console

    from mastosync_dagster.reports import Summary

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
    result = job.execute_in_process(
        run_config={**run_config, "loggers": _QUIET}, instance=instance, raise_on_error=False
    )
    if result.success:
        console.print(_table(result.output_for_node("report_changes")))
        return True
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            user_failure = event.step_failure_data.user_failure_data
            text = user_failure.description if user_failure else None
            console.print(text or (error.message if error else "failed"), style="bold red", markup=False)
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
