"""What is said of a home that cannot be used: whose it is, what its disk lacks, what is wrong with its history."""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import sys
from pathlib import Path

from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import one_line
from mastosync_dagster.installation.disk_errors import try_writing

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
HISTORY_ERRORS = (SQLAlchemyError, CommandError)
"""What Dagster raises about its history. Alembic's: nobody knows which tables it should have."""


class HomeError(AdminError):
    """DAGSTER_HOME, or the history in it, cannot be used. The message says why, and what to do."""


def history_error(home: Path, error: SQLAlchemyError | CommandError) -> HomeError:
    """Return the error of a history that cannot be used. SQLite does not say why: writing a file does."""
    first = one_line(str(getattr(error, "orig", None) or error).strip().splitlines()[0])
    try:
        try_writing(home)
    except OSError as problem:
        return file_error(home, problem)
    if "is full" in first:
        return file_error(home, OSError(errno.ENOSPC, first))
    if "locked" in first:
        return HomeError(
            f"Dagster's history in {home} is locked ({first}): another process writes to it all the time, or the file"
            " system has no locks (NFS with nolock). Wait, or put DAGSTER_HOME on a local disk."
        )
    if "more than one head" in first:
        return HomeError(
            f"Dagster's history in {home} is damaged ({first}): restore the folders history and schedules from a"
            " backup, or move them away to begin anew; nothing that has been copied is copied again."
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


def file_error(home: Path, error: OSError) -> HomeError:
    """Return the error of a home whose files cannot be written."""
    if error.errno in FULL:
        return HomeError(
            f"The disk of DAGSTER_HOME, {home}, is full ({error.strerror}): make room, files count too (df -h, df -i)."
            " Then run the same command again: it goes on from there."
        )
    if error.errno == errno.EROFS:
        return HomeError(
            f"DAGSTER_HOME, {home}, is read-only: mount it writable, or let DAGSTER_HOME name a folder that is."
        )
    return others(home, Path(os.fsdecode(error.filename)) if error.filename else home)


def others(home: Path, path: Path) -> HomeError:
    """Return the error of a home in which something belongs to another user."""
    while not is_visible(path) and path != home:
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


def is_visible(path: Path) -> bool:
    """Return whether a path exists, as far as this user may look."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"#{user}"
