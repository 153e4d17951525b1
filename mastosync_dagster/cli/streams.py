"""Standard output and error that end no command: closed, on a full disk, or a pipe whose reader has gone."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import IO, Any

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
    """The process's standard output and error, replaced by ones that raise nothing and fail no exit."""

    def __init__(self) -> None:
        for descriptor in range(3):
            try:
                os.fstat(descriptor)
            except OSError:  # noqa: PERF203  (three of them)
                # Closed: the next file that is opened, a database perhaps, would get this number, and the output.
                os.open(os.devnull, os.O_RDWR)
        self._raw = _UnfailingStream(1)
        sys.stdout = _text(self._raw, sys.stdout)
        sys.stderr = _text(_UnfailingStream(2), sys.stderr)

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
