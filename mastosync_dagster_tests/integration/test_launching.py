"""Runs without a good ID range, and commands of ``dagster`` and ``dg``: what they say. None of it needs a server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster_tests.support.installation import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NONE = "A run of this job is about one ID range of accounts, and names none"
SEVERAL = "is about one ID range of accounts, and names several"
UNREGISTERED = "1-2 is not a registered ID range of accounts"


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as made:
        made.add_dynamic_partitions("accounts_ids", ["5-6", "7-8"])
        yield made


@pytest.mark.parametrize("job", ["sync_accounts", "verify_accounts", "prune_accounts"])
@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({}, NONE),
        ({"dagster/partition": "1-2"}, UNREGISTERED),
        ({"dagster/partition": "accounts"}, "'accounts' is not an ID range"),
        (
            {"dagster/asset_partition_range_start": "5-6", "dagster/asset_partition_range_end": "7-8"},
            "is about one ID range of accounts, and names several",
        ),
    ],
)
def test_a_run_without_one_registered_range_fails_with_one_sentence(
    instance: dg.DagsterInstance, job: str, tags: Mapping[str, str], says: str
) -> None:
    result = (
        build_definitions()
        .resolve_job_def(job)
        .execute_in_process(instance=instance, tags=dict(tags), raise_on_error=False)
    )
    (event,) = [event for event in result.all_events if event.is_step_failure]
    error = event.step_failure_data.error
    assert error is not None
    assert says in error.message
    assert "mastosync ranges" in error.message
    # What the UI, the log and the terminal show is the sentence alone.
    assert error.to_string() == error.message
    assert len(error.message.splitlines()) == 1


def shell(*words: str, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name(words[0])), *words[1:]],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=cwd,
        env={**os.environ, "VIRTUAL_ENV": sys.prefix, "COLUMNS": "200"},
    )


@pytest.mark.long(cases=3)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dagster", "job", "execute", "-j", "sync_accounts"], NONE),
        (["dagster", "job", "execute", "-j", "prune_accounts", "--tags", '{"dagster/partition": "1-2"}'], UNREGISTERED),
        (["dagster", "job", "execute", "-j", "verify_accounts", "--tags", '{"dagster/partition": "x"}'], "'x' is not"),
        (["dagster", "asset", "materialize", "--select", "accounts"], NONE),
        (["dagster", "asset", "materialize", "--select", "accounts", "--partition-range", "5-6...7-8"], SEVERAL),
        (["dg", "launch", "--assets", "accounts"], NONE),
        (["dg", "launch", "--assets", "replica, accounts_verification", "--partition-range", "5-6...7-8"], SEVERAL),
        (["dg", "launch", "--job", "sync_accounts", "--partition-range", "5-6...7-8"], SEVERAL),
    ],
)
def test_a_command_of_dagster_without_a_registered_range_is_one_sentence_and_no_run(
    instance: dg.DagsterInstance, words: list[str], says: str
) -> None:
    outcome = shell(*words, "-m", "mastosync_dagster")
    assert outcome.returncode == 1
    assert outcome.stdout == ""
    # Dagster warns of its own commands before it loads anything of this project.
    lines = re.sub(r".*SupersessionWarning.*\n.*\n", "", outcome.stderr).strip().splitlines()
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith("Error: ")
    assert says in lines[0]
    assert instance.get_runs() == []


@pytest.mark.long
def test_without_a_home_the_sentence_says_which_one_to_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    home = tmp_path / "mastosync"
    home.mkdir()
    (home / "dagster.yaml").touch()
    words = (
        "job",
        "execute",
        "-m",
        "mastosync_dagster",
        "-j",
        "sync_accounts",
        "--tags",
        '{"dagster/partition": "5-6"}',
    )
    outcome = shell("dagster", *words, cwd=tmp_path)
    assert outcome.returncode == 1
    assert outcome.stderr.splitlines()[-1].startswith("Error: DAGSTER_HOME is not set")
    assert outcome.stderr.endswith(f"export DAGSTER_HOME={home}\n")


@pytest.mark.long
def test_a_registered_range_is_not_refused(instance: dg.DagsterInstance) -> None:
    tags = '{"dagster/partition": "5-6"}'
    outcome = shell("dagster", "job", "execute", "-m", "mastosync_dagster", "-j", "sync_accounts", "--tags", tags)
    (run,) = instance.get_runs()
    assert run.tags["dagster/partition"] == "5-6"
    assert "S3_BUCKET is not set" in outcome.stderr


@pytest.mark.long(cases=2)
@pytest.mark.usefixtures("instance")
@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["check", "defs"], 0, "All definitions loaded successfully"),
        (["check", "toml"], 0, "All TOML configuration files are valid"),
        (["launch", "--job", "sync_accounts"], 1, NONE),
        (["launch", "--job", "sync_accounts", "--partition", "1-2"], 1, f"Error: {UNREGISTERED}"),
        (["launch", "--assets", "accounts", "--partition", "1-2"], 1, f"Error: {UNREGISTERED}"),
    ],
)
def test_dg_knows_the_project_and_warns_of_nothing(words: list[str], status: int, says: str) -> None:
    outcome = shell("dg", *words)
    output = outcome.stdout + outcome.stderr
    assert outcome.returncode == status, output
    assert says in output
    assert not re.search("deprecat|supersed|does not match|Traceback|Stack Trace", output), output


@pytest.mark.long(cases=0)
@pytest.mark.usefixtures("instance")
def test_dg_launches_from_any_folder_where_the_module_is_named(tmp_path: Path) -> None:
    outcome = shell("dg", "launch", "-m", "mastosync_dagster", "--job", "verify_accounts", cwd=tmp_path)
    assert NONE in outcome.stderr
    assert "Warning" not in outcome.stderr
