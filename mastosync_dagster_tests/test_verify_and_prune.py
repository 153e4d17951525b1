"""What docs/verify-and-prune.md shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest
import yaml

from mastosync_dagster.cli.main import main
from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.expected.privacy import Privacy
from mastosync_dagster.records.findings import Finding
from mastosync_dagster.records.outcomes import NO_ACLS
from mastosync_dagster.refetch import fetch, origins, refetch

TEXT = (Path(__file__).parents[1] / "docs" / "verify-and-prune.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
# A block is one config, or a line of it is.
SHOWN = [text for block in BLOCKS for text in ([block] if block.startswith("ops:\n") else block.splitlines())]
CONFIGS = [yaml.safe_load(text) for text in (*SHOWN, *re.findall(r"`(ops: [^`]+)`", TEXT))]


def job_for(config: dict[str, dict[str, object]]) -> str:
    (op,) = config["ops"]
    return {
        "accounts": "sync_accounts",
        "plan_changes": "sync_changes",
        "accounts_verification": "verify_accounts",
        "prune": "prune_accounts",
    }[op]


def test_every_config_is_one_of_its_job() -> None:
    definitions = build_definitions()
    assert len(CONFIGS) == 7
    for config in CONFIGS:
        assert dg.validate_run_config(definitions.resolve_job_def(job_for(config)), config)


def test_every_job_and_command_that_it_shows_exists_with_its_options() -> None:
    definitions = build_definitions()
    for job in set(re.findall(r"--job (\w+)", TEXT)):
        assert definitions.resolve_job_def(job)
    shown = re.findall(r"^    mastosync (\w+)(.*)$", TEXT, re.MULTILINE)
    assert {command for command, _ in shown} == {"sync", "report"}
    for command, rest in shown:
        known = {option for parameter in main.commands[command].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, rest


def test_it_names_every_finding_and_every_policy() -> None:
    for word in (*Finding, *Privacy):
        assert f"`{word.value}`" in TEXT


REASONS = [
    *(value for name, value in vars(fetch).items() if name.isupper() and isinstance(value, str)),
    *(origins.ROW_GONE, origins.ROW_CHANGED, origins.NO_URL, origins.MADE_HERE),
    *(refetch.FETCHED, refetch.SILENT_BEFORE, NO_ACLS),
]


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_for_which_a_file_is_not_fetched_can_be_looked_up(reason: str) -> None:
    quoted = {part.strip(" ;") for text in re.findall(r"\*([^*|]+)\*", TEXT) for part in text.split("…")}
    assert any(len(part) > 5 and part in reason for part in quoted)
