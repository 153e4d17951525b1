"""The folder of a run: plan and manifest parts while it goes on, nothing afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.runs import run_lock
from mastosync_dagster.runs.dead_runs import close_dead_runs

if TYPE_CHECKING:
    import dagster as dg

_NAME = "mastosync-runs"


def work_folder(instance: dg.DagsterInstance, run_id: str) -> Path:
    """Return the run's folder, which need not exist."""
    return Path(instance.storage_directory()) / _NAME / run_id


def create_work_folder(instance: dg.DagsterInstance, run_id: str) -> Path:
    """Return the run's folder, new and empty, and lock the run. To be called before the first row is read.

    On this occasion, dead runs are ended, and what ended runs have left on the disk is removed.
    """
    run_lock.hold(instance, run_id)
    close_dead_runs(instance)
    folder = work_folder(instance, run_id)
    if folder.parent.is_dir():
        for other in folder.parent.iterdir():
            run = instance.get_run_by_id(other.name)
            # The history may call a run finished whose process still works: an admin has forced its end.
            if run is None or (run.is_finished and run_lock.state(instance, run) is not run_lock.RunState.ALIVE):
                shutil.rmtree(other, ignore_errors=True)  # another run may be clearing it too
    run_lock.remove_old(instance)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def remove_work_folder(instance: dg.DagsterInstance, run_id: str) -> None:
    """Remove the run's folder, if there is one: its work is done."""
    shutil.rmtree(work_folder(instance, run_id), ignore_errors=True)
    run_lock.let_go(instance, run_id)
