"""A body that is being read into a pipe, resumed where the connection breaks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mastosync_dagster.copy.endpoint import EndpointError
from mastosync_dagster.copy.integrity import body_error, broken_off, head_object
from mastosync_dagster.copy.pipe import Pipe
from mastosync_dagster.copy.retries import RetryState
from mastosync_dagster.s3.errors import Aside
from mastosync_dagster.s3.etags import bare
from mastosync_dagster.s3.headers import length_of
from mastosync_dagster.s3.http import TransportError
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.storage import LARGEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mastosync_dagster.copy.endpoint import Endpoint
    from mastosync_dagster.s3.http import Reply
    from mastosync_dagster.s3.loop import Task

_WHOLE, _REST = 200, 206
_RANGE = re.compile(r"bytes (?P<begin>\d+)-\d*/(?P<size>\d+|\*)", re.ASCII)

_OTHER = ("sent the rest of another object", Reason.CHANGED_DURING_COPY)
_ALL_AGAIN = ("sends an object only from its beginning", Reason.CONNECTION)


class RestartError(EndpointError):
    """The object must be read from its beginning, if at all."""


class Reading:
    """An object that is being read. Its request begins with `open`, and ends with `close`.

    Attributes:
        key: Relative to the source's prefix.
        headers: Of the first answer.
        etag: Bare; None where the source gives none.
    """

    def __init__(self, source: Endpoint, key: str, planned: int | None) -> None:
        self._source = source
        self.key = key
        self._planned = planned
        self.pipe = Pipe(source.loop, self._take_head, rate=source.bytes)
        self.headers: Mapping[str, str] = {}
        self.etag: str | None = None
        self._if_match: str | None = None
        self._error: Aside | None = None
        self._begun = False
        self._unusable: tuple[str, Reason] | None = None
        self._task: Task[None] | None = None
        self._waiting: list[tuple[Task[Any], int]] = []

    @property
    def size(self) -> int:
        """Bytes of the object, as the source says."""
        return self.pipe.size

    async def open(self) -> None:
        """Begin, and wait for the head of the answer. Raises as `raise_error`."""
        self._task = self._source.loop.spawn(self._read())
        if not self._begun and self._error is None:
            await self._source.loop.park(self._waiting.append)
        self.raise_error()
        if length_of(self.headers) is None:
            self.pipe.announce(await self._size())

    async def _size(self) -> int:
        """Return the size of an object whose answer names none; that it is no longer as planned, the body will show."""
        if self._planned is not None:
            return self._planned
        found = await self._source.send(self.key, head_object, self._source, self.key)
        if found is None:
            raise RestartError(self._source, body_error(self._source, "lost the object", Reason.CHANGED_DURING_COPY))
        return found.size

    def close(self) -> None:
        """End the request, if the body has not been read to its end."""
        if self._task is not None:
            self._source.loop.cancel(self._task)

    def raise_error(self) -> None:
        """Raise what the reading has ended with: an `EndpointError`, or a `RestartError`."""
        if self._error is not None:
            raise self._error

    def _take_head(self, reply: Reply) -> bool:
        if self._begun and self.pipe.received:
            # A source that knows no ranges sends all of it again; rclone's server sends a part with the status of all.
            is_part = reply.status == _REST or (reply.status == _WHOLE and "content-range" in reply.headers)
            goes_on = is_part and self._is_rest(reply)
            self._unusable = None if goes_on else _OTHER if is_part else _ALL_AGAIN if reply.status == _WHOLE else None
            return goes_on
        if reply.status != _WHOLE:
            return False
        etag = reply.headers.get("etag")
        self.headers, self.etag = reply.headers, bare(etag)
        # A weak one matches nothing (RFC 9110, section 13.1.1).
        self._if_match = None if etag is None or etag.startswith("W/") else etag
        size = length_of(reply.headers)
        if size is not None:
            self.pipe.announce(size)
        self._begun = True
        self._wake()
        return True

    def _is_rest(self, reply: Reply) -> bool:
        """Tell whether a part of an object is what is left of this one: some sources do not look at If-Match."""
        etag, size, received = bare(reply.headers.get("etag")), self.pipe.size, self.pipe.received
        same = etag == self.etag or (etag is None and self._if_match is not None)
        found = _RANGE.match(reply.headers.get("content-range", ""))
        if found is None:  # RFC 9110 asks for it
            return same and length_of(reply.headers) == size - received
        return same and int(found["begin"]) == received and (not size or found["size"] in {"*", str(size)})

    def _wake(self) -> None:
        while self._waiting:
            self._source.loop.wake(self._waiting.pop())

    async def _read(self) -> None:
        """Read to the end, in as many requests as it takes."""
        try:
            await self._read_all()
        except Aside as error:
            self._error = error
            self.pipe.fail()
        except Exception as error:  # noqa: BLE001  (raised where the body is awaited)
            self._error = EndpointError(self._source, self._source.storage.error(error, self.key))
            self.pipe.fail()
        self._wake()

    async def _read_all(self) -> None:
        source, pipe = self._source, self.pipe
        retries: RetryState | None = None
        while True:
            await source.permit()
            epoch, before = source.window.epoch, pipe.received
            try:
                await self._read_once(before)
                if pipe.received < pipe.size:
                    raise broken_off(source)  # noqa: TRY301  (retried as any other)
            except Aside:
                raise
            except Exception as problem:
                error = source.storage.error(problem, self.key)
                if self._begun and error.reason is Reason.CHANGED_DURING_COPY:
                    # Another object by now, or none.
                    error.retryable = True
                    raise RestartError(source, error) from problem
                if retries is None or pipe.received > before:
                    retries = RetryState(source)
                if not await retries.pause(error, epoch):
                    raise EndpointError(source, error) from problem
                if self._begun and self.etag is None:
                    raise RestartError(source, error) from problem
            else:
                source.succeeded()
                pipe.end()
                return

    async def _read_once(self, offset: int) -> None:
        source, headers = self._source, []
        if offset:
            headers = [("range", f"bytes={offset}-")]
            headers += [] if self._if_match is None else [("if-match", self._if_match)]
        try:
            await source.client.get(source.storage.full_key(self.key), limit=LARGEST, headers=headers, sink=self.pipe)
        except TransportError as problem:
            if self._unusable is not None:
                raise RestartError(source, body_error(source, *self._unusable)) from problem
            raise
