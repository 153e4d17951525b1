"""What a run leaves for others: files that they cannot read, and text that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.installation import Installation

BIN = Path(sys.executable).parent


def readable_by_others(folder: Path) -> list[str]:
    """Return what lies in a folder, below it too, and lets somebody else in."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.stat().st_mode & 0o077)


def execute(world: Installation, home: Path, *command: str) -> None:
    """Run a command as from a shell whose files everybody may read."""
    subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        env={**os.environ, **world.environment, "DAGSTER_HOME": str(home)},
        cwd=home.parent,
        check=True,
        capture_output=True,
        umask=0o022,
    )


@pytest.fixture
def home(world: Installation, tmp_path: Path) -> Path:
    """Another Dagster home, which everybody may look into."""
    home = tmp_path / "open"
    home.mkdir()
    home.chmod(0o755)
    (home / "dagster.yaml").write_text((Path(world.dagster.root_directory) / "dagster.yaml").read_text())
    (home / "dagster.yaml").chmod(0o600)
    return home


@pytest.mark.long(cases=0)
def test_what_a_command_writes_is_for_nobody_else(world: Installation, home: Path) -> None:
    execute(world, home, "mastosync", "ranges", "custom_emojis")
    execute(world, home, "mastosync", "sync", "custom_emojis")
    assert list(home.rglob("*.parquet"))
    assert readable_by_others(home) == []


@pytest.mark.long
def test_what_a_run_of_dagsters_own_command_writes_is_for_nobody_else(world: Installation, home: Path) -> None:
    execute(world, home, "mastosync", "ranges", "custom_emojis")
    (key,) = world.register(FileType.CUSTOM_EMOJIS)[FileType.CUSTOM_EMOJIS][:1]
    tags = f'{{"dagster/partition": "{key}"}}'
    execute(
        world, home, "dagster", "job", "execute", "-m", "mastosync_dagster", "-j", "sync_custom_emojis", "--tags", tags
    )
    assert list(home.rglob("*.parquet"))
    assert readable_by_others(home) == []


def test_manifests_in_a_folder_of_their_own_are_for_nobody_else(
    world: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "manifests"
    place.mkdir()
    monkeypatch.setenv("MASTOSYNC_MANIFESTS", str(place))
    before = os.umask(0o022)
    try:
        ((key, *_),) = world.register(FileType.CUSTOM_EMOJIS).values()
        # Whoever loads the definitions keeps files private from then on.
        loaded = replace(world, definitions=build_definitions())
        assert loaded.run("sync_custom_emojis", key).success
    finally:
        os.umask(before)
    assert list(place.rglob("*.parquet"))
    assert readable_by_others(place) == []


@pytest.mark.parametrize("command", ["ranges", "sync accounts", "check", "status", "report"])
def test_what_a_server_says_does_not_command_the_terminal(
    world: Installation, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", world.database.url.replace(f"/{world.database.database}", "/%1b%5b2J%0d%c2%9b"))
    outcome = CliRunner().invoke(main, command.split())
    assert "database" in outcome.output
    assert not [letter for letter in outcome.output if letter != "\n" and not letter.isprintable()]


@pytest.mark.long
def test_what_a_storage_says_does_not_command_the_terminal_or_the_ui(world: Installation) -> None:
    answer = Answer(400, "Strange", message="said ![x](http://127.0.0.1/) \x9b2J \u202e end")
    world.source_proxy.set_rules(Rule(answer, kinds=frozenset({Kind.GET})))
    outcome = CliRunner().invoke(main, ["sync", "custom_emojis"])
    assert outcome.exit_code == 1
    assert "\x9b" not in outcome.output
    ((key, *_),) = world.register(FileType.CUSTOM_EMOJIS).values()
    result = world.run("sync_custom_emojis", key)
    (failed,) = result.get_step_failure_events()
    data = failed.step_failure_data.user_failure_data
    assert data is not None
    messages = [data.description or "", *(str(value.value) for value in data.metadata.values())]
    assert "said " in "".join(messages)
    assert not [text for text in messages if "![" in text or "\x9b" in text or "\u202e" in text]
