"""What the runs say of themselves, as a table, and held against what the generator knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from mastosync_dagster.demo.dagster_processes import COUNTS
from mastosync_dagster.demo.instance.load import FILE_TYPES
from mastosync_dagster.records.manifest import read_manifest
from mastosync_dagster.records.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mastosync_dagster.demo.dagster_processes import RunReport
    from mastosync_dagster.demo.instance.load import Instance

_MEGABYTE = 1_000_000


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
            f"{counts['bytes'] / _MEGABYTE:,.1f}",
            f"{sum(run.seconds for run in its_runs):.1f}",
        )
    return lines


def unexpected(name: str, runs: Sequence[RunReport], instance: Instance, *, copied: int, present: int) -> Iterator[str]:
    """Say in a line each what runs over the whole instance say of themselves and should not.

    Args:
        name: What to call the runs.
        runs: The runs.
        instance: What the generator knows.
        copied: How many objects they must have copied.
        present: How many they must have found at the destination.
    """
    yield from (
        f"{name}: the run of {run.file_type or 'everything'} {run.partition} failed: {run.message}"
        for run in runs
        if not run.success
    )
    lost = {missing.key for missing in instance.missing_of(*FILE_TYPES)}
    told = total(runs)
    for outcome, count in {"copied": copied, "present": present, "missing": len(lost), "failed": 0}.items():
        if told[outcome] != count:
            yield f"{name}: {told[outcome]:,} {outcome} instead of {count:,}"
    missing = _missing_keys(runs)
    yield from (f"{name}: {key} is told missing, and the source has it" for key in sorted(missing - lost))
    yield from (f"{name}: {key} is not told missing, and the source has lost it" for key in sorted(lost - missing))


def _missing_keys(runs: Sequence[RunReport]) -> set[str]:
    return {
        line.key
        for run in runs
        if run.manifest
        for lines in read_manifest(Path(run.manifest))
        for line in lines
        if line.outcome is Outcome.MISSING
    }
