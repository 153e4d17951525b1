"""How many workers are of use: where answers come at once, a few do as much as many, for less."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FEW = 32
"""Workers that keep two processors and two servers busy, where nothing else takes time."""

_DISTANT = 0.020
"""Seconds an object takes a worker from which on its time is the network's and the servers': all of them then help."""
_PERHAPS_NEAR = 0.050
"""Seconds an object takes one of all workers below which a few might do: it may be each other that they wait for."""
_FIRST_SECONDS = 0.1
_LOOK_SECONDS = 0.5
_EVERY_SECONDS = 10.0
"""A look at another number of workers, every so often: half a second of it. Twice as rarely after each in vain ..."""
_RARELY_SECONDS = 80.0
"""... but at least this often."""
_GAIN = 1.15
"""More workers must do so much more than fewer."""


class Pace:
    """Decides between a few workers, more, and all of them, by what comes of it. Lives in one thread.

    With a network between, the objects done in a second grow with the workers: all of them work. Without (a server in
    the same rack), more workers only wait for each other, and their switching costs a quarter of the processor time.

    Attributes:
        size: Workers that may work now.
    """

    def __init__(self, maximum: int, *, adaptive: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self._maximum = maximum
        self._few = min(FEW, maximum) if adaptive else maximum
        self._clock = clock
        self.size = self._few
        self._size_before, self._rate_before = self.size, 0.0
        self._looking = False
        self._every = _EVERY_SECONDS
        self.begin()
        self._next_look = self._since + self._every

    def begin(self, done: int = 0) -> None:
        """Begin to measure: the workers start now, or have done so many objects by now."""
        self._since = self._clock()
        self._done = done

    def tick(self, done: int) -> bool:
        """Take the number of objects done so far; call it some times a second. Returns whether `size` changed."""
        if self._maximum <= self._few:
            return False
        seconds = self._clock() - self._since
        if seconds < (_FIRST_SECONDS if self._done == 0 else _LOOK_SECONDS):
            return False
        rate = (done - self._done) / seconds
        before = self.size
        if self._looking:
            self._decide(rate)
        else:
            self._stay_or_look(rate)
        self.begin(done)
        return self.size != before

    def _stay_or_look(self, rate: float) -> None:
        """Change the number of workers at once where its reason is gone; else look at another one now and then."""
        each = self.size / rate if rate > 0 else _DISTANT
        if self.size < self._maximum and each >= _DISTANT:
            self.size = self._maximum
            self._every = _EVERY_SECONDS
            self._next_look = self._clock() + self._every
        elif self._clock() >= self._next_look and (self.size < self._maximum or each < _PERHAPS_NEAR):
            self._looking = True
            self._size_before, self._rate_before = self.size, rate
            # Twice as many, not all: a worker that has once begun costs memory for the rest of the run.
            self.size = self._few if self.size == self._maximum else min(2 * self.size, self._maximum)

    def _decide(self, rate: float) -> None:
        """Compare with what the number of workers before did."""
        self._looking = False
        grew = self.size > self._size_before
        fewer, more = (self._rate_before, rate) if grew else (rate, self._rate_before)
        if (more > fewer * _GAIN) == grew:
            self._every = _EVERY_SECONDS
        else:
            self.size = self._size_before
            self._every = min(2 * self._every, _RARELY_SECONDS)
        self._next_look = self._clock() + self._every
