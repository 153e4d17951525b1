"""Threads for many small requests, waited for in a way that an interrupt of the main thread ends."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")

_POLL_SECONDS = 0.5


class Stopped(Exception):  # noqa: N818  (no error: somebody wanted it)
    """The work was stopped from outside."""


class Pool:
    """Some threads. A context manager: it leaves requests in flight to themselves, and begins no further one.

    Args:
        threads: How many.
        stop: Set from outside, it ends everything with `Stopped`.
        tick: Called about twice a second while waiting.
    """

    def __init__(self, threads: int, *, stop: threading.Event, tick: Callable[[], None] = lambda: None) -> None:
        self.halt = threading.Event()
        self._stop = stop
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
            Stopped: Stopped from outside.
            Exception: The first that the function raised; nothing further is begun.
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
            if self._stop.is_set():
                raise Stopped
            self._tick()
        return [future.result() for future in futures]

    def _run(self, function: Callable[[_Thing], _Result], thing: _Thing) -> _Result:
        if self.halt.is_set():
            raise Stopped
        return function(thing)
