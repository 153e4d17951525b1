"""How a worker executes a run: as a process of its own, as long as it has the lease and the history wants the run."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import dagster as dg
import redis

from mastosync_dagster.machines import run_process
from mastosync_dagster.runs.dead_runs import announce_retry, cause_of_death

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mastosync_dagster.machines.leases import Leases

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

_BEGINS = frozenset({dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING})
_WAITS = _BEGINS | {dg.DagsterRunStatus.CANCELING}
"""The statuses of a run that no process has executed yet: it may have been terminated before that."""
_BEAT_SECONDS = 1.0
_ASK_SECONDS = 2.0
"""How often the history is asked whether a run is to end."""
_AGAIN_SECONDS = 2.0
"""Between two attempts to reach a history or broker that is away."""
_PATIENCE = {
    # Interrupted, it stops to copy at once: this is for what it still has to write down.
    dg.DagsterRunStatus.CANCELING: 60.0,
    dg.DagsterRunStatus.SUCCESS: 60.0,
    # Where the process itself has said so, it is about to end.
    dg.DagsterRunStatus.FAILURE: 5.0,
    dg.DagsterRunStatus.CANCELED: 5.0,
}
"""The statuses by which a run's process is to end, and the seconds until it is killed."""


def execute(instance: dg.DagsterInstance, leases: Leases, run_id: str, holder: str) -> None:
    """Execute a run to its end, unless another worker has it, or it has begun or ended.

    ``holder`` is the name of this execution: no other has it, of this worker neither.
    """
    if _status(instance, run_id) not in _WAITS or not until_answered(lambda: leases.take(run_id, holder)):
        _LOG.info("run %s has begun or ended elsewhere", run_id)
        return
    try:
        # Asked again: the one who had the lease before may have executed it.
        status = _status(instance, run_id)
        lost = status in _BEGINS and not _execute(instance, leases, run_id, holder)
        if status in _WAITS and not lost:
            until_answered(lambda: _record_end(instance, run_id))
    finally:
        with contextlib.suppress(redis.RedisError):
            leases.give_back(run_id, holder)


def _status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus | None:
    """Return a run's status, as soon as the history answers; None: it does not know the run."""
    run = until_answered(lambda: instance.get_run_by_id(run_id))
    return run.status if run else None


def _execute(instance: dg.DagsterInstance, leases: Leases, run_id: str, holder: str) -> bool:
    """Have a process execute a run; return whether the lease was held to its end."""
    command = [sys.executable, "-m", run_process.__name__, run_id, str(leases.silent_seconds)]
    heard, beat = os.pipe()
    try:
        # A session of its own: Ctrl-C, and a service manager that stops the worker, let the run go on to its end.
        with subprocess.Popen(command, stdin=heard, start_new_session=True) as process:
            try:
                with _asked(instance, run_id) as answer:
                    return _watch(process, beat, answer, _Renewal(leases, run_id, holder))
            finally:
                process.kill()
    except OSError as error:  # no memory for a process, or none may be started
        _LOG.warning("run %s cannot begin here: %s", run_id, error)
        return True
    finally:
        os.close(heard)
        os.close(beat)


def _watch(process: subprocess.Popen[bytes], beat: int, answer: _Answer, lease: _Renewal) -> bool:
    """Wait for a run's process; return sooner when it is to be killed. False: another worker has the lease.

    The process hears each time that the broker or the history has confirmed the run, and ends where neither does for
    too long: cut off from both, it cannot know that another worker has the run by now. A broker that is away takes no
    run from anybody, as long as the history says that it goes on.
    """
    ends: dg.DagsterRunStatus | None = None
    since = passed_on = 0.0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_BEAT_SECONDS)
            return True
        if not lease.is_held():
            _LOG.warning("another worker has the run: its process here is ended")
            return False
        if (confirmed := max(lease.confirmed, answer.confirmed)) > passed_on:
            passed_on = confirmed
            with contextlib.suppress(BrokenPipeError):  # it has just ended
                os.write(beat, b"\n")
        now = time.monotonic()
        if (found := answer.ends) is not ends:
            ends, since = found, now
            if found is dg.DagsterRunStatus.CANCELING:
                process.send_signal(signal.SIGINT)
        if ends is not None and now - since >= _PATIENCE[ends]:
            _LOG.warning("the run is %s in the history, and its process goes on: it is ended", ends.value)
            return True


class _Renewal:
    """Renews a lease as often as it must be.

    Attributes:
        confirmed: When the broker was last asked of those times that it has answered.
    """

    def __init__(self, leases: Leases, run_id: str, holder: str) -> None:
        self._leases, self._run_id, self._holder = leases, run_id, holder
        self.confirmed = self._at = time.monotonic()

    def is_held(self) -> bool:
        """Return whether nobody else has the lease, as far as the broker has said."""
        now = time.monotonic()
        if now - self._at < self._leases.renew_seconds:
            return True
        self._at = now
        try:
            if not self._leases.take(self._run_id, self._holder):
                return False
        except redis.RedisError as error:
            _LOG.warning("the broker does not answer: %s", error)
        else:
            self.confirmed = now
        return True


@dataclass
class _Answer:
    """What the history says of a run.

    Attributes:
        ends: The last status by which the run is to end; None: it goes on.
        confirmed: When it was last asked of those times that it has said that the run goes on.
    """

    ends: dg.DagsterRunStatus | None = None
    confirmed: float = 0.0


@contextlib.contextmanager
def _asked(instance: dg.DagsterInstance, run_id: str) -> Iterator[_Answer]:
    """Ask the history about a run as long as the block runs, into what it yields.

    In a thread: a history that is silent must not keep the worker from saying that it has the run.
    """
    answer = _Answer()
    over = threading.Event()

    def ask() -> None:
        while not over.wait(_ASK_SECONDS):
            now = time.monotonic()
            try:
                run = instance.get_run_by_id(run_id)
            except Exception as error:  # noqa: BLE001  (whatever the database says: it is asked again)
                _LOG.warning("the history does not answer: %s", error)
                continue
            # A run that was deleted is one that nobody wants.
            status = dg.DagsterRunStatus.CANCELED if run is None else run.status
            answer.ends = status if status in _PATIENCE else None
            if answer.ends is None:
                answer.confirmed = now

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield answer
    finally:
        over.set()


def _record_end(instance: dg.DagsterInstance, run_id: str) -> None:
    """Say in the history how a run has ended whose process could not."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return
    if run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run)
        return
    announce_retry(instance, run_id)
    instance.report_run_failed(run, cause_of_death(instance, run_id))


def until_answered(ask: Callable[[], _T]) -> _T:
    """Ask a history or broker until it answers."""
    while True:
        try:
            return ask()
        except Exception as error:  # noqa: BLE001  (of a database, whatever it is; a broker's are as various)
            _LOG.warning("asked again in %.0f s: %s", _AGAIN_SECONDS, error)
            time.sleep(_AGAIN_SECONDS)
