"""Rows that become private while a run goes on that has planned their objects as public.

The run asks the database every few seconds about the rows of what it has just written, and makes private what has
become so: a plan of hours ago exposes nothing for longer than that. What a run that dies leaves, the next night finds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from mastosync_dagster.errors import AdminError
from mastosync_dagster.pool import Pool
from mastosync_dagster.records.doubts import Doubt, DoubtLine
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.s3.acl import set_access

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mastosync_dagster.mastodon import PrivateRows
    from mastosync_dagster.records.manifest import ManifestLine
    from mastosync_dagster.s3.storage import Storage

_SECONDS = 5.0
_LINES = 5_000
_THREADS = 16


class PrivacyWatch:
    """Watches over the public objects of one table that a run writes.

    Args:
        rows: Tells which rows of the table are private now.
        destination: Where the objects are; it has ACLs.
        put_on_list: Publishes doubt lines, before anything is done to their objects.
        warn: Takes a warning.
        every: Seconds between two looks at the database.
    """

    def __init__(
        self,
        rows: PrivateRows,
        destination: Storage,
        put_on_list: Callable[[Sequence[DoubtLine]], None],
        warn: Callable[[str], object],
        *,
        every: float = _SECONDS,
    ) -> None:
        self._rows = rows
        self._destination = destination
        self._put_on_list = put_on_list
        self._warn = warn
        self._every = every
        self._next = time.monotonic() + every
        self._written: deque[ManifestLine] = deque()
        self._is_silent = False

    def wrote(self, line: ManifestLine) -> None:
        """Take the line of an object, from any thread."""
        if line.outcome in {Outcome.COPIED, Outcome.PRESENT} and not line.private and line.group == self._rows.table:
            self._written.append(line)

    def tick(self) -> None:
        """Look at the database if it is time to."""
        if time.monotonic() >= self._next or len(self._written) >= _LINES:
            self.look()
            self._next = time.monotonic() + self._every

    def look(self) -> None:
        """Make private what was written for everybody and is private by its row now."""
        while self._written:
            lines = [self._written.popleft() for _ in range(min(len(self._written), _LINES))]
            try:
                private = self._rows.among({line.row_id for line in lines})
                exposed = [line for line in lines if line.row_id in private]
                if exposed:
                    self._make_private(exposed)
            except AdminError as error:
                # They are looked at again, the last time when the run ends; then the next night asks.
                self._written.extend(lines)
                self._say_once(f"whether rows have become private meanwhile could not be seen to: {error}")
                return

    def _make_private(self, lines: list[ManifestLine]) -> None:
        self._put_on_list([DoubtLine(line.row_id, line.part, Doubt.ACL, 0, line.key) for line in lines])
        prefix = len(self._destination.settings.prefix)
        with Pool(_THREADS, stop=threading.Event()) as pool:
            made_private = partial(set_access, self._destination, private=True, halt=pool.halt)
            pool.map(made_private, [line.key[prefix:] for line in lines])
        self._warn(f"{len(lines):,} objects whose rows have become private meanwhile were made private")

    def _say_once(self, text: str) -> None:
        if not self._is_silent:
            self._is_silent = True
            self._warn(text)
