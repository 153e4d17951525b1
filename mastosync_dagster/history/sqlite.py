"""Dagster's history in SQLite: synced to the disk in groups, and not several times an event."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar

from sqlalchemy import event
from sqlalchemy.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_FILES = 8
"""Files that are held open: three databases, and those of the runs that are written now."""
_FILE_OF_MAIN = 2
"""The column of ``PRAGMA database_list`` with the path."""


@contextlib.contextmanager
def grouped_syncs() -> Iterator[None]:
    """Let SQLite sync its files when its log is full, while the block lasts.

    Dagster opens and closes a connection for each statement. The last one that closes copies the log (WAL) into the
    database, with four fdatasyncs: hundreds for the smallest run, and 30 ms each on a busy or a network disk. So one
    connection to each file is kept open. Killed, nothing is lost. When the machine crashes, events of the last seconds
    may be lost and the database stays whole: what they held is then found again by listing.

    Within another block it does nothing: a command opens the home, and the run that it executes begins in it.
    """
    if _HeldFiles.open:
        yield
        return
    held = _HeldFiles()
    _HeldFiles.open = True
    event.listen(Engine, "connect", held.on_connect)
    try:
        yield
    finally:
        event.remove(Engine, "connect", held.on_connect)
        _HeldFiles.open = False
        held.close()


class _HeldFiles:
    """A connection to each of the files that were used last.

    Attributes:
        open: Whether a block of this process has one.
    """

    open: ClassVar[bool] = False

    def __init__(self) -> None:
        self._connections: OrderedDict[str, sqlite3.Connection] = OrderedDict()

    def on_connect(self, connection: object, _: object) -> None:
        """Set up a connection that SQLAlchemy has opened."""
        if not isinstance(connection, sqlite3.Connection):
            return
        # What is wrong with the file is for the statement to say that Dagster executes next.
        with contextlib.suppress(sqlite3.Error):
            path = str(next(iter(connection.execute("PRAGMA database_list")))[_FILE_OF_MAIN])
            if not path:
                return
            # Of the file, and so once. Dagster sets it too, after it has made the tables one by one.
            if path not in self._connections:
                connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            self._hold(path)

    def _hold(self, path: str) -> None:
        if path not in self._connections:
            kept = self._connections[path] = sqlite3.connect(path, timeout=0, check_same_thread=False)
            # A connection that has read nothing has not opened the log.
            kept.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self._connections.move_to_end(path)
        while len(self._connections) > _MOST_FILES:
            _, oldest = self._connections.popitem(last=False)
            oldest.close()

    def close(self) -> None:
        """Close them all."""
        while self._connections:
            _, connection = self._connections.popitem()
            connection.close()
