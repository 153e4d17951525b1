"""The folder of a run: plan and manifest parts while it goes on, nothing afterwards."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.environment import MEMORY_MB
from mastosync_dagster.memory import run_memory
from mastosync_dagster.runs import run_lock
from mastosync_dagster.runs.dead_runs import close_dead_runs
from mastosync_dagster.runs.disk_room import wait_for_room

if TYPE_CHECKING:
    from collections.abc import Callable

    import dagster as dg

_NAME = "mastosync-runs"
_POLL_SECONDS = 1.0
_WARN_SECONDS = 60.0


def work_folder(instance: dg.DagsterInstance, run_id: str) -> Path:
    """Return the run's folder, which need not exist."""
    return Path(instance.storage_directory()) / _NAME / run_id


def create_work_folder(instance: dg.DagsterInstance, run_id: str, warn: Callable[[str], object]) -> Path:
    """Return the run's folder, new and empty, and lock the run. To be called before the first row is read.

    It waits, and says so, while the disk is full and while other runs take the memory that there is for runs. On this
    occasion, dead runs are ended, and what ended runs have left on the disk is removed.
    """
    run_lock.hold(instance, run_id)
    close_dead_runs(instance)
    _wait_for_memory(instance, run_id, warn)
    _clear(instance)
    wait_for_room(instance, warn)
    folder = work_folder(instance, run_id)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _clear(instance: dg.DagsterInstance) -> None:
    """Remove the folders and locks of runs that have ended."""
    parent = Path(instance.storage_directory()) / _NAME
    if parent.is_dir():
        for other in parent.iterdir():
            run = instance.get_run_by_id(other.name)
            # The history may call a run finished whose process still works: an admin has forced its end.
            if run is None or (run.is_finished and run_lock.state(instance, run) is not run_lock.RunState.ALIVE):
                shutil.rmtree(other, ignore_errors=True)  # another run may be clearing it too
    run_lock.remove_old(instance)


def _wait_for_memory(instance: dg.DagsterInstance, run_id: str, warn: Callable[[str], object]) -> None:
    """Wait until so few runs are before this one that there is memory for it too."""
    due = time.monotonic()
    while len(earlier := run_lock.living_before(instance, run_id)) >= (most := run_memory().runs):
        if time.monotonic() >= due:
            due += _WARN_SECONDS
            warn(
                f"Waiting for memory, which is enough for {most} at a time ({MEMORY_MB}): of this machine's runs"
                f" {', '.join(earlier)} began earlier. This one goes on when they have ended."
            )
        time.sleep(_POLL_SECONDS)


def remove_work_folder(instance: dg.DagsterInstance, run_id: str) -> None:
    """Remove the run's folder, if there is one: its work is done."""
    shutil.rmtree(work_folder(instance, run_id), ignore_errors=True)
    run_lock.let_go(instance, run_id)
