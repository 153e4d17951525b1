"""A body that is being read into a pipe, resumed where the connection breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mastosync_dagster.copy.endpoint import EndpointError
from mastosync_dagster.copy.integrity import body_error, broken_off, head_object
from mastosync_dagster.copy.pipe import Pipe
from mastosync_dagster.copy.retries import RetryState
from mastosync_dagster.s3.errors import Aside
from mastosync_dagster.s3.etags import bare
from mastosync_dagster.s3.http import TransportError
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.storage import LARGEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mastosync_dagster.copy.endpoint import Endpoint
    from mastosync_dagster.s3.http import Reply
    from mastosync_dagster.s3.loop import Task

_WHOLE, _REST = 200, 206


class RestartError(EndpointError):
    """The object must be read from its beginning, if at all."""


class Reading:
    """An object that is being read. Its request begins with `open`, and ends with `close`.

    Attributes:
        key: Relative to the source's prefix.
        headers: Of the first answer.
        etag: Bare; None where the source gives none.
    """

    def __init__(self, source: Endpoint, key: str) -> None:
        self._source = source
        self.key = key
        self.pipe = Pipe(source.loop, self._take_head, rate=source.bytes)
        self.headers: Mapping[str, str] = {}
        self.etag: str | None = None
        self._error: Aside | None = None
        self._begun = False
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
        if self.pipe.size == 0 and "content-length" not in self.headers:
            found = await self._source.send(self.key, head_object, self._source, self.key)
            if found is None:
                raise RestartError(
                    self._source, body_error(self._source, "lost the object", Reason.CHANGED_DURING_COPY)
                )
            self.pipe.size = found.size

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
            # Only the rest is wanted: a source that knows no ranges sends all of it again.
            return reply.status == _REST
        if reply.status != _WHOLE:
            return False
        self.headers, self.etag = reply.headers, bare(reply.headers.get("etag"))
        self.pipe.size = int(reply.headers.get("content-length", 0))
        self._begun = True
        self._wake()
        return True

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
            headers = [("range", f"bytes={offset}-"), ("if-match", f'"{self.etag}"')]
        try:
            await source.client.get(source.storage.full_key(self.key), limit=LARGEST, headers=headers, sink=self.pipe)
        except TransportError as problem:
            if offset and problem.status == _WHOLE:
                error = body_error(source, "sends an object only from its beginning", Reason.CONNECTION)
                raise RestartError(source, error) from problem
            raise
