"""A process that may open few files says so before it does anything."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from subprocess import CompletedProcess

ASK = "import resource; from mastosync_dagster.process import allow_open_files; print(allow_open_files())"


def limited(now: int, most: int, *command: str) -> CompletedProcess[str]:
    return subprocess.run(
        command,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (now, most)),
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("command", ["sync", "check", "night", "status"])
def test_a_limit_that_is_too_low_is_named_and_nothing_else(command: str) -> None:
    mastosync = str(Path(sys.executable).with_name("mastosync"))
    ended = limited(40, 40, mastosync, command)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: This process may open 40 files, and needs 256: ")
    assert "ulimit -n" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


@pytest.mark.parametrize(("now", "most", "then"), [(40, 4096, 1024), (40, 300, 300), (2000, 4096, 2000)])
def test_a_limit_that_may_be_raised_is_raised(now: int, most: int, then: int) -> None:
    assert limited(now, most, sys.executable, "-c", ASK).stdout == f"{then}\n"
