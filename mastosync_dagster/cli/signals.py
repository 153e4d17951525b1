"""Which signal asks a command to stop, and its exit status."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WORDS = {
    signal.SIGINT: "Ctrl-C (SIGINT)",
    signal.SIGTERM: "SIGTERM",
    signal.SIGHUP: "the end of its terminal (SIGHUP)",
}
_STATUS_BASE = 128
"""A shell adds the signal's number to this one."""


class StopSignals:
    """The first signal that asks this process to stop.

    Dagster sets handlers of its own for the time of a run, which do not say what they were called by. Python writes the
    number of every signal to a descriptor, whatever the handler.
    """

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._on_first = on_first
        self.first: signal.Signals | None = None

    @property
    def words(self) -> str:
        """What has stopped the command."""
        return "a signal" if self.first is None else _WORDS[self.first]

    @property
    def exit_status(self) -> int:
        """The exit status of a command that was stopped."""
        return _STATUS_BASE + (self.first or signal.SIGINT)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch for signals within the block. SIGHUP counts as SIGTERM, except where it is ignored (nohup)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        hangup = signal.getsignal(signal.SIGHUP)
        if hangup is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._read, args=(reader,), name="signals", daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            signal.signal(signal.SIGHUP, hangup)
            writer.close()
            thread.join()
            reader.close()

    def _read(self, reader: socket.socket) -> None:
        while received := reader.recv(64):
            for number in received:
                if self.first is None and number in _STOPS:
                    self.first = signal.Signals(number)
                    self._on_first()
