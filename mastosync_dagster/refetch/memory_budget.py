"""Limits the memory for bodies that threads hold."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHECK_SECONDS = 0.2
"""How often a waiting thread checks whether the run was stopped."""


class MemoryBudget:
    """Bytes that bodies may occupy together.

    Bodies up to `share` are not counted: each thread may hold one such body from its own share of the first half of the
    budget. Larger ones take their size from the other half, and wait while it is used up. So the common small object
    costs no lock, and the sum still stays below the budget.

    Attributes:
        share: Bodies up to this many bytes need no `hold`.
    """

    def __init__(self, total: int, threads: int) -> None:
        self.share = total // (2 * threads)
        self._shared = total - self.share * threads
        self._free = self._shared
        self._condition = threading.Condition()

    @contextlib.contextmanager
    def hold(self, size: int, stop: threading.Event) -> Iterator[None]:
        """Hold ``size`` bytes of the budget while the block runs; wait for them first, or until ``stop``.

        A body larger than the whole budget waits until it is alone.
        """
        amount = min(size, self._shared)
        with self._condition:
            while self._free < amount and not stop.is_set():
                self._condition.wait(_CHECK_SECONDS)
            self._free -= amount
        try:
            yield
        finally:
            with self._condition:
                self._free += amount
                self._condition.notify_all()
