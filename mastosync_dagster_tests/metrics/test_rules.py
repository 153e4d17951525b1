"""The alert rules: each fires when it should and is silent otherwise, by ``promtool test rules``."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster_tests.support.prometheus import PROMTOOL, needs_prometheus

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = Path(__file__).parents[1] / "data" / "rules_test.yaml"
NAMES = (
    "MastosyncNoGoodNight",
    "MastosyncNeverAGoodNight",
    "MastosyncNotScraped",
    "MastosyncObjectsFail",
    "MastosyncRangesFailed",
)
pytestmark = needs_prometheus


def outcome_of(
    folder: Path, change: Callable[[list[Any]], object] = lambda _: None
) -> subprocess.CompletedProcess[str]:
    """Hold the rules that the command prints, changed in some way, against all cases."""
    assert PROMTOOL is not None
    rules = yaml.safe_load(CliRunner().invoke(main, ["metrics", "--rules"]).output)
    change(rules["groups"][0]["rules"])
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    (folder / CASES.name).write_text(CASES.read_text())
    return subprocess.run(
        [PROMTOOL, "test", "rules", CASES.name], cwd=folder, capture_output=True, text=True, check=False
    )


def test_every_rule_fires_and_is_silent_at_the_right_time(tmp_path: Path) -> None:
    def note(rules: list[Any]) -> None:
        assert tuple(rule["alert"] for rule in rules) == NAMES

    outcome = outcome_of(tmp_path, note)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize("name", NAMES)
def test_without_a_rule_its_case_fails(name: str, tmp_path: Path) -> None:
    def remove(rules: list[Any]) -> None:
        rules[:] = [rule for rule in rules if rule["alert"] != name]

    outcome = outcome_of(tmp_path, remove)
    assert outcome.returncode == 1
    assert name in outcome.stdout + outcome.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_that_fires_too_early_is_noticed(name: str, tmp_path: Path) -> None:
    def fire_at_once(rules: list[Any]) -> None:
        (rule,) = (rule for rule in rules if rule["alert"] == name)
        rule["for"] = "0s"

    assert outcome_of(tmp_path, fire_at_once).returncode == 1
