"""The command `mastosync report`, called in this process."""

from __future__ import annotations

from click.testing import CliRunner

from mastosync_dagster.cli.main import main


def report(*arguments: str) -> str:
    outcome = CliRunner().invoke(main, ["report", *arguments])
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout
