"""The age that ``mastosync check --max-age`` takes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.age import parse_age
from mastosync_dagster.cli.main import main


@pytest.mark.parametrize(
    ("text", "hours"), [("26h", 26), ("2d", 48), ("1d12h", 36), ("90m", 1.5), ("90min", 1.5), (" 1d 2h 30m ", 26.5)]
)
def test_an_age_has_days_hours_and_minutes(text: str, hours: float) -> None:
    assert parse_age(text) == timedelta(hours=hours)


@pytest.mark.parametrize("age", ["", "0h", "tomorrow", "26", "-1h", "1e3h", "26h 1x"])
def test_an_age_that_is_none_is_refused(age: str) -> None:
    outcome = CliRunner().invoke(main, ["check", "--max-age", age])
    assert outcome.exit_code == 1
    assert "write 26h, 90m, 2d or 1d12h" in outcome.output
