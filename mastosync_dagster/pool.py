"""Threads for many small requests; an interrupt of the main thread ends the wait for them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")

_POLL_SECONDS = 0.5


class EverySecond:
    """Calls a function, at most about once a second unless it must be called at once."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._called = time.monotonic()

    def __call__(self, *, at_once: bool = False) -> None:
        """Call the function if it is time."""
        now = time.monotonic()
        if at_once or now - self._called >= 1.0:
            self._called = now
            self._function()


class Pool:
    """A thread pool. A context manager: its end does not wait for requests in flight, and starts no further one.

    ``tick`` is called in the waiting thread about twice a second.

    Attributes:
        halt: Set when the block ends or a function fails; functions pass it on to end their retries.
    """

    def __init__(self, threads: int, *, tick: Callable[[], None] = lambda: None) -> None:
        self.halt = threading.Event()
        self._tick = tick
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="pool")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.halt.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def map(self, function: Callable[[_Thing], _Result], things: Iterable[_Thing]) -> list[_Result]:
        """Return a function's results, in the order of its arguments.

        Raises:
            Exception: The first that the function raised; nothing further is started.
        """
        futures = [self._threads.submit(self._run, function, thing) for thing in things]
        waiting: set[Future[_Result]] = set(futures)
        while waiting:
            # The interrupt of a run that is terminated is raised here, in the main thread.
            done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_EXCEPTION)
            failed = next((future for future in done if future.exception() is not None), None)
            if failed is not None:
                self.halt.set()
                failed.result()
            self._tick()
        return [future.result() for future in futures]

    def _run(self, function: Callable[[_Thing], _Result], thing: _Thing) -> _Result:
        if self.halt.is_set():
            # Nobody waits for this result any more.
            raise CancelledError
        return function(thing)
