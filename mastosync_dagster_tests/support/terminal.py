"""A command in a terminal: a pty whose output is read while the command runs."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SECONDS = 60.0


def executable(name: str) -> str:
    """Return the path of one of this interpreter's commands."""
    return str(Path(sys.executable).with_name(name))


class Terminal:
    """A command that has a terminal of its own; left, it is killed.

    Attributes:
        process: The command.
    """

    def __init__(self, *command: str, environment: Mapping[str, str] | None = None, columns: int = 100) -> None:
        self._main, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._parts: list[bytes] = []
        self.process = subprocess.Popen(
            [executable(command[0]), *command[1:]],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", **(environment or {})},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  (no threads of ours hold locks)
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._main, 65_536)
            except OSError:  # the command has ended, or the terminal was closed
                return
            if not part:
                return
            self._parts.append(part)

    @property
    def text(self) -> str:
        """All that was written so far, without control sequences; each state of a bar is a line."""
        written = b"".join(self._parts).decode(errors="replace")
        return _ESCAPES.sub("", written).replace("\r\n", "\n").replace("\r", "\n")

    def press(self, keys: str) -> None:
        """Press keys; bytes that are no UTF-8 as Python escapes them."""
        os.write(self._main, keys.encode(errors="surrogateescape"))

    def wait_for(self, pattern: str) -> None:
        """Wait until something was written."""
        wait_until(lambda: re.search(pattern, self.text) is not None or self.process.poll() is not None, _SECONDS)
        assert re.search(pattern, self.text), self.text

    def close(self) -> None:
        """Close the terminal, as when an SSH session ends."""
        if self._main >= 0:
            os.close(self._main)
            self._main = -1

    def end(self) -> int:
        """Wait for the command's end. Returns its exit status."""
        try:
            status = self.process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.text) from None
        self._reader.join(_SECONDS)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.close()
        self._reader.join(1)
