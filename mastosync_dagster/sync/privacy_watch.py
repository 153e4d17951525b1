"""Rows that become private while a run goes on that has planned their objects as public.

Every few seconds the run reads from the database which rows of the objects that it has just written are private now,
and makes those objects private: a plan of hours ago exposes nothing for longer. The next night finds what a run that
dies leaves.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from mastosync_dagster.errors import AdminError
from mastosync_dagster.mastodon.keys import pattern_of
from mastosync_dagster.pool import Pool
from mastosync_dagster.records.doubts import Doubt, DoubtLine
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.s3.acl import set_acl
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.probes import ExposedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mastosync_dagster.mastodon import PrivateRows
    from mastosync_dagster.records.manifest import ManifestLine
    from mastosync_dagster.s3.storage import Storage

_SECONDS = 5.0
_LOOK_SECONDS = 0.25
_END_SECONDS = 1.0
_LINES = 5_000
_THREADS = 16


class PrivacyWatch:
    """Makes private the public objects of one table that a run writes, if their rows become private meanwhile.

    The destination has ACLs. ``put_on_list`` publishes doubt lines, before anything is done to their objects. ``prove``
    gets patterns of keys and raises as `s3.probes.prove_private`: an ACL hides nothing that a policy shows. ``warn``
    gets what is to be said, in the thread that calls `tell`.
    """

    def __init__(
        self,
        rows: PrivateRows,
        destination: Storage,
        put_on_list: Callable[[Sequence[DoubtLine]], None],
        prove: Callable[[set[str]], None],
        warn: Callable[[str], object],
    ) -> None:
        self._rows = rows
        self._destination = destination
        self._put_on_list = put_on_list
        self._prove = prove
        self._proven: set[str] = set()
        self._warn = warn
        self._written: deque[ManifestLine] = deque()
        self._has_warned = False
        self._said: deque[str] = deque()

    def wrote(self, line: ManifestLine) -> None:
        """Take the line of an object, from any thread."""
        if line.outcome in {Outcome.COPIED, Outcome.PRESENT} and not line.private and line.group == self._rows.table:
            self._written.append(line)

    @contextlib.contextmanager
    def beside(self, stop: threading.Event) -> Iterator[None]:
        """Check every few seconds while the block runs, which is ended by ``stop`` if nothing can be made private.

        In a thread of its own: whoever writes into the run's log waits as long as Dagster's history is away.

        Raises:
            StorageError: As `check`, when the block has ended.
        """
        over = threading.Event()
        errors: list[BaseException] = []

        def go_on() -> None:
            due = time.monotonic() + _SECONDS
            while not over.wait(_LOOK_SECONDS):
                if time.monotonic() >= due or len(self._written) >= _LINES:
                    try:
                        self.check()
                    except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits
                        errors.append(error)
                        stop.set()
                        return
                    due = time.monotonic() + _SECONDS

        thread = threading.Thread(target=go_on, name="privacy watch", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            over.set()
            # A run that is to end at once waits for no host: the next night looks at what was not looked at here.
            thread.join(_END_SECONDS)
            raise
        over.set()
        thread.join()
        if errors:
            raise errors[0]

    def tell(self) -> None:
        """Pass on what there is to say."""
        while self._said:
            self._warn(self._said.popleft())

    def check(self) -> None:
        """Make private what was written as public and is private by its row now.

        Raises:
            StorageError: Permanent: nothing can be made private. The run has to end, as it would have before it began.
        """
        while self._written:
            lines = [self._written.popleft() for _ in range(min(len(self._written), _LINES))]
            try:
                private = self._rows.among({line.row_id for line in lines})
                exposed = [line for line in lines if line.row_id in private]
                if exposed:
                    self._make_private(exposed)
            except AdminError as error:
                if isinstance(error, StorageError) and error.permanent:
                    raise
                # They are checked again, the last time when the run ends; then the next night checks them.
                self._written.extend(lines)
                if not self._has_warned:
                    self._has_warned = True
                    self._said.append(f"whether rows have become private meanwhile could not be checked: {error}")
                return

    def _make_private(self, lines: list[ManifestLine]) -> None:
        self._put_on_list([DoubtLine(line.row_id, line.part, Doubt.ACL, 0, line.key) for line in lines])
        prefix = len(self._destination.settings.prefix)
        keys = [line.key[prefix:] for line in lines]
        patterns = set(map(pattern_of, keys)) - self._proven
        try:
            self._prove(patterns)
        except ExposedError:
            # An ACL hides what the policy does not show. Where it fails, the next night sets it.
            with contextlib.suppress(StorageError):
                self._set_acls(keys)
            raise
        self._proven |= patterns
        self._set_acls(keys)
        self._said.append(f"{len(lines):,} objects whose rows have become private meanwhile were made private")

    def _set_acls(self, keys: list[str]) -> None:
        with Pool(_THREADS) as pool:
            pool.map(partial(set_acl, self._destination, private=True, halt=pool.halt), keys)
