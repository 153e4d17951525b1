"""What is left to copy, shared by all workers: fed from the plan, a batch at a time."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING

from mastosync_dagster.transfer.storage import addressable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster.transfer.planfile import PlannedCopy

# What keys between spaces must contain for obstore to refuse one: an empty segment, or one that begins with a dot.
_MAYBE_ODD = ("//", "/.", " /", "/ ", " .", "  ")

_SPECIAL_WAITING = 4096
"""No further batch is read while so many special lines wait."""
_CHECK_SECONDS = 0.5


class Lanes:
    """Tells special objects from common ones.

    Args:
        source_prefix: Stands before every key at the source.
        destination_prefix: Stands before every key at the destination.
        limit: Bytes above which an object is special.
    """

    def __init__(self, source_prefix: str, destination_prefix: str, limit: int) -> None:
        self._prefixes = (source_prefix, destination_prefix)
        self._limit = limit

    def is_odd(self, key: str) -> bool:
        """Tell whether obstore cannot name a key, with either prefix."""
        return not all(addressable(prefix + key) for prefix in self._prefixes)

    def split(self, lines: list[PlannedCopy]) -> tuple[list[PlannedCopy], list[PlannedCopy]]:
        """Return the common and the special ones of a batch."""
        keys = [line.key for line in lines]
        keys += [line.source_key for line in lines if line.source_key != line.key]
        keys += [key for line in lines if line.candidates for key in line.candidates]
        # One look at all keys together costs far less than one at each.
        text = " ".join(("", *(f"{prefix}x" for prefix in self._prefixes), *keys, ""))
        if not text.isprintable() or any(sign in text for sign in _MAYBE_ODD):
            special = [self._is_large(line) or self._has_odd_key(line) for line in lines]
        else:
            special = [self._is_large(line) for line in lines]
        if not any(special):
            return lines, []
        return (
            [line for line, apart in zip(lines, special, strict=True) if not apart],
            [line for line, apart in zip(lines, special, strict=True) if apart],
        )

    def _is_large(self, line: PlannedCopy) -> bool:
        return line.size is not None and line.size > self._limit

    def _has_odd_key(self, line: PlannedCopy) -> bool:
        return any(self.is_odd(key) for key in (line.key, line.source_key, *line.candidates))


class WorkQueue:
    """Hands out planned objects. Thread-safe; taking a common one costs one pop from a deque.

    Special objects (large ones, odd keys) have a lane of their own with a limit, and go first as long as that limit
    allows: they take long, and must neither end the run alone nor fill the memory together.

    Args:
        batches: The plan.
        lanes: Tells which are special.
        special_at_once: Special objects in work at most.
    """

    def __init__(
        self,
        batches: Iterator[list[PlannedCopy]],
        lanes: Lanes,
        special_at_once: int,
    ) -> None:
        self._batches = batches
        self._lanes = lanes
        self._most_special = special_at_once
        self._common: deque[PlannedCopy] = deque()
        self._special: deque[PlannedCopy] = deque()
        self._special_running = 0
        self._exhausted = False
        self._halted = False
        self._condition = threading.Condition()

    def take(self) -> tuple[PlannedCopy, bool] | None:
        """Take the next object.

        Returns:
            It, and whether it is special: then `finish_special` has to follow. None: nothing is left for this worker.
        """
        if self._special:
            with self._condition:
                line = self._take_special()
            if line is not None:
                return line, True
        try:
            return self._common.popleft(), False
        except IndexError:
            return self._refill()

    def _take_special(self) -> PlannedCopy | None:
        if not self._special or self._special_running >= self._most_special or self._halted:
            return None
        self._special_running += 1
        return self._special.popleft()

    def _refill(self) -> tuple[PlannedCopy, bool] | None:
        with self._condition:
            while not self._halted:
                line = self._take_special()
                if line is not None:
                    return line, True
                try:
                    return self._common.popleft(), False
                except IndexError:
                    pass
                if len(self._special) < _SPECIAL_WAITING and self._read_batch():
                    continue
                if self._exhausted:
                    # Special ones may still wait: whoever finishes one takes the next.
                    return None
                self._condition.wait(_CHECK_SECONDS)
            return None

    def _read_batch(self) -> bool:
        """Read a batch of the plan. Returns False at its end."""
        lines = None if self._exhausted else next(self._batches, None)
        if lines is None:
            self._exhausted = True
            return False
        common, special = self._lanes.split(lines)
        self._special.extend(special)
        self._common.extend(common)
        return True

    def finish_special(self) -> None:
        """Note that a special object is done."""
        with self._condition:
            self._special_running -= 1
            self._condition.notify()

    def put_special(self, line: PlannedCopy) -> None:
        """Give back a line that turned out to be special."""
        with self._condition:
            self._special.append(line)

    def halt(self) -> None:
        """Hand out nothing more."""
        with self._condition:
            self._halted = True
            self._condition.notify_all()
            # Workers take common lines without looking at anything else.
            with contextlib.suppress(IndexError):
                while True:
                    self._special.append(self._common.popleft())

    def rest(self) -> Iterator[PlannedCopy]:
        """Yield what was not handed out; nobody takes any more."""
        while self._special:
            yield self._special.popleft()
        while self._common:
            yield self._common.popleft()
        for lines in self._batches:
            yield from lines
