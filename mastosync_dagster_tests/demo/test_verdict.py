"""The demo compares the results of its runs with the generated instance, and reports every difference."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from mastosync_dagster.demo.dagster_processes import COUNTS, RunReport
from mastosync_dagster.demo.instance.load import GeneratedObject, Instance, MissingObject
from mastosync_dagster.demo.verdict import table, unexpected
from mastosync_dagster.records.manifest import ManifestLine, ManifestWriter
from mastosync_dagster.records.outcomes import Outcome

if TYPE_CHECKING:
    from pathlib import Path

_EXPECTED = GeneratedObject(
    table="accounts",
    row_id=1,
    key="a",
    source_key="a",
    size=1,
    md5="",
    content_type="image/png",
    cache_control=None,
    metadata={},
    private=False,
)
_INSTANCE = Instance(
    rows={"accounts": ({"id": 1},)},
    objects=(_EXPECTED, replace(_EXPECTED, table="backups", key="dump")),
    missing=(MissingObject(table="accounts", row_id=1, key="lost", private=False, harmless=False),),
    strays=(),
    cases={},
    key_prefix="",
)


def _run(folder: Path, *, missing: tuple[str, ...] = ("lost",), success: bool = True, **counts: int) -> RunReport:
    """A run that says of itself what it should, but for the arguments."""
    manifest = folder / "manifest.parquet"
    with ManifestWriter(manifest) as writer:
        for key in missing:
            line = ManifestLine(
                "accounts", 1, "avatar/original", key, None, Outcome.MISSING, None, None, None, None, False
            )
            writer.write(line)
    right = {"rows": 1, "objects": 2, "copied": 1, "present": 0, "missing": 1, "failed": 0, "bytes": 1_500_000}
    assert set(right) == set(COUNTS)
    return RunReport(
        file_type="accounts",
        partition="1-9",
        success=success,
        message="" if success else "no such bucket",
        manifest=str(manifest),
        seconds=1.25,
        counts=right | counts,
    )


def test_runs_with_the_expected_results_yield_no_line(tmp_path: Path) -> None:
    assert list(unexpected("sync", [_run(tmp_path)], _INSTANCE, copied=1, present=0)) == []


@pytest.mark.parametrize(
    ("run", "line"),
    [
        ({"success": False}, "sync: the run of accounts 1-9 failed: no such bucket"),
        ({"copied": 0}, "sync: 0 copied instead of 1"),
        ({"present": 3}, "sync: 3 present instead of 0"),
        ({"failed": 2}, "sync: 2 failed instead of 0"),
        ({"missing": ("lost", "a")}, "sync: a is reported missing, and the source has it"),
        ({"missing": ()}, "sync: lost is not reported missing, and the source has lost it"),
    ],
)
def test_an_unexpected_result_yields_a_line(tmp_path: Path, run: dict[str, Any], line: str) -> None:
    assert list(unexpected("sync", [_run(tmp_path, **run)], _INSTANCE, copied=1, present=0)) == [line]


def test_the_table_fits_into_a_terminal(tmp_path: Path) -> None:
    big = _run(tmp_path, rows=1_650, objects=2_690, copied=2_682, present=2_682, bytes=10**8)
    console = Console(width=80, highlight=False)
    with console.capture() as capture:
        console.print(table([replace(big, file_type="media_attachments"), _run(tmp_path), _run(tmp_path)]))
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["media_attachments", "1", "1,650", "2,690", "2,682", "2,682", "1", "0", "100.0", "1.2"] in lines
    assert ["accounts", "2", "2", "4", "2", "0", "2", "0", "3.0", "2.5"] in lines
