"""A job whose run lasts until a file exists: a code server loads this module."""

from __future__ import annotations

import os
import time
from pathlib import Path

import dagster as dg

FILE = "WAITING_JOB_FILE"
"""The variable that names the file."""


@dg.op
def wait() -> None:
    """Wait for the file."""
    while not Path(os.environ[FILE]).exists():
        time.sleep(0.1)


@dg.job(executor_def=dg.in_process_executor)  # as this project's: no process of a step outlives the run's
def waiting_job() -> None:
    """Wait for the file."""
    wait()


defs = dg.Definitions(jobs=[waiting_job])
