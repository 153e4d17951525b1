"""Coroutines over libcurl's multi interface: one thread, its sockets in one epoll.

Not asyncio: its loop does more for each event than a transfer of a small object has to spare.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import logging
import math
import os
import select
import socket
import threading
import time
import types
from collections import deque
from concurrent.futures import CancelledError, Future, wait
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pycurl

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

_T = TypeVar("_T")

_LOG = logging.getLogger(__name__)

_IDLE_SECONDS = 3600.0
_CONNECTIONS = 1024
"""Idle connections that are kept at most; libcurl's own limit grows with the current transfers."""
_EVENTS = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}


class TaskCancelled(BaseException):
    """Raised inside a coroutine that is cancelled, where it waits."""


class ResourcesError(Exception):
    """The system gives no descriptors, or no thread."""


class Task(Generic[_T]):
    """A coroutine that runs on a loop.

    Attributes:
        curl: The transfer that it waits for; None: it waits for something else.
        waiter: Number of its current wait; another one once that is over.
        interrupted: An exception will be raised in it when it goes on.
    """

    __slots__ = ("_begun", "_coroutine", "_future", "curl", "done", "interrupted", "waiter")

    def __init__(self, coroutine: Coroutine[Any, Any, _T], future: Future[_T] | None) -> None:
        self._coroutine = coroutine
        self._future = future
        self.curl: pycurl.Curl | None = None
        self.waiter = 0
        self._begun = False
        self.done = self.interrupted = False

    def step(self, value: object, error: BaseException | None) -> Any:
        """Let the coroutine go on until it waits again. Returns what it waits for; None once it is done."""
        try:
            if error is None:
                self._begun = True
                return self._coroutine.send(value)
            if not self._begun:
                # Raised before its first line, an error would pass by everything that it does at its end.
                self._begun = True
                self._coroutine.send(None)
            return self._coroutine.throw(error)
        except StopIteration as stop:
            self.done = True
            if self._future is not None:
                self._future.set_result(stop.value)
        except TaskCancelled:
            self.done = True
            if self._future is not None:
                self._future.set_exception(CancelledError())
        except BaseException as problem:
            self.done = True
            if self._future is None:
                raise
            self._future.set_exception(problem)
        return None

    def abandon(self, error: BaseException) -> None:
        """Give an error to the thread that waits for it: it will not end."""
        self.done = True
        if self._future is not None and not self._future.done():
            self._future.set_exception(error)


