"""What `mastosync init` makes in the home and beside it: the folder of manifests, and one history."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.installation.new_history import alone_with_history


def test_the_folder_of_manifests_is_made_and_the_units_may_write_to_it(tmp_path: Path) -> None:
    manifests, home = tmp_path / "my manifests", tmp_path / "home"
    words = [str(Path(sys.executable).with_name("mastosync")), "init", str(home), "--from", "-"]
    subprocess.run(
        words,
        input=f"S3_BUCKET=a\nDESTINATION_S3_BUCKET=b\nMASTOSYNC_MANIFESTS='{manifests}'\n",
        text=True,
        check=True,
        capture_output=True,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
    )
    assert stat.S_IMODE(manifests.stat().st_mode) == 0o700
    unit = (home / "systemd" / "mastosync-code.service").read_text()
    assert f'ReadWritePaths={home} "-{manifests}"' in unit


COMMAND = str(Path(sys.executable).with_name("mastosync"))
DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")


def at_once(home: Path, *commands: str) -> list[tuple[int, str]]:
    """Return the exit status and the output of commands that begin at the same time."""
    environment = {"HOME": str(home.parent), "PATH": os.environ["PATH"], "DAGSTER_HOME": str(home)}
    environment["DATABASE_URL"] = "postgresql://nobody:x@127.0.0.1:1/none"
    started = [
        subprocess.Popen(
            [COMMAND, *command.split()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        for command in commands
    ]
    outputs = [process.communicate(timeout=100)[0] for process in started]
    return [(process.returncode, output) for process, output in zip(started, outputs, strict=True)]


def heads(home: Path) -> list[int]:
    """Return how many revisions each database of the history has: two of them nothing reads any more."""
    found = []
    for name in DATABASES:
        with contextlib.closing(sqlite3.connect(home / name)) as database:
            found += database.execute("SELECT count(*) FROM alembic_version").fetchone()
    return found


@pytest.mark.long
def test_commands_that_begin_at_once_make_one_history(tmp_path: Path) -> None:
    for number in range(2):
        home = tmp_path / str(number)
        assert [status for status, _ in at_once(home, *["init --no-input"] * 4)] == [0] * 4
        assert heads(home) == [1, 1, 1]
        for folder in ("history", "schedules"):  # as the sentence for a damaged history advises
            (home / folder).rename(home / f"{folder}-{number}")
        for status, output in at_once(home, *["ranges"] * 4):
            assert (status, "127.0.0.1:1" in output, len(output.splitlines())) == (1, True, 1), output
        assert heads(home) == [1, 1, 1]


def test_a_lock_on_the_folder_of_somebody_else_holds_no_command_up(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        begun = time.monotonic()
        with alone_with_history(tmp_path):
            assert time.monotonic() - begun < 5
    finally:
        os.close(folder)


@pytest.mark.long
def test_services_that_begin_at_once_make_one_history(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    program = [sys.executable, "-m", "mastosync_dagster.installation.dagster_program", "migrate"]
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path)}
    started = [subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env=environment) for _ in range(4)]
    errors = [process.communicate(timeout=100)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 4, errors
    assert heads(tmp_path) == [1, 1, 1]


@pytest.mark.parametrize("name", DATABASES)
@pytest.mark.parametrize("command", ["ranges", "init --no-input"])
def test_a_history_with_two_heads_is_said_to_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    assert CliRunner().invoke(main, ["init", "--no-input"]).exit_code == 0
    with contextlib.closing(sqlite3.connect(tmp_path / name)) as database:
        database.execute("INSERT INTO alembic_version SELECT '5771160a95ad'")
        database.commit()
    outcome = CliRunner().invoke(main, command.split())
    assert outcome.exit_code == 1
    if command == "init --no-input" or "history" in name:
        last = outcome.output.splitlines()[-1]
        assert last.startswith(f"Error: Dagster's history in {tmp_path} is damaged (Version table"), outcome.output
        assert "move them away to begin anew" in last
