"""A body on its way: what one request receives, another sends. It never holds more of it than a megabyte or two."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import pycurl

if TYPE_CHECKING:
    from collections.abc import Callable

    from mastosync_dagster.copy.limits import RateLimit
    from mastosync_dagster.s3.http import Reply
    from mastosync_dagster.s3.loop import Loop, Task

READ_AHEAD = 1024 * 1024
"""Bytes that are received before they are sent."""
_TAKEN = 256 * 1024
"""Bytes that a part is put together of at once: it is in memory only once."""


class Pipe:
    """Takes the body of a GET (a `Sink`), and gives it to a PUT (a `Source`), or in pieces. Lives in the loop's thread.

    Args:
        on_begin: Gets the head of each answer; returns whether its body is the one that is awaited.
        rate: Bytes a second at most; None: no limit.

    Attributes:
        size: Bytes of the whole body, once they are known (`announce`); until then 0.
        received: Bytes so far.
        failed: No more will come.
        wrong: It has failed because the body is not the one that was expected.
        ended: The source has sent all that it had.
    """

    def __init__(self, loop: Loop, on_begin: Callable[[Reply], bool], *, rate: RateLimit | None = None) -> None:
        self._loop = loop
        self._on_begin = on_begin
        self._rate = rate
        self._chunks: deque[bytes] = deque()
        self._taken = 0  # of the first one
        self._buffered = 0
        self._given = 0
        self._getting: pycurl.Curl | None = None
        self._putting: pycurl.Curl | None = None
        self._get_paused = self._put_paused = self._waking = False
        self._held_until = 0.0
        self._reader: tuple[Task[Any], int] | None = None
        self._wanted = 0
        self._released = False
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._hashing = True
        self._expected: str | None = None
        self.failed = self.wrong = self.ended = False
        self.size = 0
        self.received = 0

    # ---- what is received ----

    def begin(self, curl: pycurl.Curl, reply: Reply) -> bool:
        """As `Sink.begin`."""
        self._getting, self._get_paused = curl, False
        return self._on_begin(reply)

    def write(self, data: bytes) -> int | None:
        """As `Sink.write`."""
        if self._buffered >= max(READ_AHEAD, self._wanted) or self._is_held():
            self._get_paused = True
            return pycurl.WRITEFUNC_PAUSE
        self._chunks.append(data)
        self._buffered += len(data)
        self.received += len(data)
        if self._hashing:
            self._md5.update(data)
        if self.received == self.size:
            self._judge()
        elif self.received > self.size > 0:
            self.wrong = True
            self.fail()
        self._resume_put()
        if self._reader is not None and (self._buffered >= self._wanted or self.received == self.size):
            self._wake_reader()
        if self._rate is not None:
            self._held_until = time.monotonic() + self._rate.reserve(len(data))
        return None

    def _is_held(self) -> bool:
        """Return whether the limit of bytes a second lets nothing more come yet, and see to it that it goes on then."""
        wait = self._held_until - time.monotonic()
        if self._rate is None or wait <= 0:
            return False
        if not self._waking:
            self._waking = True
            self._loop.spawn(self._go_on_after(wait))
        return True

    async def _go_on_after(self, seconds: float) -> None:
        await self._loop.sleep(seconds)
        self._waking = False
        if self._get_paused:
            self._get_paused = False
            _go_on(self._getting)

    def announce(self, size: int) -> None:
        """Take the length of the whole body, of which some may have come already."""
        self.size = size
        if self.received > size:
            self.wrong = True
            self.fail()

    def expect(self, md5: str | None) -> None:
        """Let the last byte be sent only if it makes a body with this MD5; None: the destination checks that."""
        self._expected = md5
        self._hashing = md5 is not None
        self._released = not self._hashing
        if self.received == self.size:
            self._judge()

    def digest(self) -> str:
        """Return the MD5 of what was received, in hex."""
        return self._md5.hexdigest()

    def _judge(self) -> None:
        """Release the complete body, or end it."""
        if self._expected is None:
            return
        if self.digest() == self._expected:
            self._released = True
        else:
            self.wrong = True
            self.fail()

    def _resume_get(self) -> None:
        if self._get_paused:
            self._get_paused = False
            self._loop.soon(lambda: _go_on(self._getting))

    def _resume_put(self) -> None:
        if self._put_paused:
            self._put_paused = False
            self._loop.soon(lambda: _go_on(self._putting))

    @property
    def short(self) -> bool:
        """Whether the source has ended before the end of the body."""
        return self.ended and self.received < self.size

    def end(self) -> None:
        """Note that the source has sent all that it has."""
        self.ended = True
        self._resume_put()
        self._wake_reader()

    def fail(self) -> None:
        """End whatever sends or reads it: no more will come."""
        self.failed = True
        self._resume_put()
        self._wake_reader()

    # ---- what is sent ----

    def source(self) -> _PipeSource:
        """Return the whole body, to be sent as it comes; see `expect`."""
        return _PipeSource(self)

    def begin_sending(self, curl: pycurl.Curl) -> None:
        """Note which request sends it."""
        self._putting, self._put_paused = curl, False

    def read(self, size: int) -> bytes | int:
        """As `Source.read`."""
        if self.failed:
            return pycurl.READFUNC_ABORT
        available = self._buffered
        if not self._released:  # all but the last byte
            available = min(available, self.size - 1 - self._given)
        if available <= 0:
            if self._given == self.size:
                return b""
            if self.short:
                return pycurl.READFUNC_ABORT
            self._put_paused = True
            return pycurl.READFUNC_PAUSE
        return self._take(min(size, available))

    def _take(self, size: int) -> bytes:
        """Give so many bytes of what is buffered, in one piece."""
        chunks, taken, left = [], self._taken, size
        while left:
            chunk = self._chunks[0]
            end = taken + left
            # (Of a whole chunk Python makes no copy.)
            piece = chunk[taken:end]
            chunks.append(piece)
            left -= len(piece)
            if end < len(chunk):
                taken = end
            else:
                self._chunks.popleft()
                taken = 0
        self._taken = taken
        self._buffered -= size
        self._given += size
        if self._buffered <= READ_AHEAD // 2:
            self._resume_get()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def piece(self, size: int) -> bytearray | None:
        """Return the next bytes, exactly so many; None where no more will come."""
        self._wanted = size
        if self._buffered < size:
            self._resume_get()
        while self._buffered < size and not self.failed and not self.ended:
            await self._loop.park(self._keep_reader)
        self._wanted = 0
        if self._buffered < size:
            return None
        piece = bytearray()
        while len(piece) < size:
            piece += self._take(min(_TAKEN, size - len(piece)))
        return piece

    def _keep_reader(self, parked: tuple[Task[Any], int]) -> None:
        self._reader = parked

    def _wake_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            self._loop.wake(reader)


class _PipeSource:
    """A pipe's body, as a `Source`."""

    def __init__(self, pipe: Pipe) -> None:
        self.size, self.begin, self.read = pipe.size, pipe.begin_sending, pipe.read


def _go_on(curl: pycurl.Curl | None) -> None:
    """Let a transfer go on that is paused; one that has ended meanwhile takes no notice."""
    if curl is not None:
        with contextlib.suppress(pycurl.error):
            curl.pause(pycurl.PAUSE_CONT)
