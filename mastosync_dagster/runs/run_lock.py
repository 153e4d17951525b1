"""Whether a run lives: its process holds a lock that the kernel releases when the process ends, however it ends.

The lock is on a file below Dagster's storage directory, so that every process that shares the folder can check it,
also from another container, as another user and, where the filesystem shares its locks, on another machine. A file is
locked before it has its name, and is never locked again: an existing file without a lock is that of an ended process.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.tags import RETRY_ON_ASSET_OR_OP_FAILURE_TAG

from mastosync_dagster.history.postgres import begin_run, stop_soon
from mastosync_dagster.history.sqlite import grouped_syncs
from mastosync_dagster.memory import kills
from mastosync_dagster.runs.failures import is_disk_full
from mastosync_dagster.shield import hangup_terminates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster import DagsterInstance

IN_PROGRESS = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
"""The statuses of runs that Dagster's history calls in progress, whether their processes live or not."""

HIDDEN_TAGS = ".dagster/mastosync-"
"""The prefix of tags that only this program reads: Dagster's UI shows no tag that begins with ``.dagster/``."""

PROCESS_TAG = f"{HIDDEN_TAGS}process"
"""Set when a run begins, to its id: a retried run has the tags of the first one."""
_EARLIER_PROCESS_TAG = "mastosync/process"
"""Its name in runs of earlier versions."""

_FOLDER = "mastosync-locks"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""Errors of a filesystem without locks."""

# A lock belongs to the process, as an open file does, and so this is the state of the process.
_held: dict[Path, int] = {}
"""The files that this process has locked, and their descriptors."""
_ended: set[Path] = set()
"""Of these, the files of runs whose work is done. They stay locked until the history calls the runs finished."""


class RunState(enum.Enum):
    """The state of the process that executes a run."""

    ALIVE = "alive"
    """It holds the lock."""
    DEAD = "dead"
    NOT_BEGUN = "not begun"
    """Whatever the run will do, it plans from rows that it reads later."""
    UNKNOWN = "unknown"
    """It has begun, and there is no lock: it runs on another machine, or the filesystem has no locks."""


def lock(instance: DagsterInstance, run_id: str) -> bool:
    """Lock a run's file until this process ends, or the run has (`let_go`). False: the filesystem has no locks.

    The history need not know the run yet. If another process executes it, that is a Failure.
    """
    _release_ended(instance)
    path = _folder(instance) / run_id
    if path in _held:
        _ended.discard(path)
        return True
    if _is_locked(path):
        raise dg.Failure(f"Another process executes the run {run_id}.", allow_retries=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    unnamed = path.with_name(f"{run_id}.{secrets.token_hex(4)}")
    # Python's descriptors are not inherited by programs that are started; of a mere fork the child closes them.
    descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, f"{socket.gethostname()} {kills()}".encode())
        unnamed.replace(path)
    except OSError as error:
        os.close(descriptor)
        # A file without a lock would look like that of a dead process.
        unnamed.unlink(missing_ok=True)
        if error.errno in _NO_LOCKS:
            return False
        raise
    _held[path] = descriptor
    return True


def hold(instance: DagsterInstance, run_id: str) -> None:
    """Lock a run's file and tag the run as begun. To be called before the first row is read. Raises as `lock`."""
    if not lock(instance, run_id):
        instance.report_engine_event(
            f"The filesystem of {instance.storage_directory()} has no file locks (flock): whether a run lives cannot be"
            " determined there, so objects in doubt stay in doubt, and the next command does not end runs that have"
            " died. Put DAGSTER_HOME on a filesystem with locks.",
            instance.get_run_by_id(run_id),
        )
    # After the lock: a process that dies in between has locked a file, and read nothing.
    instance.add_run_tags(run_id, {PROCESS_TAG: run_id})


def let_go(instance: DagsterInstance, run_id: str) -> None:
    """Record that a run of this process has done its work.

    The lock stays until the history calls the run finished: killed in between, the run counts as dead.
    """
    path = _folder(instance) / run_id
    if path in _held:
        _ended.add(path)


