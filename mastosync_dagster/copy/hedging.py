"""A second GET beside one that takes far longer than others: whichever is answered first wins."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import Aside, StorageError
from mastosync_dagster.s3.http import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mastosync_dagster.copy.endpoint import Endpoint
    from mastosync_dagster.s3.loop import Loop, Task

_T = TypeVar("_T")
_Begin: TypeAlias = "Callable[[Callable[[], bool]], Coroutine[Any, Any, _T]]"

_CHECK_SECONDS = 0.1
_TIMES_THE_MEAN = 5.0
_SOONEST_SECONDS = 0.5
"""A request is late that has taken so many times the mean, and at least so long."""
_SHARE = 0.03
"""Of the requests, those that may have a second one beside them ..."""
_FEW = 8
"""... and so many more: a run that has just begun has sent few."""
_WEIGHT = 0.02
"""Of a new duration in the mean."""
_FAILURES = (Aside, S3Error, StorageError, TransportError)
"""How a request can fail. Anything else is a fault of the program, and ends the run."""


class _OvertakenError(Aside):
    """Another request for the same has won. Ends this one."""


class _Flight(Generic[_T]):
    """What is asked for by one request or several, of which one wins.

    Attributes:
        since: When the latest request for it was sent.
        large: The first head wins, so that only one body is held; else the first body.
        winner: The coroutine whose request has won.
        seconds: The coroutines of second requests.
    """

    def __init__(self, task: Task[Any], begin: _Begin[_T], *, large: bool) -> None:
        self.task = task
        self.begin = begin
        self.large = large
        self.since = time.monotonic()
        self.winner: Task[Any] | None = None
        self.seconds: list[Task[None]] = []
        self._outcome: _T | Exception | None = None
        self._waiting: tuple[Task[Any], int] | None = None

    def take_head(self, loop: Loop, task: Task[Any]) -> bool:
        """Return whether a request whose head has arrived shall read the body."""
        if not self.large:
            return True
        if self.winner is None:
            self.winner = task
            if task is not self.task:
                # Not now: this is libcurl's callback, in which no other transfer can be ended.
                loop.soon(lambda: loop.interrupt(self.task, _OvertakenError()))
        return self.winner is task

    def end(self, loop: Loop, task: Task[Any], outcome: _T | Exception) -> None:
        """Take the outcome of a second request."""
        if self.winner is None and not isinstance(outcome, Exception):
            self.winner = task
            loop.interrupt(self.task, _OvertakenError())
        if self.winner is task:
            self._outcome = outcome
            if self._waiting is not None:
                loop.wake(self._waiting)

    async def outcome(self, loop: Loop) -> _T:
        """Wait for the outcome of the second request that has won, and return or raise it."""
        if self._outcome is None:
            await loop.park(self._park)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome  # type: ignore[return-value]  # not None: it has ended

    def _park(self, parked: tuple[Task[Any], int]) -> None:
        self._waiting = parked


class Hedges:
    """Sends GETs to an endpoint, and second ones (`sent`) beside those that are late. Lives in the loop's thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._flights: set[_Flight[Any]] = set()
        self._mean: float | None = None
        self._requests = 0
        self.sent = 0

    async def run(self, begin: _Begin[_T], *, large: bool) -> _T:
        """Send a request.

        Args:
            begin: Returns a coroutine that sends it, and is called once more for a second one. It is handed a function
                to be called when the head of the answer arrives; where that returns False, the body is not wanted.
            large: A second one is sent only as long as there is no head, and the body of one of them alone is read.
        """
        loop = self._endpoint.loop
        flight = _Flight(loop.current, begin, large=large)
        self._requests += 1
        self._flights.add(flight)
        began = flight.since
        try:
            result = await begin(lambda: self._take_head(flight, began))
        except _FAILURES:
            if flight.winner in {None, flight.task}:
                raise
            # Whatever ended it, another request has won.
            return await flight.outcome(loop)
        finally:
            self._flights.discard(flight)
            for second in flight.seconds:
                loop.cancel(second)
        if not large:
            self._count(time.monotonic() - began)
        return result

    def _take_head(self, flight: _Flight[Any], began: float) -> bool:
        taken = flight.take_head(self._endpoint.loop, flight.task)
        if taken and flight.large:
            self._count(time.monotonic() - began)
        return taken

    def _count(self, seconds: float) -> None:
        self._mean = seconds if self._mean is None else self._mean + _WEIGHT * (seconds - self._mean)

    async def watch(self) -> None:
        """Send second requests beside those that are late, until cancelled."""
        loop = self._endpoint.loop
        while True:
            await loop.sleep(_CHECK_SECONDS)
            if self._mean is None:
                continue  # it is not known yet what is late here
            late = time.monotonic() - max(_SOONEST_SECONDS, _TIMES_THE_MEAN * self._mean)
            for flight in tuple(self._flights):
                allowed = self.sent < _FEW + _SHARE * self._requests
                if flight.winner is None and flight.since < late and allowed:
                    flight.since = time.monotonic()  # the second one may be late, too
                    self.sent += 1
                    flight.seconds.append(loop.spawn(self._overtake(flight)))

    async def _overtake(self, flight: _Flight[Any]) -> None:
        loop = self._endpoint.loop
        task = loop.current
        await self._endpoint.permit()
        try:
            outcome = await flight.begin(lambda: flight.take_head(loop, task))
        except _FAILURES as error:
            outcome = error  # raised where the first request was sent, if this one has won
        flight.end(loop, task, outcome)
