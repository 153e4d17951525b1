"""One process at a time makes the tables of a home's history: two that find none would both do it, and spoil them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dagster._core.instance import InstanceRef

_DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
_WAIT_SECONDS = 60.0
"""The tables take a second or two: after this, whoever has the lock does not go on."""
_POLL_SECONDS = 0.05


@contextlib.contextmanager
def alone_with_history(home: Path) -> Iterator[None]:
    """Let no other process of this project make tables in the home's history while the block lasts."""
    try:
        # A file that every home has: one that is read-only has no room for another. The folder may be locked by others
        # for the whole of a command (`flock` in a crontab).
        lock = os.open(home / "dagster.yaml", os.O_RDONLY)
    except OSError:  # whoever opens the history says what is wrong
        yield
        return
    try:
        _wait_for(lock)
        yield
    finally:
        os.close(lock)


def _wait_for(lock: int) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_POLL_SECONDS)
        except OSError:  # the file system has no locks
            return
        else:
            return


def is_in_files(instance: InstanceRef) -> bool:
    """Return whether a history is in the home, and in no server, which may let its clients wait."""
    return instance.storage_data is not None and instance.storage_data.class_name == "DagsterSqliteStorage"


def make_history(home: Path) -> None:
    """Make the tables of a history in files that lacks some. What goes wrong is left to whoever uses them next."""
    with alone_with_history(home), contextlib.suppress(Exception):
        if not (home / "dagster.yaml").exists() or all((home / name).exists() for name in _DATABASES):
            return
        import dagster as dg  # noqa: PLC0415  (most starts of a service need none of it here)
        from dagster._core.instance import InstanceRef  # noqa: PLC0415  (as above)

        found = InstanceRef.from_dir(str(home))
        if is_in_files(found):
            dg.DagsterInstance.from_ref(found).dispose()
