"""A storage under load: its window, its pace, its rate limits, its retries, its circuit breaker, its silence."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

import pycurl

from mastosync_dagster.copy.limits import Pace, RateLimit, Window
from mastosync_dagster.copy.retries import CircuitBreaker, RetryState
from mastosync_dagster.s3.errors import Aside, StorageError
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Self

    from mastosync_dagster.s3.loop import Loop
    from mastosync_dagster.s3.retry_policies import RetryPolicy
    from mastosync_dagster.s3.storage import Storage

_T = TypeVar("_T")

_CHECK_SECONDS = 1.0
_SAY_SECONDS = 15.0
"""A silence of so long is reported. A lost packet or two are sent again before that."""
_TCP_INFO = getattr(socket, "TCP_INFO", None)
_HEAD_BYTES = 8
"""The beginning of Linux's `struct tcp_info`, a byte each: state, ca_state, retransmits, probes, …"""
_ESTABLISHED = 1


class EndpointError(Aside):
    """A request to one endpoint failed for good."""

    def __init__(self, endpoint: Endpoint, error: StorageError) -> None:
        super().__init__(str(error))
        self.endpoint = endpoint
        self.error = error


class Endpoint:
    """A storage under load. Its requests belong into an ``async with`` block, which takes a slot of the window.

    The waits between retries do too: a request that waits because a server asked for it does not make room for another.
    Lives in the loop's thread.

    Args:
        requests: Requests a second at most; None: no limit.
        bytes_: Bytes a second at most; None: no limit.

    Attributes:
        pace: What it bears, since it has throttled.
        bytes: Limit of bytes a second; None: no limit.
        retries: Requests that were retried, by the reason of the failure.
        breaker: Ends the run when the storage fails object after object.
    """

    def __init__(
        self,
        storage: Storage,
        loop: Loop,
        window: Window,
        policy: RetryPolicy,
        *,
        requests: float | None = None,
        bytes_: float | None = None,
    ) -> None:
        self.storage = storage
        self.loop = loop
        self.client = storage.client_on(loop)
        self.window = window
        self.policy = policy
        self.pace = Pace(loop)
        self._requests = RateLimit(requests) if requests else None
        self.bytes = RateLimit(bytes_) if bytes_ else None
        self.retries: Counter[Reason] = Counter()
        self.breaker = CircuitBreaker()

    async def __aenter__(self) -> Self:
        """Take a slot of the window, and wait for one where there is none."""
        await self.window.enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give the slot back."""
        self.window.leave()

    async def take_bytes(self, size: int) -> None:
        """Wait until so many more bytes may pass."""
        if self.bytes is not None:
            wait = self.bytes.reserve(size)
            if wait > 0:
                await self.loop.sleep(wait)

    async def send(self, key: str, action: Callable[..., Coroutine[Any, Any, _T]], /, *arguments: Any) -> _T:
        """Send a request until it succeeds: exponential backoff with jitter, as long as the server asks, not for ever.

        The key is relative to the key prefix; ``action`` sends the request once.

        Raises:
            EndpointError: It failed for good, or too often.
        """
        result = await self.ask(key, action, *arguments)
        self.succeeded()
        return result

    async def ask(self, key: str, action: Callable[..., Coroutine[Any, Any, _T]], /, *arguments: Any) -> _T:
        """Send a HEAD as `send` does. Its answer says nothing about the right to read or write bodies."""
        retries: RetryState | None = None
        while True:
            if self._requests is not None or self.pace.limits:
                await self.permit()
            epoch = self.window.epoch
            try:
                return await action(*arguments)
            except Aside:
                raise
            except Exception as problem:
                error = self.storage.error(problem, key)
                retries = retries or RetryState(self)
                if not await retries.pause(error, epoch):
                    raise EndpointError(self, error) from problem

    @property
    def has_limits(self) -> bool:
        """Whether a limit of its rates was set."""
        return self._requests is not None or self.bytes is not None

    def share_limits(self, runs: int) -> None:
        """Keep to one part of the rate limits, where so many runs share them."""
        for limit in (self._requests, self.bytes):
            if limit is not None:
                limit.share(runs)

    async def permit(self) -> None:
        """Wait until one more request may be sent."""
        if self._requests is not None:
            wait = self._requests.reserve(1)
            if wait > 0:
                await self.loop.sleep(wait)
        if self.pace.limits:
            await self.pace.enter()

    def succeeded(self) -> None:
        """Note that a request has succeeded."""
        self.breaker.succeeded()
        if self.window.growing:
            self.window.on_success()


class SilenceWatch:
    """Notices that an endpoint refuses nothing, and acknowledges nothing. Lives in the loop's thread.

    The kernel knows: of each connection it counts what is sent again, and probes without an answer. A server that only
    takes its time acknowledges what it gets. So nothing here has to guess from how long an answer takes.

    Args:
        say: Gets a sentence when the endpoint has fallen silent, and when it is back.
        end_run: Gets the error of an endpoint that has been silent for ``longest`` seconds.
        pauses: Whether nothing more is asked of the endpoint for now.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        longest: float,
        say: Callable[[str], object],
        end_run: Callable[[StorageError], None],
        pauses: Callable[[], bool],
    ) -> None:
        self._endpoint = endpoint
        self._pauses = pauses
        self._longest = longest
        self._say = say
        self._end_run = end_run
        self._since: float | None = None
        self._said = False
        self._answers = 0

    def seconds(self) -> float | None:
        """Return for how long the endpoint has been silent; None: no request to it is under way. From any thread."""
        if not self._endpoint.client.transfers:
            return None
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    async def watch(self, loop: Loop) -> None:
        """Check once a second, for ever."""
        while True:
            await loop.sleep(_CHECK_SECONDS)
            self.check(time.monotonic())

    def check(self, now: float) -> None:
        """Check whether the endpoint is silent now."""
        transfers, answers = self._endpoint.client.transfers, self._endpoint.client.answers
        heard = answers != self._answers or any(not _is_silent(curl) for curl in transfers)
        self._answers = answers
        settings = self._endpoint.storage.settings
        name = f"the {settings.name} ({settings.server})"
        if heard:
            if self._said and self._since is not None:
                self._say(f"{name} answers again, after {now - self._since:.0f} s")
            self._since, self._said = None, False
            return
        if not transfers and self._pauses():
            self._since, self._said = None, False
            return
        if self._since is None:
            # Between two attempts there is no transfer, which does not mean that it is silent, nor that it is back.
            self._since = now if transfers else None
            return
        silent = now - self._since
        if silent >= _SAY_SECONDS and not self._said:
            self._said = True
            self._say(
                f"{name} has fallen silent: nothing has come from it for {silent:.0f} s. The run ends if that lasts for"
                f" {self._longest:.0f} s (silence_seconds)"
            )
        if silent >= self._longest:
            self._end_run(
                StorageError(
                    f"{name} fell silent: nothing came from it for {silent:.0f} s. Is its host up, and the network? A"
                    " further run takes the rest; silence_seconds says how long a run waits",
                    reason=Reason.TIMEOUT,
                    permanent=True,
                )
            )


def _is_silent(curl: pycurl.Curl) -> bool:
    """Return whether the peer of a transfer owes an acknowledgement, by the kernel's account."""
    descriptor: int = curl.getinfo(pycurl.ACTIVESOCKET)
    if descriptor < 0 or _TCP_INFO is None:
        return descriptor < 0  # it is not connected yet
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            head = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _HEAD_BYTES)
    except OSError:
        return False  # no TCP, or closed meanwhile
    state, _, sent_again, probes, *_ = head
    return state != _ESTABLISHED or sent_again > 0 or probes > 0
