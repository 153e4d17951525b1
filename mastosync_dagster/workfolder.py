"""The folder of a run: plan and manifest parts while it goes on, nothing afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg

_NAME = "mastosync-runs"


def work_folder(instance: dg.DagsterInstance, run_id: str) -> Path:
    """Return the run's folder, which need not exist."""
    return Path(instance.storage_directory()) / _NAME / run_id


def create_work_folder(instance: dg.DagsterInstance, run_id: str) -> Path:
    """Return the run's folder, new and empty; folders that died with their runs go on this occasion."""
    folder = work_folder(instance, run_id)
    if folder.parent.is_dir():
        for other in folder.parent.iterdir():
            run = instance.get_run_by_id(other.name)
            if run is None or run.is_finished:
                shutil.rmtree(other, ignore_errors=True)  # another run may be clearing it too
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def remove_work_folder(instance: dg.DagsterInstance, run_id: str) -> None:
    """Remove the run's folder, if there is one."""
    shutil.rmtree(work_folder(instance, run_id), ignore_errors=True)
