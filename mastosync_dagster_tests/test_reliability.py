"""docs/reliability.md names tests that there are, and docs/providers.md settings that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mastosync_dagster.sync.config import CopyConfig
from mastosync_dagster_tests.faults.scenarios import SEEDS, SINGLE

TESTS = Path(__file__).parent
TEXT = (TESTS.parent / "docs" / "reliability.md").read_text()
PROVIDERS = (TESTS.parent / "docs" / "providers.md").read_text()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]+\.py::\w+)`", TEXT))))
def test_every_test_that_it_names_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert f"\ndef {function}(" in (TESTS / path).read_text()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w/]+\.py)`", TEXT))))
def test_every_file_that_it_names_exists(path: str) -> None:
    assert (TESTS / path).is_file() or (TESTS.parent / "mastosync_dagster" / path).is_file()


def test_every_promise_names_its_test() -> None:
    promises = re.findall(r"^\d\. \*\*.*?(?=^\d\. |^\S)", TEXT, re.MULTILINE | re.DOTALL)
    rows = [
        line
        for table in re.findall(r"^\|.*\| test \|\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
        for line in table.splitlines()
    ]
    assert len(promises) == 5
    assert len(rows) > 100
    for said in [*promises, *rows]:
        assert re.search(r"test_\w+\.py`|test_\w+\.py::\w+`|\| the same \|$", said), said


def test_its_numbers_are_those_of_the_tests() -> None:
    assert f"{len(SINGLE)} scenarios" in TEXT
    assert f"{SEEDS} times" in TEXT


def test_every_setting_that_answers_a_provider_exists() -> None:
    variables = set(re.findall(r"`((?:DESTINATION_|MASTOSYNC_|S3_|AWS_)[A-Z0-9_]+)=?", PROVIDERS))
    example = (TESTS.parent / ".env.example").read_text()
    assert {"DESTINATION_S3_PERMISSION", "DESTINATION_S3_REGION"} <= variables
    assert variables <= set(re.findall(r"^#?([A-Z0-9_]+)=", example, re.MULTILINE))
    limits = set(re.findall(r"`((?:source|destination)_\w+_per_second)", PROVIDERS))
    assert len(limits) == 4
    assert limits <= set(CopyConfig.model_fields)
