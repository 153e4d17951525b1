"""Writes the outcome of each object, in a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from mastosync_dagster.records.manifest import ManifestWriter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mastosync_dagster.records.manifest import ManifestLine

_DRAIN_SECONDS = 0.25

NOT_BEGUN = "the run was stopped before"
"""Remark on an object that was not attempted."""


class ResultWriter:
    """Writes manifest lines in a thread of its own, which no interrupt of the main thread can disturb.

    Attributes:
        put: Takes a line; called from any thread, it costs an append to a deque.
        error: Why the thread ended early; None: it did not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: deque[ManifestLine] = deque()
        self._rest: Iterable[ManifestLine] = ()
        self._finish = threading.Event()
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)
        self.put = self._lines.append
        self.error: BaseException | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        try:
            with ManifestWriter(self._path) as writer:
                while not self._finish.wait(_DRAIN_SECONDS):
                    self._drain(writer)
                for line in self._rest:
                    writer.write(line)
                # After the rest: a worker may have ended while it was gathered.
                self._drain(writer)
        except BaseException as error:  # noqa: BLE001  (raised again in the main thread)
            self.error = error

    def _drain(self, writer: ManifestWriter) -> None:
        lines = self._lines
        while lines:
            writer.write(lines.popleft())

    def finish(self, rest: Iterable[ManifestLine]) -> None:
        """Write what is still to come, and ``rest``; then close the file, or raise why it could not be written."""
        self._rest = rest
        self._finish.set()
        self._thread.join()
        if self.error is not None:
            raise self.error
