"""The commands `mastosync report` and `mastosync status`, called in this process."""

from __future__ import annotations

import json

from click.testing import CliRunner

from mastosync_dagster.cli.main import main


def report(*arguments: str) -> str:
    outcome = CliRunner().invoke(main, ["report", *arguments])
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def status(*arguments: str) -> dict[str, object]:
    """Return the status of one file type."""
    outcome = CliRunner().invoke(main, ["status", *arguments, "--json"])
    assert outcome.exit_code == 0, outcome.output
    (found,) = json.loads(outcome.output)
    return dict(found)
