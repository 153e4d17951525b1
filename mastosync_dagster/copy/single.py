"""Copies objects whose bodies fit in memory, by one GET and one PUT."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.copy.integrity import body_error, check_length, etag_is_md5, refuse_page, wrong_body
from mastosync_dagster.copy.limits import NeedsRoomError
from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import Aside
from mastosync_dagster.s3.etags import BodyDigests, PartsDigest, bare, guess_part_size
from mastosync_dagster.s3.headers import http_date, length_of
from mastosync_dagster.s3.http import Failure, TransportError
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    import pycurl

    from mastosync_dagster.copy.endpoint import Endpoint
    from mastosync_dagster.copy.hedging import Hedges
    from mastosync_dagster.copy.integrity import DestinationProof, Planned, Unchanged
    from mastosync_dagster.copy.limits import MemoryBudget
    from mastosync_dagster.s3.http import Reply

_OK = 200
_SMALL_BYTES = 256 * 1024
"""A body of so many bytes at most may be read twice at once; of a larger one the second request is for the head."""
_UNKNOWN_SIZE = 256 * 1024
"""Bytes that are held for a body of which nothing is known yet."""


class Copied(NamedTuple):
    """An object that is at the destination, verified. The MD5 is in hex; None where it is unknown."""

    size: int
    md5: str | None


class TooLargeError(Aside):
    """The body turns out to be too large to be held in memory."""


class OlderError(Aside):
    """The source's object, of this size and bare ETag, was not written after the expected time. Nothing was written."""

    def __init__(self, size: int | None, etag: str | None) -> None:
        super().__init__("older than expected")
        self.size = size
        self.etag = etag


class _UnprovenError(Aside):
    """The destination refuses a body whose MD5 is known from the source's ETag alone."""


class _Body(NamedTuple):
    """A body, on its way.

    Attributes:
        md5: In hex.
        proven: The MD5 was computed here; else it is what the source says, and the destination will check it.
        headers: Of the answer that it came with.
    """

    data: bytes
    md5: str
    proven: bool
    headers: Mapping[str, str]


class _Memory:
    """Keeps a body in memory, as long as it has room (a `Sink`)."""

    __slots__ = ("_after", "_chunks", "_left", "_take_head", "older", "refused", "size")

    def __init__(self, room: int, after: datetime | None, take_head: Callable[[], bool]) -> None:
        self._left = room
        self._after = after
        self._take_head = take_head
        self._chunks: list[bytes] = []
        self.size: int | None = None
        self.refused = False
        self.older: OlderError | None = None

    def begin(self, _curl: pycurl.Curl, reply: Reply) -> bool:
        """Take an object, and no refusal."""
        if reply.status != _OK:
            return False
        self.size = length_of(reply.headers)
        if self._after is not None:
            modified = http_date(reply.headers.get("last-modified"))
            if modified is not None and modified <= self._after:
                self.older = OlderError(self.size, bare(reply.headers.get("etag")))
        # In this order: a body that is refused is an answer, too.
        self.refused = not self._take_head() or (self.size or 0) > self._left or self.older is not None
        return True

    def write(self, data: bytes) -> int | None:
        """Take a piece, or end the transfer."""
        self._left -= len(data)
        if self.refused or self._left < 0:
            self.refused = True
            return -1
        self._chunks.append(data)
        return None

    @property
    def data(self) -> bytes:
        """What has arrived."""
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)


