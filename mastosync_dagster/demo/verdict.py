"""Shows the results of the runs as a table, and compares them with the generated instance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from mastosync_dagster.demo.dagster_processes import COUNTS
from mastosync_dagster.ranges.file_types import FILE_TYPES
from mastosync_dagster.records.manifest import read_manifest
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.units import MEGABYTE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mastosync_dagster.demo.dagster_processes import RunReport
    from mastosync_dagster.demo.instance.load import Instance


def total(runs: Sequence[RunReport]) -> dict[str, int]:
    """Return the counts of some runs, added up."""
    return {name: sum(run.counts[name] for run in runs) for name in COUNTS}


def table(runs: Sequence[RunReport]) -> Table:
    """Return a table of the runs, a line per file type."""
    lines = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    lines.add_column("file type", no_wrap=True)
    outcomes = ("rows", "objects", "copied", "present", "missing", "failed")
    for name in ("ranges", *outcomes, "MB", "s"):
        lines.add_column(name, justify="right", no_wrap=True)
    for file_type in FILE_TYPES:
        its_runs = [run for run in runs if run.file_type == file_type]
        counts = total(its_runs)
        lines.add_row(
            file_type,
            f"{len(its_runs):,}",
            *(f"{counts[name]:,}" for name in outcomes),
            f"{counts['bytes'] / MEGABYTE:,.1f}",
            f"{sum(run.seconds for run in its_runs):.1f}",
        )
    return lines


def unexpected(name: str, runs: Sequence[RunReport], instance: Instance, *, copied: int, present: int) -> Iterator[str]:
    """Yield a line for each unexpected result of runs that together cover the instance.

    ``name`` is what to call the runs; ``copied`` and ``present`` are the numbers of objects to expect.
    """
    yield from (
        f"{name}: the run of {run.file_type or 'everything'} {run.partition} failed: {run.message}"
        for run in runs
        if not run.success
    )
    lost = {missing.key for missing in instance.missing_of(*FILE_TYPES)}
    counts = total(runs)
    for outcome, count in {"copied": copied, "present": present, "missing": len(lost), "failed": 0}.items():
        if counts[outcome] != count:
            yield f"{name}: {counts[outcome]:,} {outcome} instead of {count:,}"
    missing = _missing_keys(runs)
    yield from (f"{name}: {key} is reported missing, and the source has it" for key in sorted(missing - lost))
    yield from (f"{name}: {key} is not reported missing, and the source has lost it" for key in sorted(lost - missing))


def _missing_keys(runs: Sequence[RunReport]) -> set[str]:
    return {
        line.key
        for run in runs
        if run.manifest
        for lines in read_manifest(Path(run.manifest))
        for line in lines
        if line.outcome is Outcome.MISSING
    }
