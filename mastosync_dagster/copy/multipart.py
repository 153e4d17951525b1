"""Copies objects of any size: streamed from one GET into one PUT, or in parts, proven before they are published."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from mastosync_dagster.copy.endpoint import EndpointError
from mastosync_dagster.copy.integrity import (
    body_error,
    broken_off,
    check_length,
    check_size,
    etag_is_md5,
    head_object,
    refuse_page,
    wrong_body,
)
from mastosync_dagster.copy.limits import NeedsRoomError
from mastosync_dagster.copy.pipe import READ_AHEAD
from mastosync_dagster.copy.reading import Reading, RestartError
from mastosync_dagster.copy.retries import RetryState
from mastosync_dagster.copy.single import Copied
from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import Aside
from mastosync_dagster.s3.etags import (
    SMALLEST_PART,
    BodyDigests,
    PartsDigest,
    as_sent,
    bare,
    etag_of_parts,
    guess_part_size,
    is_md5,
    part_size_for,
    parts_of,
)
from mastosync_dagster.s3.headers import length_of
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.storage import has_md5

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from mastosync_dagster.copy.endpoint import Endpoint
    from mastosync_dagster.copy.integrity import DestinationProof, Planned, Unchanged
    from mastosync_dagster.copy.limits import MemoryBudget

_LOG = logging.getLogger(__name__)

_ABORTS = 3
_ABORT_PAUSE = 0.2
_NO_UPLOAD = "NoSuchUpload"
_LOST = frozenset({_NO_UPLOAD, "BadDigest"})
"""Codes of a server that has dropped an upload, as rclone does with a part that arrives damaged: start again."""
_OWN_KEY_ENCRYPTION = frozenset({"aws:kms", "aws:kms:dsse"})
_EMPTY_MD5 = hashlib.md5(b"", usedforsecurity=False).hexdigest()
_MOST_BUFFERED = 64 * 1024 * 1024
"""Bytes of a part, at most: it is held in memory, to be sent again."""


@dataclass(eq=False)
class LargeObjects:
    """Copies objects of any size.

    Attributes:
        single_limit: Bytes up to which an object goes in one PUT, if its source has it so.
        left: Keys of objects whose uploads may be left at the destination.
    """

    source: Endpoint
    destination: Endpoint
    proof: DestinationProof
    budget: MemoryBudget
    single_limit: int
    left: set[str] = field(default_factory=set)

    async def copy(
        self,
        source_key: str,
        key: str,
        planned: Planned,
        *,
        private: bool,
        content_type: str | None = None,
        unchanged: Unchanged | None = None,
    ) -> Copied:
        """Copy one object. Keys are relative.

        ``content_type`` is what the database says of it. ``unchanged`` is called before a further attempt to write, and
        before an upload in parts is published.

        Raises:
            EndpointError: A storage failed for good. Nothing was published.
        """
        readings: list[str] = []
        retries: dict[Endpoint, RetryState] = {}
        room = part_size_for(planned.size or 0)
        while True:
            epochs = {endpoint: endpoint.window.epoch for endpoint in (self.source, self.destination)}
            held = await self.budget.take(room + READ_AHEAD)
            try:
                # It is read while it is written, so it takes a slot at both. A copy that waits for the second with
                # the first one taken waits for one that waits for neither, nor for memory.
                async with self.source, self.destination:
                    if retries and unchanged is not None and planned.size is not None:
                        await unchanged(planned.size)
                    work = _Work(source_key, key, planned, private, content_type, readings, room, unchanged)
                    return await self._copy_once(work)
            except NeedsRoomError as needed:
                room = needed.size
            except RestartError as failed:
                endpoint = failed.endpoint
                state = retries.setdefault(endpoint, RetryState(endpoint))
                self.budget.give_back(held)
                held = 0  # other copies may have it meanwhile
                if not await state.pause(failed.error, epochs[endpoint]):
                    raise EndpointError(endpoint, failed.error) from failed
            finally:
                self.budget.give_back(held)

    async def _copy_once(self, work: _Work) -> Copied:
        reading = Reading(self.source, work.source_key, work.planned.size)
        try:
            await reading.open()
            etag = await self._md5_for_one_put(reading, work)
            if etag is not None:
                return await self._copy_streamed(reading, etag, work)
            return await self._copy_in_parts(reading, work)
        finally:
            reading.close()

    def _headers(self, reading: Reading, work: _Work) -> dict[str, str]:
        attributes = self.source.storage.attributes(reading.headers, work.content_type)
        return self.destination.storage.write_headers(attributes, private=work.private)

    # ---- in one request ----

    async def _md5_for_one_put(self, reading: Reading, work: _Work) -> str | None:
        """Return the MD5 of a body that goes in one PUT; None: it goes in parts."""
        with _restarting(self.source, reading.key):
            refuse_page(self.source, reading.size, reading.headers, work.planned)
        if is_md5(reading.etag) and has_md5(reading.headers):
            return reading.etag if reading.size <= self.single_limit else None
        if reading.size:
            return None
        # S3 refuses to complete an upload that has no part.
        with _restarting(self.source, reading.key):
            await check_length(self.source, reading.key, 0, reading.headers, work.planned)
        return _EMPTY_MD5

    async def _copy_streamed(self, reading: Reading, etag: str, work: _Work) -> Copied:
        """Send the body while it comes. Its last byte follows when all of it is known to be the right one."""
        destination, pipe, key = self.destination, reading.pipe, work.key
        vouched = self.proof.vouches_for(reading.headers)
        self.proof.hashed_bytes += 0 if vouched else reading.size
        pipe.expect(None if vouched else etag)
        if pipe.wrong:  # it is empty, and must not be: there is no byte to hold back
            raise RestartError(self.source, wrong_body(self.source))
        headers = self._headers(reading, work)
        await destination.permit()
        await destination.take_bytes(reading.size)
        try:
            reply = await destination.client.put(
                destination.storage.full_key(key), pipe.source(), headers, bytes.fromhex(etag)
            )
        except Exception as problem:
            reading.raise_error()
            error = destination.storage.error(problem, key)
            if pipe.short:
                raise RestartError(self.source, broken_off(self.source)) from problem
            if pipe.wrong or (vouched and error.reason is Reason.CHECKSUM_MISMATCH):
                raise RestartError(self.source, wrong_body(self.source)) from problem
            raise RestartError(destination, error) from problem
        destination.succeeded()
        if bare(reply.headers.get("etag")) != etag:
            with _restarting(destination, key):
                await self.proof.check_written(key, reading.size, etag, reply.headers)
        return Copied(reading.size, etag)

    # ---- in parts ----

    async def _copy_in_parts(self, reading: Reading, work: _Work) -> Copied:
        key, send = work.key, self.destination.send
        part_size = await self._part_size(reading)
        if part_size > work.room:
            raise NeedsRoomError(part_size)
        upload = _Upload(self.destination, key)
        headers = self._headers(reading, work)
        try:
            await send(key, upload.create, headers)
            digests, in_own_parts = await self._copy_parts(reading, upload, part_size)
            await self._check_source(digests, reading, work)
            if work.unchanged is not None:
                await work.unchanged(reading.size)
            etag = await send(key, upload.complete)
            if etag != in_own_parts:
                await send(key, self._check_published, key, digests, in_own_parts, upload)
        except BaseException:
            await self._clean_up(upload, upload.abort)
            raise
        await self._clean_up(upload, upload.remove_others)
        return Copied(digests.size, digests.md5)

    async def _part_size(self, reading: Reading) -> int:
        """Return the size of the parts that the source's object has, if it has some and they fit; else one of ours."""
        parts = parts_of(reading.etag)
        own = part_size_for(reading.size)
        if parts is None:
            return own
        size = await self._first_part(reading, parts) or guess_part_size(reading.size, reading.etag) or own
        fits = SMALLEST_PART <= size <= _MOST_BUFFERED or (parts == 1 and size <= _MOST_BUFFERED)
        return size if fits else own

    async def _first_part(self, reading: Reading, parts: int) -> int | None:
        """Ask the source for its first part's size; None: it does not know parts."""
        try:
            reply = await self.source.client.head(
                self.source.storage.full_key(reading.key), query=[("partNumber", "1")]
            )
        except Aside:
            raise
        except Exception:  # noqa: BLE001  (whatever is wrong, reading the object shows it)
            return None
        size = length_of(reply.headers) or 0
        known = reply.headers.get("x-amz-mp-parts-count") == str(parts)
        return size if known and size * (parts - 1) < reading.size <= size * parts else None

    async def _copy_parts(self, reading: Reading, upload: _Upload, part_size: int) -> tuple[BodyDigests, str]:
        """Read the body and send it part by part. Returns its digests, and the ETag of an upload in these parts."""
        guess = guess_part_size(reading.size, reading.etag)
        guessed = None if guess in {None, part_size} else PartsDigest(guess or 0)
        digests: list[bytes] = []
        left = reading.size
        while left:
            part = await reading.pipe.piece(min(part_size, left))
            if part is None:
                reading.raise_error()
                raise RestartError(self.source, broken_off(self.source))
            left -= len(part)
            if guessed is not None:
                guessed.update(memoryview(part))
            digest = self.proof.md5(part)
            digests.append(digest)
            await self.destination.take_bytes(len(part))
            upload.keep_part(await self.destination.send(upload.key, self._put_part, upload, part, digest))
        if reading.pipe.wrong or await reading.pipe.piece(1) is not None:
            error = body_error(self.source, "sent a longer body than it announced", Reason.SIZE_MISMATCH)
            raise RestartError(self.source, error)
        in_own_parts = etag_of_parts(digests)
        in_source_parts = None
        if parts_of(reading.etag) is not None:
            in_source_parts = guessed.etag() if guessed is not None else in_own_parts
        return BodyDigests(reading.size, reading.pipe.digest(), in_source_parts), in_own_parts

    async def _put_part(self, upload: _Upload, part: bytearray, digest: bytes) -> str:
        etag = await upload.put_part(part, digest)
        if upload.etags_are_md5 and is_md5(bare(etag)) and bare(etag) != digest.hex():
            raise body_error(self.destination, "received another part than was sent", Reason.CHECKSUM_MISMATCH)
        return etag or digest.hex()

    async def _check_source(self, digests: BodyDigests, reading: Reading, work: _Work) -> None:
        """Compare the body with what the source says of it; `RestartError` where it is another."""
        source, other = self.source, False
        agrees = digests.agrees(reading.etag)
        if agrees is False:
            other = await source.send(reading.key, etag_is_md5, source, reading.key)
        elif agrees is None:
            with _restarting(source, reading.key):
                await check_length(source, reading.key, digests.size, reading.headers, work.planned)
            # The guess of the part size may be wrong, or the body damaged. Two equal readings are no accident.
            other = digests.in_guessed_parts is not None and digests.md5 not in work.readings
        work.readings.append(digests.md5)
        if other:
            raise RestartError(source, wrong_body(source))

    async def _check_published(self, key: str, digests: BodyDigests, in_own_parts: str, upload: _Upload) -> None:
        """Check the object that was published, where the last answer does not prove it."""
        destination = self.destination
        found = await head_object(destination, key)
        with _restarting(destination, key):
            found = check_size(destination, found, digests.size)
        if found.etag in {in_own_parts, digests.md5} or not upload.etags_are_md5:
            return
        same_form = parts_of(found.etag) == parts_of(in_own_parts)
        if same_form or (is_md5(found.etag) and await etag_is_md5(destination, key)):
            error = body_error(destination, "keeps another body than was sent", Reason.CHECKSUM_MISMATCH)
            raise RestartError(destination, error)

    async def _clean_up(self, upload: _Upload, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Remove what is not to stay: in spite of a stop, but with few attempts, for the server may be unreachable."""
        # Until it is shown that nothing stays: a run that ends does not wait for a storage that does not answer.
        self.left.add(upload.key)
        for _ in range(_ABORTS):
            try:
                await action()
            except Exception as error:  # noqa: BLE001  (the object's own error matters more)
                problem = self.destination.storage.error(error, upload.key)
                await self.destination.loop.sleep(_ABORT_PAUSE)
            else:
                self.left.discard(upload.key)
                return
        _LOG.warning("an upload in parts of %s may be left at the destination: %s", upload.key, problem)


class _Work(NamedTuple):
    """One object to copy.

    Attributes:
        content_type: What the database says of it.
        readings: MD5s of earlier readings.
        room: Bytes of memory for a part.
        unchanged: Called before an upload in parts is published.
    """

    source_key: str
    key: str
    planned: Planned
    private: bool
    content_type: str | None
    readings: list[str]
    room: int
    unchanged: Unchanged | None


@contextlib.contextmanager
def _restarting(endpoint: Endpoint, key: str) -> Iterator[None]:
    """Begin the object anew where a check of its body fails, or cannot be made."""
    try:
        yield
    except Exception as problem:
        raise RestartError(endpoint, endpoint.storage.error(problem, key)) from problem


class _Upload:
    """An upload in parts. It is published by `complete` alone, and leaves nothing behind after `abort`.

    Header fields, ACL and storage class go with the first request only: some servers refuse them with the others.

    Attributes:
        etags_are_md5: Whether the ETags of its parts are MD5s: not so where the server encrypts with a key of its own.
    """

    def __init__(self, destination: Endpoint, key: str) -> None:
        self._destination = destination
        self.key = key
        self._full = destination.storage.full_key(key)
        self._id: str | None = None
        self._etags: list[str] = []
        self._creations = 0
        self.etags_are_md5 = True

    async def create(self, headers: Mapping[str, str]) -> None:
        """Begin."""
        self._creations += 1
        self._id, reply = await self._destination.client.create_upload(self._full, headers)
        self.etags_are_md5 = reply.headers.get("x-amz-server-side-encryption") not in _OWN_KEY_ENCRYPTION

    async def put_part(self, body: bytearray, md5: bytes) -> str | None:
        """Send the next part; the server checks the MD5. Returns its ETag, as it is to be sent back."""
        try:
            reply = await self._destination.client.put_part(self._full, self._id or "", len(self._etags) + 1, body, md5)
        except S3Error as error:
            if error.code in _LOST:
                lost = body_error(self._destination, "dropped an upload in parts", Reason.SERVER_ERROR)
                raise RestartError(self._destination, lost) from error
            raise
        return as_sent(reply.headers.get("etag"))

    def keep_part(self, etag: str) -> None:
        """Take the part that was sent last into the object."""
        self._etags.append(etag)

    async def complete(self) -> str | None:
        """Publish the object.

        Returns:
            Its bare ETag; None where the server says that the upload is over already: an earlier request was carried
            out and its reply lost, or another client has removed the upload. The object itself has to be checked.
        """
        try:
            return bare(await self._destination.client.complete_upload(self._full, self._id or "", self._etags))
        except S3Error as error:
            if error.code == _NO_UPLOAD:
                return None
            raise

    async def abort(self) -> None:
        """Remove the upload and its parts; others of this key too, if it began one whose id was lost."""
        if self._id is not None:
            await self._abort(self._id)
        if self._creations > (self._id is not None):
            await self.remove_others()

    async def remove_others(self) -> None:
        """Remove other uploads of this key: of requests whose replies were lost, and of runs that died.

        After `complete` that is harmless: a run that copies the same object at the same time begins again, and is not
        disturbed any more.
        """
        for key, upload_id in await self._list():
            if key == self._full and upload_id != self._id:
                await self._abort(upload_id)

    async def _list(self) -> list[tuple[str, str]]:
        try:
            return await self._destination.client.list_uploads(self._full)
        except S3Error as error:
            if error.code == _NO_UPLOAD:  # rclone's server answers so where none was ever begun
                return []
            raise

    async def _abort(self, upload_id: str) -> None:
        try:
            await self._destination.client.abort_upload(self._full, upload_id)
        except S3Error as error:
            if error.code != _NO_UPLOAD:
                raise