@dataclass(eq=False)
class SingleObjects:
    """Copies objects whose bodies are held in memory.

    Attributes:
        limit: Bytes of a body at most.
    """

    source: Endpoint
    destination: Endpoint
    proof: DestinationProof
    budget: MemoryBudget
    hedges: Hedges
    limit: int
    _unproven_md5s: dict[str, str] = field(default_factory=dict, init=False)

    async def copy(
        self,
        source_key: str,
        key: str,
        planned: Planned,
        *,
        private: bool,
        written_after: datetime | None = None,
        content_type: str | None = None,
        unchanged: Unchanged | None = None,
    ) -> Copied:
        """Copy one object. Keys are relative.

        ``content_type`` is what the database says of it. ``unchanged`` is called before a further attempt to write.

        Raises:
            OlderError: It was not written after ``written_after``.
            EndpointError: A storage failed for good.
            TooLargeError: It is larger than the limit. Nothing was written.
        """
        room = _UNKNOWN_SIZE if planned.size is None else planned.size
        while True:
            held = await self.budget.take(room)
            try:
                return await self._copy(
                    source_key,
                    key,
                    planned,
                    room,
                    written_after,
                    private=private,
                    content_type=content_type,
                    unchanged=unchanged,
                )
            # Its size was unknown, or has changed.
            except NeedsRoomError as needed:
                room = needed.size
            finally:
                self.budget.give_back(held)

    async def _copy(
        self,
        source_key: str,
        key: str,
        planned: Planned,
        room: int,
        after: datetime | None,
        *,
        private: bool,
        content_type: str | None,
        unchanged: Unchanged | None,
    ) -> Copied:
        unhashed, attempts = True, itertools.count()
        while True:
            async with self.source as source:
                body = await source.send(source_key, self._fetch, source_key, planned, room, after, unhashed)
            attributes = source.storage.attributes(body.headers, content_type)
            headers = self.destination.storage.write_headers(attributes, private=private)
            async with self.destination as destination:
                try:
                    await destination.take_bytes(len(body.data))
                    await destination.send(key, self._store, key, body, headers, attempts, unchanged)
                except _UnprovenError:
                    # The destination received another body than the source's ETag says. A digest of the next reading
                    # will show which of the two was wrong.
                    source.retries[Reason.CHECKSUM_MISMATCH] += 1
                    unhashed = False
                    continue
            return Copied(len(body.data), body.md5)

    async def _fetch(
        self,
        key: str,
        planned: Planned,
        room: int,
        after: datetime | None,
        unhashed: bool,  # noqa: FBT001  (through `Endpoint.send`)
    ) -> _Body:
        source = self.source
        large = planned.size is None or planned.size > _SMALL_BYTES
        sink, reply = await self.hedges.run(lambda take_head: self._get(key, room, after, take_head), large=large)
        data = sink.data
        await source.take_bytes(len(data))
        if sink.size is not None and len(data) != sink.size:
            raise body_error(source, "sent a body of another length than it announced", Reason.SIZE_MISMATCH)
        refuse_page(source, len(data), reply.headers, planned)
        etag = bare(reply.headers.get("etag"))
        if unhashed and etag is not None and self.proof.vouches_for(reply.headers):
            return _Body(data, etag, proven=False, headers=reply.headers)
        md5 = self.proof.md5(data).hex()
        if md5 != etag:
            await self._check_source(key, data, md5, reply.headers, planned)
        return _Body(data, md5, proven=True, headers=reply.headers)

    async def _get(
        self, key: str, room: int, after: datetime | None, take_head: Callable[[], bool]
    ) -> tuple[_Memory, Reply]:
        """Read a body into memory."""
        sink, source = _Memory(room, after, take_head), self.source
        try:
            reply = await source.client.get(source.storage.full_key(key), limit=self.limit, sink=sink)
        except TransportError as error:
            raise self._ended_by(sink, error, room) from error
        if sink.older is not None:
            raise sink.older
        return sink, reply

    def _ended_by(self, sink: _Memory, error: TransportError, room: int) -> Exception:
        """Return why a body did not arrive: it was not taken, or the connection broke."""
        if sink.older is not None:
            return sink.older
        if error.failure is Failure.TOO_LARGE:
            return TooLargeError()
        if not sink.refused:
            return error
        if sink.size is not None and sink.size <= room:
            return body_error(self.source, "sent a body of another length than it announced", Reason.SIZE_MISMATCH)
        needed = sink.size or min(max(2 * room, _UNKNOWN_SIZE), self.limit)
        return TooLargeError() if needed > self.limit or room >= self.limit else NeedsRoomError(needed)

    async def _check_source(
        self, key: str, data: bytes, md5: str, headers: Mapping[str, str], planned: Planned
    ) -> None:
        """Find out what an ETag means that is not the body's MD5.

        Raises:
            StorageError: The body is damaged, or is not the object's.
        """
        etag, in_parts = bare(headers.get("etag")), None
        part_size = guess_part_size(len(data), etag)
        if part_size is not None:
            parts = PartsDigest(part_size)
            parts.update(memoryview(data))
            in_parts = parts.etag()
        agrees = BodyDigests(len(data), md5, in_parts).agrees(etag)
        if agrees is False and await etag_is_md5(self.source, key):
            raise wrong_body(self.source)
        if agrees is not True:
            await check_length(self.source, key, len(data), headers, planned)
        if agrees is None and in_parts is not None:
            # The guess of the part size may be wrong, or the body damaged. Two equal readings are no accident.
            agrees = self._unproven_md5s.pop(key, None) == md5
            if not agrees:
                self._unproven_md5s[key] = md5
                raise wrong_body(self.source)

    async def _store(
        self,
        key: str,
        body: _Body,
        headers: Mapping[str, str],
        attempts: Iterator[int],
        unchanged: Unchanged | None,
    ) -> None:
        destination = self.destination
        if next(attempts) and unchanged is not None:
            await unchanged(len(body.data))
        try:
            reply = await destination.client.put(
                destination.storage.full_key(key), body.data, headers, bytes.fromhex(body.md5)
            )
        except S3Error as error:
            if not body.proven and error.code in {"BadDigest", "InvalidDigest"}:
                raise _UnprovenError from error
            raise
        etag = bare(reply.headers.get("etag"))
        if etag != body.md5:
            if not body.proven:
                body = body._replace(md5=self.proof.md5(body.data).hex())
            await self.proof.check_written(key, len(body.data), body.md5, reply.headers)
