"""A second GET beside one that takes far longer than others: whichever is answered first counts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mastosync_dagster.s3.errors import Aside

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mastosync_dagster.copy.endpoint import Endpoint
    from mastosync_dagster.s3.loop import Task

_T = TypeVar("_T")

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


class _OvertakenError(Aside):
    """A second request was answered first, with a result."""

    def __init__(self, result: Any) -> None:
        super().__init__("overtaken")
        self.result = result


@dataclass
class _Flight(Generic[_T]):
    """A request that is under way; ``since``: when the latest one for it was sent."""

    since: float
    begin: Callable[[], Coroutine[Any, Any, _T]]


class Hedges:
    """Sends GETs to an endpoint, and second ones (`sent`) beside those that are late. Lives in the loop's thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._flights: dict[Task[Any], _Flight[Any]] = {}
        self._mean: float | None = None
        self._requests = 0
        self.sent = 0

    async def run(self, begin: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Send a request: ``begin`` returns a coroutine that sends it, and is called once more for a second one."""
        loop = self._endpoint.loop
        task, began = loop.current, time.monotonic()
        self._requests += 1
        self._flights[task] = _Flight(began, begin)
        try:
            result = await begin()
        except _OvertakenError as overtaken:
            return overtaken.result  # type: ignore[no-any-return]  # what `begin` has returned
        finally:
            del self._flights[task]
        seconds = time.monotonic() - began
        self._mean = seconds if self._mean is None else self._mean + _WEIGHT * (seconds - self._mean)
        return result

    async def watch(self) -> None:
        """Send second requests beside those that are late, until cancelled."""
        loop = self._endpoint.loop
        while True:
            await loop.sleep(_CHECK_SECONDS)
            if self._mean is None:
                continue  # it is not known yet what is late here
            late = time.monotonic() - max(_SOONEST_SECONDS, _TIMES_THE_MEAN * self._mean)
            for task, flight in tuple(self._flights.items()):
                allowed = self.sent < _FEW + _SHARE * self._requests
                if flight.since < late and allowed:
                    flight.since = time.monotonic()  # the second one may be late, too
                    self.sent += 1
                    loop.spawn(self._overtake(task, flight))

    async def _overtake(self, task: Task[Any], flight: _Flight[Any]) -> None:
        await self._endpoint.permit()
        try:
            result = await flight.begin()
        except Exception:  # noqa: BLE001  (the first request goes on, and shows what is wrong)
            return
        if self._flights.get(task) is flight:
            self._endpoint.loop.interrupt(task, _OvertakenError(result))
