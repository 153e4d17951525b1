"""Dagster's home for a command: opened, or one sentence about why it cannot be."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.errors import DagsterHomeNotSetError
from dagster._serdes import ConfigurableClassData

from mastosync_dagster.errors import AdminError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_CAPTURE = ConfigurableClassData(
    "dagster._core.storage.noop_compute_log_manager", "NoOpComputeLogManager", config_yaml="{}"
)


class HomeError(AdminError):
    """DAGSTER_HOME, or the history in it, cannot be used. The message says why, and what to do."""


@contextlib.contextmanager
def opened_home() -> Iterator[dg.DagsterInstance]:
    """Open the Dagster instance of DAGSTER_HOME."""
    try:
        found = dg.DagsterInstance.get()
    except DagsterHomeNotSetError:
        raise HomeError(
            "DAGSTER_HOME is not set: set it to the absolute path of a folder with dagster.yaml, where Dagster keeps"
            " its run history"
        ) from None
    except dg.DagsterInvariantViolationError as error:
        # A relative path, or no folder: Dagster's own message says which.
        raise HomeError(str(error)) from None
    with found:
        # While a run's output is captured, standard output is a file, and no bar moves.
        uncaptured = found.get_ref()._replace(compute_logs_data=_NO_CAPTURE)
    with dg.DagsterInstance.from_ref(uncaptured) as instance:
        yield instance
