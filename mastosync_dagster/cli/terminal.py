"""What a terminal does to a command: signals that stop it, and output that is closed, full or read no more."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import signal
import socket
import sys
import threading
from typing import IO, TYPE_CHECKING, Any

from mastosync_dagster.shield import hangup_terminates

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
        self._reader: socket.socket | None = None
        self._lock = threading.Lock()

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
        """Watch for signals within the block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._reader = reader
        thread = threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True)
        thread.start()
        try:
            with hangup_terminates():
                yield
        finally:
            signal.set_wakeup_fd(before)
            writer.close()
            thread.join()
            self._reader = None
            reader.close()

    def has_come(self) -> bool:
        """Return whether there was a signal until now: whatever one has interrupted, it is known here."""
        if self._reader is not None:
            self._read(self._reader)
        return self.first is not None

    def _watch(self, reader: socket.socket) -> None:
        while True:
            select.select([reader], [], [])
            if not self._read(reader):
                return

    def _read(self, reader: socket.socket) -> bool:
        """Take what has been written; return False when the block has ended."""
        with self._lock:
            try:
                received = reader.recv(64)
            except BlockingIOError:  # another thread has taken it
                return True
            stops = [signal.Signals(number) for number in received if number in _STOPS] if self.first is None else []
            if stops:
                self.first = stops[0]
        if stops:
            self._on_first()
        return bool(received)


_READER_GONE = frozenset({errno.EPIPE, errno.EIO})
"""Of a pipe, and of a terminal: nobody is left who could miss the output."""


class _UnfailingStream(io.RawIOBase):
    """Writes to a descriptor. What cannot be written is dropped, and the first reason is kept."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.problem: OSError | None = None

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            # Another process has made the shared terminal or pipe non-blocking.
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return self.write(data)
        except OSError as error:
            if error.errno not in _READER_GONE:
                self.problem = self.problem or error
            return len(data)


class Output:
    """The process's standard output and error, replaced by ones that raise nothing and fail no exit.

    Attributes:
        is_result: What is written there is what the command was called for.
    """

    def __init__(self) -> None:
        self.is_result = True
        for descriptor in range(3):
            try:
                os.fstat(descriptor)
            except OSError:
                # Closed: the next file that is opened, a database perhaps, would get this number, and the output.
                os.open(os.devnull, os.O_RDWR)
        self._raw = _UnfailingStream(1)
        sys.stdout = _text(self._raw, sys.stdout)
        sys.stderr = _text(_UnfailingStream(2), sys.stderr)

    def is_read(self, seconds: float) -> bool:
        """Wait some seconds; return False at once when whoever reads standard output has gone."""
        poll = select.poll()
        poll.register(self._raw.fileno(), 0)  # it tells when a pipe or a terminal was closed
        return not poll.poll(seconds * 1000)

    def problem(self) -> str | None:
        """Return why a part of the output is lost, if somebody misses it: a full disk, not a reader that has gone."""
        sys.stdout.flush()
        found = self._raw.problem
        return None if found is None or found.errno is None else os.strerror(found.errno)


def _text(raw: _UnfailingStream, before: IO[str] | None) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",
        # A key that the terminal's encoding lacks is shown escaped.
        errors="backslashreplace",
        line_buffering=raw.isatty(),
    )
