"""Dagster's home for a command: opened, or one sentence about why it cannot be used."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import dagster as dg
import yaml
from dagster._check import CheckError
from dagster._core.errors import DagsterHomeNotSetError
from dagster._serdes import ConfigurableClassData
from sqlalchemy.exc import SQLAlchemyError

from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import one_line
from mastosync_dagster.installation.disk import WRITTEN, try_writing
from mastosync_dagster.installation.home_files import unset_variables
from mastosync_dagster.resources.history_postgres import begin_run, limit_waits
from mastosync_dagster.runs.history_sqlite import grouped_syncs

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_CAPTURE = ConfigurableClassData(
    "dagster._core.storage.noop_compute_log_manager", "NoOpComputeLogManager", config_yaml="{}"
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})


class HomeError(AdminError):
    """DAGSTER_HOME, or the history in it, cannot be used. The message says why, and what to do."""


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
        if error.errno in _FULL | _FORBIDDEN | {errno.EROFS} and (error.filename is None or _is_below(home, error)):
            raise _file_error(home, error) from None
        raise
    except Exception as error:
        # SQLAlchemy's errors are Dagster's alone; its own class for PostgreSQL is raised from one.
        causes = (error, error.__cause__)
        history = next((cause for cause in causes if isinstance(cause, SQLAlchemyError)), None)
        if history is None:
            raise
        raise _history_error(home, history) from None


def _home() -> Path:
    """Return the folder that DAGSTER_HOME names; another user's is refused."""
    home = Path(os.environ.get("DAGSTER_HOME") or "").expanduser()
    if not _is_visible(home) and (closed := _closed_above(home)):
        # Dagster would say that there is no such folder.
        raise _others(home, closed)
    with contextlib.suppress(OSError):  # Dagster says that it is not there
        data = next((folder for name in WRITTEN if _is_visible(folder := home / name)), home)
        owner = data.stat().st_uid
        # Files that root writes there its owner could not write any more, nor read.
        if owner != os.geteuid() and (os.geteuid() == 0 or data != home or not os.access(home, os.W_OK)):
            raise _others(home, data)
    return home


@contextlib.contextmanager
def _opened(home: Path) -> Iterator[dg.DagsterInstance]:
    try:
        found = dg.DagsterInstance.get()
    except DagsterHomeNotSetError:
        raise HomeError(
            "DAGSTER_HOME is not set, and there is no default home: `mastosync init` makes one. Or set it to the"
            " absolute path of a folder with dagster.yaml, where Dagster keeps its run history"
        ) from None
    except dg.DagsterInvariantViolationError as error:
        # A relative path, or no folder: Dagster's own message says which.
        raise HomeError(str(error)) from None
    except (dg.DagsterError, CheckError, yaml.YAMLError, ImportError) as error:
        if unset := unset_variables(home, error):
            raise HomeError(unset) from None
        raise HomeError(f"{home / 'dagster.yaml'} cannot be used: {one_line(str(error))}") from None
    with found:
        # While a run's output is captured, standard output is a file, and no bar moves.
        uncaptured = found.get_ref()._replace(compute_logs_data=_NO_CAPTURE)
    with dg.DagsterInstance.from_ref(uncaptured) as instance:
        yield instance


def _is_below(home: Path, error: OSError) -> bool:
    return Path(os.fsdecode(error.filename)).is_relative_to(home)


def _history_error(home: Path, error: SQLAlchemyError) -> HomeError:
    """Return the error of a history that cannot be used. SQLite does not say why: writing a file does."""
    first = one_line(str(getattr(error, "orig", None) or error).strip().splitlines()[0])
    try:
        try_writing(home)
    except OSError as problem:
        return _file_error(home, problem)
    if "is full" in first:
        return _file_error(home, OSError(errno.ENOSPC, first))
    if "locked" in first:
        return HomeError(
            f"Dagster's history in {home} is locked ({first}): another process writes to it all the time, or the file"
            " system has no locks (NFS with nolock). Wait, or put DAGSTER_HOME on a local disk."
        )
    if "malformed" in first or "not a database" in first:
        return HomeError(
            f"Dagster's history in {home / 'history'} is damaged ({first}): restore the folder from a backup, or move"
            " it away to begin anew; nothing that has been copied is copied again."
        )
    return HomeError(
        f"Dagster's history cannot be used ({first}). Look at the section storage of {home / 'dagster.yaml'}, and"
        " whether the server that it names is up."
    )


def _file_error(home: Path, error: OSError) -> HomeError:
    """Return the error of a home whose files cannot be written."""
    if error.errno in _FULL:
        return HomeError(
            f"The disk of DAGSTER_HOME, {home}, is full ({error.strerror}): make room, files count too (df -h, df -i)."
            " Then run the same command again: it goes on from there."
        )
    if error.errno == errno.EROFS:
        return HomeError(
            f"DAGSTER_HOME, {home}, is read-only: mount it writable, or let DAGSTER_HOME name a folder that is."
        )
    return _others(home, Path(os.fsdecode(error.filename)) if error.filename else home)


def _others(home: Path, path: Path) -> HomeError:
    """Return the error of a home in which something belongs to another user."""
    while not _is_visible(path) and path != home:
        path = path.parent
    owner, me = path.stat().st_uid, os.geteuid()
    if owner == me:
        return HomeError(f"{path}, in DAGSTER_HOME, may not be written: chmod u+rwX {shlex.quote(str(path))}")
    command = shlex.join(["sudo", "-H", "-u", _name(owner), "--preserve-env", *sys.argv])
    where = "in" if path.is_relative_to(home) else "above"
    return HomeError(
        f"{path}, {where} DAGSTER_HOME, belongs to {_name(owner)}, and this command runs as {_name(me)}: run it as"
        f" {_name(owner)} ({command}), or let DAGSTER_HOME name a folder of your own."
    )


def _is_visible(path: Path) -> bool:
    """Return whether a path exists, as far as this user may look."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _closed_above(home: Path) -> Path | None:
    """Return the folder above a home that lets this user see nothing in it; None: the home is not there."""
    try:
        home.stat()
    except PermissionError:
        return next((folder for folder in home.parents if _is_visible(folder)), None)
    except OSError:
        return None
    return None


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"#{user}"
