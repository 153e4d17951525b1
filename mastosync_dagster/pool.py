"""Threads for many small requests; an interrupt of the main thread ends the wait for them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, wait
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
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

    Neither does the end of the process, which waits for the threads of `concurrent.futures`.

    Args:
        threads: How many there are at the most.
        tick: Called in the waiting thread about twice a second.

    Attributes:
        halt: Set when the block ends or a function fails; functions pass it on to end their retries.
    """

    def __init__(self, threads: int, *, tick: Callable[[], None] = lambda: None) -> None:
        self.halt = threading.Event()
        self._tick = tick
        self._most = threads
        self._threads: list[threading.Thread] = []
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Start nothing further, and let the threads end."""
        self.halt.set()
        for _thread in self._threads:
            self._tasks.put(None)

    def submit(self, function: Callable[[_Thing], _Result], thing: _Thing) -> Future[_Result]:
        """Have a thread call a function; once `halt` is set, the result is a CancelledError."""
        future: Future[_Result] = Future()
        if self.halt.is_set():
            future.set_exception(CancelledError())
            return future
        self._tasks.put(partial(self._run, future, function, thing))
        if len(self._threads) < self._most:
            thread = threading.Thread(target=self._work, name="pool", daemon=True)
            thread.start()
            self._threads.append(thread)
        return future

    def map(self, function: Callable[[_Thing], _Result], things: Iterable[_Thing]) -> list[_Result]:
        """Return a function's results, in the order of its arguments. Raises as `results` does."""
        return self.results([self.submit(function, thing) for thing in things])

    def results(self, futures: Sequence[Future[_Result]]) -> list[_Result]:
        """Wait for all results.

        Raises:
            Exception: The first that a function raised; nothing further is started.
        """
        waiting = set(futures)
        while waiting:
            # The interrupt of a run that is terminated is raised here, in the main thread.
            done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_EXCEPTION)
            failed = next((future for future in done if future.exception() is not None), None)
            if failed is not None:
                self.halt.set()
                failed.result()
            self._tick()
        return [future.result() for future in futures]

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            # While it waits for the next one, it keeps no result.
            del task

    def _run(self, future: Future[_Result], function: Callable[[_Thing], _Result], thing: _Thing) -> None:
        if self.halt.is_set():
            # Nobody waits for this result any more.
            future.set_exception(CancelledError())
            return
        try:
            future.set_result(function(thing))
        except BaseException as error:  # noqa: BLE001  (raised where the result is waited for)
            future.set_exception(error)
            # The error's traceback knows this frame: a circle, while the collector may be switched off.
            del self, future, function, thing
