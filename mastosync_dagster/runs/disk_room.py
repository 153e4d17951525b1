"""The room on the disks that a run writes to: before it begins, and while it goes on."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.environment import MANIFESTS, Environment
from mastosync_dagster.errors import AdminError
from mastosync_dagster.history.postgres import history_may_fail
from mastosync_dagster.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import dagster as dg

_POLL_SECONDS = 1.0
_WARN_SECONDS = 60.0
_LEAST_FREE, _LEAST_FILES = 32 * MIB, 200
"""What a run must find on the disk of Dagster's storage: events, plan and manifest of a hundred thousand objects."""


class DiskFullError(AdminError):
    """The disk of Dagster's storage has no room for a run."""


def ensure_room(instance: dg.DagsterInstance) -> None:
    """Raise a DiskFullError where a run would fill the disk, so that the history of others cannot be written either."""
    if problem := _lack_of_room(_places(instance)):
        raise DiskFullError(problem)


def wait_for_room(instance: dg.DagsterInstance, warn: Callable[[str], object]) -> None:
    """Wait while the disk is full; a line a minute says so."""
    due = time.monotonic()
    places = tuple(_places(instance))
    while problem := _lack_of_room(places):
        if time.monotonic() >= due:
            due += _WARN_SECONDS
            warn(f"Waiting. {problem}")
        time.sleep(_POLL_SECONDS)


class Room:
    """The room that a run has while it goes on. ``warn`` gets a line a minute where it lacks some.

    What is left then is for what the run still writes down of objects in flight, and for the runs beside it.
    """

    def __init__(self, instance: dg.DagsterInstance, warn: Callable[[str], object]) -> None:
        # Once: a file of settings that an admin is editing must not end the run. Without the folder of manifests: a
        # run that cannot publish there goes on, and asking a hung mount would keep it from ending.
        self._places = tuple((name, folder) for name, folder in _places(instance) if name != MANIFESTS)
        self._warn = warn
        self._lacks = False
        self._due = 0.0

    def lacks(self) -> bool:
        """Return whether a run has to wait until somebody makes room."""
        # Half of what it needed to begin: else it would wait at once. Waiting, it goes on where it might begin.
        problem = _lack_of_room(self._places, 1 if self._lacks else 2)
        self._lacks = problem is not None
        if problem and time.monotonic() >= self._due:
            self._due = time.monotonic() + _WARN_SECONDS
            # The history may be on that disk.
            with history_may_fail():
                self._warn(f"Waiting. {problem}")
        return self._lacks


def _lack_of_room(places: Iterable[tuple[str, Path]], part: int = 1) -> str | None:
    """Return what is said of the disk of a place that has no room for a run; None: all have.

    ``part``: 2 where half of the room to begin is enough.
    """
    for name, folder in places:
        try:
            disk = os.statvfs(folder)
        except OSError:
            continue  # whoever writes there says what is wrong
        free = disk.f_bavail * disk.f_frsize
        # Some file systems make inodes as they need them, and name none.
        files = disk.f_favail if disk.f_files else _LEAST_FILES
        if disk.f_flag & os.ST_RDONLY:
            return f"The disk of {name}, {folder}, is read-only: mount it writable."
        if free < _LEAST_FREE // part or files < _LEAST_FILES // part:
            left = f"{free // MIB} MB" if free < _LEAST_FREE // part else f"{files} inodes"
            return (
                f"The disk of {name}, {folder}, has {left} left: make room (df -h, df -i). A run begins, and goes on,"
                f" where there are {_LEAST_FREE // MIB} MB and {_LEAST_FILES} inodes."
            )
    return None


def _places(instance: dg.DagsterInstance) -> Iterator[tuple[str, Path]]:
    """Yield the folders that a run writes to, with what an admin calls each: they may be disks of their own."""
    home = Path(instance.root_directory)
    # In a container the home itself may be read-only, and only what is written to is a volume.
    yield "DAGSTER_HOME/history", home / "history"
    storage = Path(instance.storage_directory())
    yield ("DAGSTER_HOME/storage", storage) if storage.exists() else ("DAGSTER_HOME", home)
    manifests = Environment.read().text(MANIFESTS)
    if manifests and not manifests.startswith("s3://"):
        yield MANIFESTS, Path(manifests)
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError:
        raise DiskFullError(
            "There is no folder for temporary files that this user may write to, and that has room: name one in TMPDIR."
        ) from None
    yield "temporary files (TMPDIR)", Path(temporary)
