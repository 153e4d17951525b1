"""Memory for bodies that threads hold."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from mastosync_dagster.s3.errors import Aside

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHECK_SECONDS = 0.2
"""How often a waiting thread looks whether the run was stopped."""


class NeedsRoomError(Aside):
    """A body turns out to be larger than what is held for it.

    Attributes:
        size: What it takes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes")
        self.size = size


class MemoryBudget:
    """Bytes that bodies may occupy together.

    Bodies up to `share` are not counted: each of the threads may hold one such body from its own share of the first
    half of the budget. Larger ones take their size from the other half, and wait while it is used up. So the common
    small object costs no lock, and the sum still stays below the budget.

    Whoever waits for some has no place in a window: those who have one, and a body, would wait for each other.

    Attributes:
        share: Bodies up to this many bytes need no `hold`.
    """

    def __init__(self, total: int, threads: int) -> None:
        self.share = total // (2 * threads)
        self._shared = total - self.share * threads
        self._free = self._shared
        self._condition = threading.Condition()

    @contextlib.contextmanager
    def hold(self, size: int, stop: threading.Event) -> Iterator[int]:
        """Hold ``size`` bytes of the budget while the block runs; wait for them first, or until ``stop``.

        Gives the bytes that are held: a body larger than the whole budget waits until it is alone.
        """
        amount = min(size, self._shared)
        with self._condition:
            while self._free < amount and not stop.is_set():
                self._condition.wait(_CHECK_SECONDS)
            self._free -= amount
        try:
            yield amount
        finally:
            with self._condition:
                self._free += amount
                self._condition.notify_all()

    def check(self, size: int, held: int) -> None:
        """Make sure that what is held suffices for a body.

        Raises:
            NeedsRoomError: It does not.
        """
        if size > self.share and min(size, self._shared) > held:
            raise NeedsRoomError(size)
