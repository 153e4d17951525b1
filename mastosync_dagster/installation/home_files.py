"""The Dagster home: what `mastosync init` writes into it, and never over what is there."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.environment import expanded
from mastosync_dagster.errors import AdminError
from mastosync_dagster.installation.home_errors import HISTORY_ERRORS, history_error
from mastosync_dagster.installation.new_history import alone_with_history

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNSET_VARIABLE = re.compile(r'environment variable "(\w+)" which is not set')
"""Dagster's own words, once for each variable, among its stack traces."""
_NEWSLETTER_SEEN = ".nux/nux.yaml"
"""Dagster's UI offers its newsletter unless this file exists."""


class InitError(AdminError):
    """An installation cannot be made. The message says what to change."""


class Written(Enum):
    """What became of a file."""

    NEW = "new"
    KEPT = "was there, and stays as it is"


@dataclass(frozen=True)
class WrittenFile:
    """A file of an installation."""

    path: Path
    written: Written


def absolute(path: Path) -> Path:
    """Return a path from the root on; ``~`` is the user's home folder."""
    return Path(os.path.abspath(expanded(path, "The command was given")))  # noqa: PTH100  (a link stays a link)


def packaged(name: str) -> str:
    """Return the text of a file that comes with the package: ``dagster.yaml``, ``workspace.yaml``, ``env.example``."""
    return resources.files("mastosync_dagster.installation").joinpath(name).read_text("utf-8")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the file system into a sentence that names the path."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        cure = (
            "Make room (df -h, df -i), or choose a folder on another disk, as in `mastosync init FOLDER`."
            if error.errno in {errno.ENOSPC, errno.EDQUOT}
            else "Choose a folder that this user may write to, as in `mastosync init FOLDER`, or run the command as the"
            " folder's owner."
        )
        raise InitError(f"{where} cannot be written: {error.strerror}. {cure}") from error


def write_new(path: Path, text: str, mode: int = 0o600, *, replaces_empty: bool = True) -> WrittenFile:
    """Write a file that nobody may have made before; one that is there stays, unless it is empty.

    A full disk leaves empty files. ``replaces_empty``: False where such a one means something.
    """
    with writing(path):
        empty = replaces_empty and is_empty(path)
        if os.path.lexists(path) and not empty:
            return WrittenFile(path, Written.KEPT)
        with _written_beside(path, text, mode) as whole:
            if empty:  # an earlier version's, for which the disk had no room
                _replace(whole, path)
                return WrittenFile(path, Written.NEW)
            try:
                os.link(whole, path)
            except FileExistsError:
                return WrittenFile(path, Written.KEPT)
            except OSError:  # a file system without hard links
                _replace(whole, path)
    return WrittenFile(path, Written.NEW)


def _replace(whole: Path, path: Path) -> None:
    try:
        whole.replace(path)
    except OSError as error:
        error.filename = str(path)  # the name that is asked for
        raise


def is_empty(path: Path) -> bool:
    """Return whether a file has nothing in it. A link is none, wherever it leads."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


@contextlib.contextmanager
def _written_beside(path: Path, text: str, mode: int) -> Iterator[Path]:
    """Write a whole file beside a path, for the time of the block.

    What the disk has no room for, or a kill cuts short, never bears the name: it would be taken for good.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-")
    except OSError as error:
        error.filename = str(path)  # the name that is asked for
        raise
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(descriptor, mode)  # whatever the umask
            stream.write(text)
            stream.flush()
            os.fsync(descriptor)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def make_folder(path: Path) -> Written:
    """Make a folder that its owner alone may read. One that is there must be this user's; its mode stays."""
    with writing(path):
        if path.is_dir():
            owner = path.stat().st_uid
            if owner != os.geteuid():
                raise InitError(
                    f"{path} belongs to another user (uid {owner}): run the command as that user, or name another"
                    " folder."
                )
            return Written.KEPT
        path.mkdir(mode=0o700, parents=True)
    return Written.NEW


def make_home(home: Path, *, machines: bool = False) -> list[WrittenFile]:
    """Write dagster.yaml and workspace.yaml into a new or old home, and have Dagster not offer its newsletter.

    ``machines``: others share the runs.
    """
    written = [WrittenFile(home, make_folder(home))]
    settings = packaged("dagster-machines.yaml" if machines else "dagster.yaml")
    written.append(write_new(home / "dagster.yaml", settings))
    written.append(write_new(home / "workspace.yaml", packaged("workspace.yaml")))
    seen = home / _NEWSLETTER_SEEN
    make_folder(seen.parent)
    write_new(seen, "seen: 1\n")
    return written


def unset_variables(home: Path, error: Exception) -> str | None:
    """Return which variables dagster.yaml names and nobody has set, if an error of Dagster says so of some."""
    names = sorted(set(_UNSET_VARIABLE.findall(str(error))))
    if not names:
        return None
    return (
        f"{home / 'dagster.yaml'} names variables that are not set in this command's environment: {', '.join(names)}."
    )


def prepare_history(home: Path) -> None:
    """Create the tables of Dagster's history: two processes that find none at their start get in each other's way."""
    try:
        with alone_with_history(home), dg.DagsterInstance.from_config(str(home)) as instance:
            instance.get_runs_count()
            instance.event_log_storage.get_maximum_record_id()
            instance.all_instigator_state()
    except AdminError:
        raise
    except Exception as error:
        if unset := unset_variables(home, error):
            raise InitError(unset) from None
        history = next((each for each in (error, error.__cause__) if isinstance(each, HISTORY_ERRORS)), None)
        if history is not None:
            raise history_error(home, history) from None
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InitError(
            f"Dagster's history in {home} cannot be opened ({first}): see {home / 'dagster.yaml'}, and whether the"
            " folder can be written to."
        ) from error
