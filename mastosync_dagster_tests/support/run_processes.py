"""Processes that execute a run, as far as others see them: they hold its lock, and do nothing else."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

import dagster as dg
import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dg.op
def nothing() -> None:
    """Do nothing."""


@dg.job
def some_job() -> None:
    """A job whose runs are on record only."""
    nothing()


HOLD = """
import sys
import dagster as dg
from mastosync_dagster.runs.run_lock import hold
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    hold(instance, sys.argv[2])
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def run_process(
    home: str, run_id: str, *, within: Sequence[str] = (), script: str = HOLD
) -> Iterator[subprocess.Popen[str]]:
    """Have a process that executes a run.

    Args:
        home: Dagster's home.
        run_id: The run, which the history knows.
        within: A command that starts another one, to run it in.
        script: What it does; ``sys.argv`` has the two above. It says a line when it has begun.

    Yields:
        The process, or the one in which it is; killing that one kills both.
    """
    command = [*within, sys.executable, "-c", script, home, run_id]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def holder_of(home: Path, run_id: str) -> psutil.Process:
    """Return the process of this machine that has a run's lock."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(file.path == str(home / "storage/mastosync-locks" / run_id) for file in process.open_files()):
                return process
    raise AssertionError(run_id)