@contextlib.contextmanager
def working(instance: DagsterInstance, run_id: str) -> Iterator[None]:
    """Do a part of a run's work; an error ends the work (`let_go`), and SIGHUP terminates it."""
    try:
        with hangup_terminates(), grouped_syncs():
            begin_run()
            yield
    except BaseException as error:
        if not isinstance(error, Exception):
            stop_soon()  # what Dagster has to say of a run that was interrupted does not hold up its end
        elif is_disk_full(error):
            # Started again, it waits for room. On a disk that is full to the last byte even this cannot be written: the
            # run then ends as a dead one, which is started again anyway.
            with contextlib.suppress(Exception):
                instance.add_run_tags(run_id, {RETRY_ON_ASSET_OR_OP_FAILURE_TAG: "true"})
        let_go(instance, run_id)
        raise


def state(instance: DagsterInstance, run: dg.DagsterRun) -> RunState:
    """Return the state of a run's process, given the run as the history knows it now."""
    _release_ended(instance)
    locked = _is_locked(_folder(instance) / run.run_id)
    if locked is not None:
        return RunState.ALIVE if locked else RunState.DEAD
    # Earlier versions noted more of the process after the run's id.
    begun = (run.tags.get(tag, "").partition("|")[0] for tag in (PROCESS_TAG, _EARLIER_PROCESS_TAG))
    return RunState.UNKNOWN if run.run_id in begun else RunState.NOT_BEGUN


def living(instance: DagsterInstance) -> list[str]:
    """Return the runs whose processes live, whatever the history calls them."""
    _release_ended(instance)
    return [path.name for path in _folder(instance).glob("*") if not path.suffix and _is_locked(path)]


def living_before(instance: DagsterInstance, run_id: str) -> list[str]:
    """Return which living runs of this machine, or container, were locked before a run of this process."""
    own = _folder(instance) / run_id
    if own not in _held:  # the filesystem has no locks
        return []
    ours, host = own.stat().st_mtime_ns, _host_and_kills(own)[0]
    earlier = []
    for other in living(instance):
        with contextlib.suppress(OSError):  # it has ended
            path = own.with_name(other)
            if path != own and _host_and_kills(path)[0] == host and path.stat().st_mtime_ns < ours:
                earlier.append(other)
    return earlier


def killed_for_memory(instance: DagsterInstance, run_id: str) -> bool:
    """Return whether the kernel has killed a process of this machine for memory since a dead run began."""
    try:
        host, before = _host_and_kills(_folder(instance) / run_id)
    except OSError:
        return False
    now = kills()
    return host == socket.gethostname() and before is not None and now is not None and now > before


def _host_and_kills(path: Path) -> tuple[str, int | None]:
    """Return what `lock` has written into a file; earlier versions wrote nothing."""
    host, _, number = path.read_text().partition(" ")
    return host, int(number) if number.isdecimal() else None


def remove_old(instance: DagsterInstance) -> None:
    """Remove the files of runs that have ended, with their processes."""
    _release_ended(instance)
    for path in _folder(instance).glob("*"):
        run = instance.get_run_by_id(path.stem)
        # A file without its final name may be about to be locked, and its run is not on record before that.
        ended = not path.suffix if run is None else run.is_finished
        if ended and _is_locked(path) is False:
            path.unlink(missing_ok=True)


def _folder(instance: DagsterInstance) -> Path:
    return Path(instance.storage_directory()) / _FOLDER


def _is_locked(path: Path) -> bool | None:
    """Return whether a process has locked a file; None: it is not found, or cannot be checked."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        # Shared, so that two processes that check at the same time do not take each other for the run.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def _release_ended(instance: DagsterInstance) -> None:
    """Release the locks of this process's runs that have ended: tests, and notebooks, run one after the other."""
    for path in [path for path in _ended if path.parent == _folder(instance)]:
        run = instance.get_run_by_id(path.name)
        if run is None or run.is_finished:
            # Removed first: an existing file without a lock would be that of a dead process.
            path.unlink(missing_ok=True)
            _ended.discard(path)
            descriptor = _held.pop(path, None)
            if descriptor is not None:  # a thread beside this one may have been faster
                os.close(descriptor)


def _forget() -> None:
    """Close in a forked child what its parent has locked: the child may live longer."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()
    _ended.clear()


os.register_at_fork(after_in_child=_forget)
