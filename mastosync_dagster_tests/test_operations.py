"""What docs/operations.md shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest

from mastosync_dagster import environment
from mastosync_dagster.cli.main import main
from mastosync_dagster.definitions import build_definitions

TEXT = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()


def test_the_sensor_of_ones_own_loads_beside_ours() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    space: dict[str, object] = {"__name__": "alerts"}
    exec(compile(example, "alerts.py", "exec"), space)  # noqa: S102  (our own page)
    defs = space["defs"]
    assert isinstance(defs, dg.Definitions)
    names = {sensor.name for sensor in defs.sensors or ()}
    assert {"mail_on_failure", "alert_on_failure", "new_ranges"} <= names


@pytest.mark.parametrize("command", ["sync", "status", "check", "estimate"])
def test_every_command_that_it_shows_exists_with_its_options(command: str) -> None:
    known = {option for parameter in main.commands[command].params for option in parameter.opts}
    lines = [line for line in TEXT.splitlines() if line.startswith(f"    mastosync {command}")]
    assert lines
    for line in lines:
        assert set(re.findall(r"--[a-z-]+", line.partition("#")[0])) <= known, line


def test_it_names_only_variables_schedules_and_sensors_that_there_are() -> None:
    assert set(re.findall(r"MASTOSYNC_[A-Z_]+", TEXT)) <= set(environment.VARIABLES)
    definitions = build_definitions()
    for schedule in ("nightly_incremental", "delete_old_runs_daily"):
        assert schedule in TEXT
        assert definitions.resolve_schedule_def(schedule).default_status is dg.DefaultScheduleStatus.STOPPED