class Loop:
    """Runs coroutines in a thread of its own, which begins with the first one. Thread-safe where it says so.

    Attributes:
        current: The coroutine that runs now. Within it.
        beginning: How often it has begun: each time libcurl knows nothing of before.
        fault: What ended the thread; None: nothing, or `close`.
    """

    current: Task[Any]
    fault: BaseException | None = None
    beginning = 0

    def __init__(self, name: str) -> None:
        self._name = name
        self._inherited: list[object] = []
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], object]] = deque()
        self._thread: threading.Thread | None = None
        self._closing = False

    # ---- from any thread ----

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> tuple[Task[_T], Future[_T]]:
        """Begin a coroutine. Thread-safe."""
        future: Future[_T] = Future()
        task = Task(coroutine, future)
        try:
            self.call(lambda: self._begin(task))
        except BaseException:
            coroutine.close()
            raise
        return task, future

    def run(
        self, coroutine: Coroutine[Any, Any, _T], late: float = math.inf, on_late: Callable[[], object] | None = None
    ) -> _T:
        """Run a coroutine, and wait for its result. Thread-safe; not from within the loop.

        Args:
            coroutine: What to run.
            late: Seconds.
            on_late: Called where it takes longer than that; the wait goes on.

        Raises:
            BaseException: What the coroutine raises, or what interrupts the wait: the coroutine is cancelled then.
        """
        task, future = self.submit(coroutine)
        try:
            if on_late is not None:
                wait([future], late)
                if not future.done():
                    on_late()
            return future.result()
        except BaseException:
            if not future.done():
                self.call(lambda: self.cancel(task))
            raise

    def call(self, function: Callable[[], object]) -> None:
        """Have a function called within the loop, soon. Thread-safe.

        Raises:
            ResourcesError: The system gives no descriptors, or no thread. It will not be called.
        """
        if self._process != os.getpid():
            self._leave_to_the_parent()
        with self._lock:
            if self._thread is None:
                try:
                    self._start()
                except (OSError, RuntimeError, pycurl.error) as error:  # libcurl says so by an error without a number
                    raise ResourcesError("this process may open no more files, or begin no more threads") from error
            self._calls.append(function)
            self._ring()

    def call_if_running(self, function: Callable[[], object]) -> None:
        """Have a function called within the loop, unless the loop has ended: then nobody waits. Thread-safe."""
        with self._lock:
            if self._thread is not None and self._process == os.getpid():
                self._calls.append(function)
                self._ring()

    def close(self) -> None:
        """End the thread and every connection; coroutines that are under way are cancelled. Thread-safe."""
        if self._process != os.getpid():
            return  # it is the parent's
        with self._lock:
            thread = self._thread
            if thread is None:
                return
            self._closing = True
            self._ring()
        if thread is not threading.current_thread():
            thread.join()

    def _ring(self) -> None:
        """Wake the thread where it waits for sockets."""
        with contextlib.suppress(BlockingIOError):  # so many have rung already that it is awake
            self._bell.send(b"\0")

    def _leave_to_the_parent(self) -> None:
        """Begin anew in a forked process, which has no thread of the parent's, and shares its connections.

        What libcurl has is kept for that: closed here, it would end TLS sessions that the parent uses.
        """
        if self._thread is not None:
            self._inherited.append((self._multi, self._poller, self._running, self._bell, self._rung))
        self._begin_anew()

    def _start(self) -> None:
        self._closing, self.fault = False, None
        self.beginning += 1
        self._ready: deque[tuple[Task[Any], int, object, BaseException | None]] = deque()
        self._soon: deque[Callable[[], object]] = deque()
        self._sleepers: list[tuple[float, int, Task[Any], int]] = []
        self._order = itertools.count()
        self._tasks: set[Task[Any]] = set()
        self._running: dict[pycurl.Curl, Task[Any]] = {}
        self._watched: dict[int, int] = {}
        self._deadline: float | None = None
        with contextlib.ExitStack() as stack:
            # Not `selectors`, whose bookkeeping in Python costs a tenth of a small object's copy.
            self._poller = stack.enter_context(select.epoll())
            bell, rung = socket.socketpair()
            self._bell, self._rung = stack.enter_context(bell), stack.enter_context(rung)
            self._multi = pycurl.CurlMulti()
            stack.callback(self._multi.close)
            thread = threading.Thread(target=self._run_thread, name=self._name, daemon=True)
            for end in (bell, rung):
                end.setblocking(False)
            self._poller.register(rung.fileno(), select.EPOLLIN)
            self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
            self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_deadline)
            self._multi.setopt(pycurl.M_MAXCONNECTS, _CONNECTIONS)
            thread.start()
            stack.pop_all()  # it is the thread's to close them
        self._thread = thread

    # ---- within the loop ----

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Task[None]:
        """Begin a coroutine without a result; it must raise nothing. Within the loop."""
        task = Task(coroutine, None)
        self._begin(task)
        return task

    def cancel(self, task: Task[Any]) -> None:
        """Raise `TaskCancelled` in a coroutine where it waits; its transfer ends at once. Within the loop."""
        self.interrupt(task, TaskCancelled())

    def interrupt(self, task: Task[Any], error: BaseException) -> None:
        """Raise an exception in a coroutine where it waits; its transfer ends at once. Within the loop."""
        if task.done or task.interrupted:
            return
        task.interrupted = True
        if task.curl is not None:
            with contextlib.suppress(pycurl.error):  # it has ended meanwhile
                self._multi.remove_handle(task.curl)
            self._running.pop(task.curl, None)
            task.curl = None
        task.waiter += 1
        self._ready.append((task, task.waiter, None, error))

    @types.coroutine
    def perform(self, curl: pycurl.Curl) -> Generator[Any, Any, int]:
        """Run a transfer. Returns the status of the answer.

        Raises:
            pycurl.error: There is no answer, or it broke off.
        """
        return (yield ("perform", curl))  # type: ignore[no-any-return]  # what `_collect` hands in

    @types.coroutine
    def sleep(self, seconds: float) -> Generator[Any, Any, None]:
        """Wait."""
        yield ("sleep", seconds)

    @types.coroutine
    def park(self, keep: Callable[[tuple[Task[Any], int]], object]) -> Generator[Any, Any, None]:
        """Wait until `wake` is called with what is handed to ``keep``."""
        yield ("park", keep)

    def wake(self, parked: tuple[Task[Any], int]) -> bool:
        """Let a parked coroutine go on. Returns False where it is parked no longer. Within the loop."""
        task, waiter = parked
        if task.done or task.waiter != waiter:
            return False
        task.waiter += 1
        self._ready.append((task, task.waiter, None, None))
        return True

    def soon(self, function: Callable[[], object]) -> None:
        """Have a function called outside of libcurl's callbacks, soon. Within the loop."""
        self._soon.append(function)

    def _begin(self, task: Task[Any]) -> None:
        self._tasks.add(task)
        self._ready.append((task, task.waiter, None, None))

    def _run_thread(self) -> None:
        """Run until closed: the thread's target."""
        try:
            while not self._closing:
                self._run_once()
        except BaseException as error:  # noqa: BLE001  (handed to whoever waits)
            self.fault = error
            _LOG.exception("the loop %s has failed", self._name)
        finally:
            # Also after a fault of ours: nothing is left waiting.
            self._end()

    def _end(self) -> None:
        """Raise in every coroutine that the loop has ended, until none has begun another one meanwhile."""
        error: BaseException = self.fault or TaskCancelled()
        while True:
            while self._calls:
                self._end_step(self._calls.popleft())
            for task in tuple(self._tasks):
                self.interrupt(task, error)
            while self._ready or self._soon:
                self._end_step(self._run_ready)
            for task in tuple(self._tasks):
                # It waits again, for something that will not come.
                task.abandon(self.fault or CancelledError())
            self._tasks.clear()
            with self._lock:
                if not self._calls:
                    # From now on another thread may start the loop anew.
                    used = (self._multi, self._poller, self._bell, self._rung)
                    self._thread = None
                    break
        for each in used:
            each.close()

    def _end_step(self, step: Callable[[], object]) -> None:
        try:
            step()
        except BaseException as error:  # noqa: BLE001  (others still have to end)
            self.fault = self.fault or error

    def _run_once(self) -> None:
        """Wait for sockets, timers or calls, and let those coroutines go on that waited for them."""
        while self._calls:
            self._calls.popleft()()
        self._run_ready()
        now = time.monotonic()
        until = now + _IDLE_SECONDS
        if self._deadline is not None:
            until = min(until, self._deadline)
        if self._sleepers:
            until = min(until, self._sleepers[0][0])
        action, rung = self._multi.socket_action, self._rung.fileno()
        for descriptor, mask in self._poller.poll(max(0.0, until - now)):
            if descriptor == rung:
                with contextlib.suppress(BlockingIOError):
                    self._rung.recv(4096)
                continue
            # An error or the end of a connection counts as both: reader and writer have to notice it.
            action(
                descriptor,
                (pycurl.CSELECT_IN if mask & ~select.EPOLLOUT else 0)
                | (pycurl.CSELECT_OUT if mask & ~select.EPOLLIN else 0),
            )
        now = time.monotonic()
        if self._deadline is not None and self._deadline <= now:
            self._deadline = None
            action(pycurl.SOCKET_TIMEOUT, 0)
        while self._sleepers and self._sleepers[0][0] <= now:
            _, _, task, waiter = heapq.heappop(self._sleepers)
            self._ready.append((task, waiter, None, None))
        self._collect()

    def _run_ready(self) -> None:
        """Let every coroutine go on that can."""
        while self._ready or self._soon:
            while self._soon:
                self._soon.popleft()()
            if self._ready:
                task, waiter, value, error = self._ready.popleft()
                # A coroutine that was cancelled meanwhile has left that wait.
                if not task.done and task.waiter == waiter:
                    self._step(task, value, error)

    def _collect(self) -> None:
        """Take the transfers that have ended."""
        more = 1
        while more:
            more, ended, failed = self._multi.info_read()
            for curl in ended:
                self._take(curl, curl.getinfo(pycurl.RESPONSE_CODE), None)
            for curl, number, text in failed:
                self._take(curl, None, pycurl.error(number, text))

    def _take(self, curl: pycurl.Curl, status: int | None, error: pycurl.error | None) -> None:
        self._multi.remove_handle(curl)
        task = self._running.pop(curl)
        task.curl = None
        task.waiter += 1
        self._ready.append((task, task.waiter, status, error))

    def _step(self, task: Task[Any], value: object, error: BaseException | None) -> None:
        self.current = task
        task.interrupted = False
        wanted = task.step(value, error)
        if task.done:
            self._tasks.discard(task)
            # An error that it has raised holds, by its traceback, all that waited for it: a storage would never end.
            del self.current
            return
        kind, what = wanted
        task.waiter += 1
        if kind == "perform":
            task.curl = what
            self._running[what] = task
            self._multi.add_handle(what)
        elif kind == "sleep":
            heapq.heappush(self._sleepers, (time.monotonic() + what, next(self._order), task, task.waiter))
        else:
            what((task, task.waiter))

    def _watch(self, what: int, descriptor: int, _multi: object, _data: object) -> None:
        """Watch a socket for libcurl."""
        if what == pycurl.POLL_REMOVE:
            if self._watched.pop(descriptor, 0):
                try:
                    self._poller.unregister(descriptor)
                except OSError as error:
                    if error.errno != errno.EBADF:  # closed already: the kernel has forgotten it
                        raise
            return
        events = _EVENTS[what]
        if descriptor in self._watched:
            self._poller.modify(descriptor, events)
        else:
            self._poller.register(descriptor, events)
        self._watched[descriptor] = events

    def _set_deadline(self, milliseconds: int) -> None:
        self._deadline = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000
