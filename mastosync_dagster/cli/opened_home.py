"""Dagster's home for a command: opened, or one sentence about why it cannot be used."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
import dagster as dg
import yaml
from dagster._check import CheckError
from dagster._core.instance import InstanceRef
from dagster._serdes import ConfigurableClassData

from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import one_line
from mastosync_dagster.history.postgres import begin_run, limit_waits
from mastosync_dagster.history.sqlite import grouped_syncs
from mastosync_dagster.installation.disk_errors import WRITTEN
from mastosync_dagster.installation.home_errors import (
    FULL,
    HISTORY_ERRORS,
    HomeError,
    file_error,
    history_error,
    is_visible,
    others,
)
from mastosync_dagster.installation.home_files import is_empty, unset_variables
from mastosync_dagster.installation.new_history import alone_with_history, is_in_files

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_CAPTURE = ConfigurableClassData(
    "dagster._core.storage.noop_compute_log_manager", "NoOpComputeLogManager", config_yaml="{}"
)
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
_IN_THE_WAY = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP})


def is_named() -> bool:
    """Tell whether DAGSTER_HOME is set: without one there is no history, and some commands need none."""
    return bool(os.environ.get("DAGSTER_HOME"))


@contextlib.contextmanager
def opened_home(*, waits: bool = False) -> Iterator[dg.DagsterInstance]:
    """Open the Dagster instance of DAGSTER_HOME. Errors of its files and its history are a `HomeError`, then and later.

    ``waits``: nobody waits in front of it, so it waits for a history that is away, as a run does.

    Raises:
        HomeError: It is not set, not there, another user's, not writable, full, or its dagster.yaml is wrong.
    """
    home = _home()
    _ensure_made(home)
    if waits:
        begin_run(lambda text: click.echo(text, err=True))
    else:
        limit_waits(at_once=True)
    try:
        with grouped_syncs(), _opened(home) as instance:
            yield instance
    except AdminError:
        raise
    except OSError as error:
        if error.errno in FULL | _FORBIDDEN | {errno.EROFS} and (error.filename is None or _is_below(home, error)):
            raise file_error(home, error) from None
        if error.errno in _IN_THE_WAY and error.filename is not None and _is_below(home, error):
            raise HomeError(
                f"{os.fsdecode(error.filename)}, in DAGSTER_HOME, is not what Dagster keeps there ({error.strerror}):"
                " move it away, or let DAGSTER_HOME name another folder."
            ) from None
        raise
    except Exception as error:
        # SQLAlchemy's and Alembic's errors are Dagster's alone; its own class for PostgreSQL is raised from one.
        causes = (error, error.__cause__)
        history = next((cause for cause in causes if isinstance(cause, HISTORY_ERRORS)), None)
        if history is None:
            raise
        raise history_error(home, history) from None


def _home() -> Path:
    """Return the folder that DAGSTER_HOME names; another user's is refused."""
    if not is_named():
        raise HomeError(
            "DAGSTER_HOME is not set, and there is no default home: `mastosync init` makes one. Or set it to the"
            " absolute path of a folder with dagster.yaml, where Dagster keeps its run history"
        )
    home = Path(os.environ["DAGSTER_HOME"])
    if not is_visible(home) and (closed := _closed_above(home)):
        # Dagster would say that there is no such folder.
        raise others(home, closed)
    with contextlib.suppress(OSError):  # Dagster says that it is not there
        data = next((folder for name in WRITTEN if is_visible(folder := home / name)), home)
        owner = data.stat().st_uid
        # Files that root writes there its owner could not write any more, nor read.
        if owner != os.geteuid() and (os.geteuid() == 0 or data != home or not os.access(home, os.W_OK)):
            raise others(home, data)
    return home


def _ensure_made(home: Path) -> None:
    """Refuse a folder that is no home yet: Dagster would advise an empty dagster.yaml, or go on without one.

    Then it keeps another history than all of this project's commands and services expect. Where there is a history
    already, it was made so.
    """
    settings = home / "dagster.yaml"
    # An empty one is what a full disk has left, and says nothing of what this project needs.
    made = any(is_visible(home / name) for name in WRITTEN) or (is_visible(settings) and not is_empty(settings))
    if home.is_absolute() and not made:
        which = "an empty" if is_visible(settings) else "no"
        raise HomeError(
            f"DAGSTER_HOME names {home}, where there is {which} dagster.yaml: `mastosync init"
            f" {shlex.quote(str(home))}` makes it a home. Or let DAGSTER_HOME name the one that you have."
        )


@contextlib.contextmanager
def _opened(home: Path) -> Iterator[dg.DagsterInstance]:
    if not (home.is_absolute() and home.is_dir()):
        raise HomeError(f"DAGSTER_HOME is {home}, and must be an absolute path to a folder that exists")
    try:
        # While a run's output is captured, standard output is a file, and no bar moves.
        uncaptured = InstanceRef.from_dir(str(home))._replace(compute_logs_data=_NO_CAPTURE)
        with alone_with_history(home) if is_in_files(uncaptured) else contextlib.nullcontext():
            made = dg.DagsterInstance.from_ref(uncaptured)
        # Of what it names, Dagster loads this when it is used first, which would be in the middle of a command.
        _ = made.run_launcher
    except (dg.DagsterError, CheckError, yaml.YAMLError, ImportError, UnicodeDecodeError) as error:
        if unset := unset_variables(home, error):
            raise HomeError(unset) from None
        raise HomeError(f"{home / 'dagster.yaml'} cannot be used: {one_line(str(error))}") from None
    with made as instance:
        yield instance


def _is_below(home: Path, error: OSError) -> bool:
    return Path(os.fsdecode(error.filename)).is_relative_to(home)


def _closed_above(home: Path) -> Path | None:
    """Return the folder above a home that lets this user see nothing in it; None: the home is not there."""
    try:
        home.stat()
    except PermissionError:
        return next((folder for folder in home.parents if is_visible(folder)), None)
    except OSError:
        return None
    return None
