"""Each planted bug is planted in a copy of the project, and must be noticed by the tests that it names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mastosync_dagster
from mastosync_dagster_tests.mutants.planted import MUTANTS, Mutant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PACKAGE = Path(mastosync_dagster.__file__).parent
PROJECT = PACKAGE.parent
_TESTS = "mastosync_dagster_tests"
_FILES = (
    "pyproject.toml",
    "constraints.txt",
    "dagster.yaml",
    "workspace.yaml",
    ".env.example",
    ".dockerignore",
    "README.md",
)
_PARTS = (PACKAGE.name, _TESTS, "benchmarks", "docs", "deploy", *_FILES)
_FAILED = 1
"""The status of pytest where tests have failed; others say that it could not run them."""


def chosen(mutant: Mutant) -> list[str]:
    """Return what pytest is given: a file, or the tests in it whose names begin as is written."""
    found = []
    for text in mutant.tests:
        name, _, begin = text.partition("::")
        tests = (
            re.findall(rf"^def ({begin}\w*)\(", (PROJECT / _TESTS / name).read_text(), re.MULTILINE) if begin else []
        )
        assert tests or not begin, text
        found += [f"{_TESTS}/{name}::{test}" for test in tests] or [f"{_TESTS}/{name}"]
    return found


def test_the_list_fits_the_code() -> None:
    assert len(MUTANTS) >= 25
    assert [name for name, count in Counter(mutant.what for mutant in MUTANTS).items() if count > 1] == []
    found = {mutant.what: (PACKAGE / mutant.file).read_text().count(mutant.before) for mutant in MUTANTS}
    assert {what: count for what, count in found.items() if count != 1} == {}
    assert all(map(chosen, MUTANTS))


def try_copy(folder: Path, tests: Iterable[str], mutant: Mutant | None = None) -> subprocess.CompletedProcess[str]:
    """Run some tests in a copy of the project, in which a bug is planted, or none."""
    for part in _PARTS:
        path = PROJECT / part
        if path.is_dir():
            shutil.copytree(path, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, folder / part)
    if mutant is not None:
        file = folder / PACKAGE.name / mutant.file
        text = file.read_text()
        assert text.count(mutant.before) == 1
        file.write_text(text.replace(mutant.before, mutant.after))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-rf", "--tb=short", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.mutants
@pytest.mark.timeout(1800)
def test_without_a_planted_bug_nothing_is_noticed(tmp_path: Path) -> None:
    result = try_copy(tmp_path, sorted({test for mutant in MUTANTS for test in chosen(mutant)}))
    assert result.returncode == 0, result.stdout[-2000:]


@pytest.mark.mutants
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.what for mutant in MUTANTS])
def test_a_planted_bug_is_noticed(mutant: Mutant, tmp_path: Path, report: Callable[[object], None]) -> None:
    result = try_copy(tmp_path, chosen(mutant), mutant)
    noticed = re.findall(r"^FAILED (?:\S*::)?([^\s\[]+)", result.stdout, re.MULTILINE)
    report(f"MUTANT {mutant.what}: {'noticed by ' + noticed[0] if noticed else 'NOT NOTICED'}")
    assert result.returncode == _FAILED, result.stdout[-2000:]
    assert noticed, result.stdout[-2000:]
