"""Waits for a condition, not for a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE_SECONDS = 0.2


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: It did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)


def slowdown() -> float:
    """Return how many times longer a piece of work takes now than alone: 1 on a machine with nothing else to do."""
    wall, own = time.monotonic(), time.thread_time()
    while time.thread_time() - own < _PIECE_SECONDS:
        pass
    return max(1.0, (time.monotonic() - wall) / _PIECE_SECONDS)
