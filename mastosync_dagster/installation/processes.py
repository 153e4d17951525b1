"""Starts processes that end with this one, whatever stops it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import FrameType

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GROUP_SECONDS = 3.0
_POLL_SECONDS = 0.05


class StopRequested(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal. Not an `Exception`: only the command itself may catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def stop_requests() -> Iterator[None]:
    """Raise `StopRequested` at the first signal that asks to stop; ignore further ones.

    A signal that is ignored when the block begins stays ignored: SIGHUP after ``nohup``. Only for the main thread,
    where Python delivers signals.
    """

    def stop(number: int, _: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise StopRequested(number)

    before = {each: handler for each in _STOP_SIGNALS if (handler := signal.getsignal(each)) is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay signals that ask to stop until the block ends, which must take seconds at the most.

    A signal between the start of a process and the return of its handle would leave the process running. In other
    threads than the main one this does nothing, since Python delivers no signals there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    delayed: list[int] = []

    def delay(number: int, _: FrameType | None) -> None:
        delayed.append(number)

    # Handlers are replaced instead of blocking the signals: a process would inherit the blocking.
    before = [(number, signal.getsignal(number)) for number in _STOP_SIGNALS]
    try:
        for number, handler in before:
            if handler not in (None, signal.SIG_IGN):
                signal.signal(number, delay)
        yield
    finally:
        for number, handler in before:
            if handler is not None:
                signal.signal(number, handler)
        if delayed:
            signal.raise_signal(delayed[0])


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    stop_by: signal.Signals = signal.SIGTERM,
    grace: float = 15.0,
    user: str | None = None,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    piped: bool = False,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends, and then end it and every process it started.

    It runs in a session of its own: Ctrl-C in the terminal does not reach it, so that processes stop in order. Its
    output is appended to ``log``; if ``piped``, only its standard error is, and the rest are pipes. At the end it gets
    the signal ``stop_by``, and is killed ``grace`` seconds later.
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with uninterrupted(), log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=output,
                user=user,
                cwd=cwd,
                env=env,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        yield process
    finally:
        if process is not None:
            with uninterrupted():
                _stop(process, stop_by, grace)


def _stop(process: subprocess.Popen[bytes], stop_by: signal.Signals, grace: float) -> None:
    if process.poll() is None:
        process.send_signal(stop_by)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    # Processes that it started and left are still in its group, which keeps the group's number from being reused.
    _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GROUP_SECONDS
    while _signal_group(process.pid, None) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    _signal_group(process.pid, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals | None) -> bool:
    """Send a signal to a process group; None: none. Returns whether the group exists."""
    try:
        os.killpg(group, number or 0)
    except (ProcessLookupError, PermissionError):  # the latter on macOS, where only zombies are left
        return False
    return True
