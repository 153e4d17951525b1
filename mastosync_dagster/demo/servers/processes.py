"""Processes that end with us: whatever stops the demo, nothing of it stays behind."""

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
    """Ctrl-C, SIGTERM or a closed terminal. Not an `Exception`: nobody but the demo itself may catch it.

    Attributes:
        signal: Which one it was.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def stop_requests() -> Iterator[None]:
    """Raise `StopRequested` at the first signal that asks to stop; let no further one disturb the stopping.

    Only for the main thread, where Python delivers signals.
    """

    def stop(number: int, _: FrameType | None) -> None:
        for each in _STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise StopRequested(number)

    before = [signal.signal(number, stop) for number in _STOP_SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_STOP_SIGNALS, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold signals that ask to stop back until the block ends; keep it to seconds.

    Without it, one that comes between the start of a process and the moment we know of it would leave it behind. In
    other threads than the main one it does nothing, since Python delivers no signals there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        held.append(number)

    # Handlers are swapped, not signals blocked: a process would inherit the blocking.
    before = [(number, signal.getsignal(number)) for number in _STOP_SIGNALS]
    try:
        for number, handler in before:
            if handler not in (None, signal.SIG_IGN):
                signal.signal(number, hold)
        yield
    finally:
        for number, handler in before:
            if handler is not None:
                signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


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
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends, and then end it and every process it started.

    It runs in a session of its own: Ctrl-C in the terminal reaches us alone, and we stop things in order.

    Args:
        command: Program and arguments.
        log: File that its output is appended to.
        stop_by: The signal that it stops at.
        grace: Seconds it may take to stop before it is killed.
        user: Whom it runs as; None: us.
        cwd: Its working directory; None: ours.
        env: Its environment; None: ours.
        piped: Its standard input and output are pipes to us; only standard error goes to the log.
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
    # What it started and left behind is still in its process group, which keeps the group's number from being reused.
    _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GROUP_SECONDS
    while _signal_group(process.pid, None) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    _signal_group(process.pid, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals | None) -> bool:
    """Send a signal to a process group (None: ask whether it is there). Returns whether it was."""
    try:
        os.killpg(group, number or 0)
    except (ProcessLookupError, PermissionError):  # the latter on macOS, where only zombies are left
        return False
    return True
