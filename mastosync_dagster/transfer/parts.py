"""Copies objects that do not fit in memory, and those whose keys obstore refuses: streamed, in parts, verified.

The body is read once, in a stream that is resumed where it breaks, and written part by part. Nothing is published
before the whole body has been checked against what the source says of it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from hashlib import md5
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import obstore
from botocore.exceptions import IncompleteReadError

from mastosync_dagster.transfer import boto3_objects
from mastosync_dagster.transfer.errors import Aside, StorageError, is_failure
from mastosync_dagster.transfer.headers import shown_by_obstore
from mastosync_dagster.transfer.outcomes import Reason
from mastosync_dagster.transfer.plausible import check_length
from mastosync_dagster.transfer.sides import HaltedError, SideError, Trouble
from mastosync_dagster.transfer.storage import addressable
from mastosync_dagster.transfer.verify import (
    MIB,
    BodyDigests,
    PartsDigest,
    bare,
    etag_of_parts,
    guess_part_size,
    is_md5,
    part_size_for,
    parts_of,
)
from mastosync_dagster.transfer.whole import Copied
from mastosync_dagster.transfer.window import NeedsRoomError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from mastosync_dagster.transfer.sides import Persistence, Side
    from mastosync_dagster.transfer.window import MemoryBudget

_PIECE = MIB // 4
"""Bytes that are read at a time: small enough that a stop is noticed on slow links."""
_ABORTS = 3
_ABORT_PAUSE = 0.2

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Digests(BodyDigests):
    """What is known of a body that was sent in parts.

    Attributes:
        in_own_parts: ETag of an upload in the parts that were sent.
    """

    in_own_parts: str = ""


def _error(side: Side, what: str, reason: Reason) -> StorageError:
    """Return an error about a body, which a repetition may cure."""
    return StorageError(f"the {side.storage.settings.name} {what}", reason=reason, retryable=True)


class _RestartError(Aside):
    """The object must be read from its beginning.

    Attributes:
        error: Why.
    """

    def __init__(self, error: StorageError) -> None:
        super().__init__(str(error))
        self.error = error


class _Reading:
    """A body that is being read, resumed where the connection breaks.

    Attributes:
        size: Bytes, as the source says.
        etag: Bare ETag of the source; None where it gives none.
        key: Relative to the source's prefix.
        attributes: Header fields and user metadata.
        close: Ends the connection, if the body has not been read to its end.
    """

    def __init__(self, source: Side, key: str, persistence: Persistence, halt: threading.Event) -> None:
        self._source = source
        self.key = key
        self._full_key = source.storage.full_key(key)
        self._persistence = persistence
        self._halt = halt
        reply = persistence.run(source, key, self._open, None)
        self.size, self.etag, self.attributes, self._pieces, self.close, _ = reply

    def _open(self) -> boto3_objects.Reply:
        if not addressable(self._full_key):
            return boto3_objects.get(self._source.storage, self._full_key, _PIECE)
        reply = obstore.get(self._source.storage.reader(retries=False), self._full_key)
        return boto3_objects.Reply(
            size=reply.meta["size"],
            etag=bare(reply.meta["e_tag"]),
            attributes=shown_by_obstore(reply.attributes),
            pieces=iter(reply.stream(_PIECE)),
            close=_nothing,
        )

    def _reopen(self, offset: int) -> Iterator[bytes]:
        """Go on reading, of the same object.

        Raises:
            _RestartError: The server cannot, or the object is another one by now.
        """
        if self.etag is None or not addressable(self._full_key):
            raise _RestartError(_error(self._source, "broke off while sending the body", Reason.CONNECTION))
        try:
            reply = obstore.get(
                self._source.storage.reader(retries=False),
                self._full_key,
                options={"range": {"offset": offset}, "if_match": f'"{self.etag}"'},
            )
        except (obstore.exceptions.BaseError, FileNotFoundError) as problem:
            error = self._source.storage.error(problem, self.key)
            if error.reason is Reason.CHANGED_DURING_COPY or "non-partial" in str(problem):
                error.retryable = True
                raise _RestartError(error) from problem
            raise
        return iter(reply.stream(_PIECE))

    def pieces(self) -> Iterator[bytes]:
        """Yield the body.

        Raises:
            SideError: It cannot be read to its end.
            HaltedError: The run ends.
        """
        done = 0
        trouble = None
        while done < self.size:
            epoch = self._source.window.epoch
            try:
                piece = self._next()
            except Aside:
                raise
            except BaseException as problem:
                if not is_failure(problem):
                    raise
                error = self._source.storage.error(problem, self.key)
                trouble = trouble or Trouble(self._persistence)
                if not trouble.pause(self._source, error, epoch):
                    raise SideError(self._source, error) from problem
                self._pieces = self._persistence.run(self._source, self.key, self._reopen, None, done)
            else:
                trouble = None
                done += len(piece)
                yield piece

    def _next(self) -> bytes:
        """Read the next piece."""
        if self._halt.is_set():
            raise HaltedError
        try:
            piece = next(self._pieces, b"")
        except IncompleteReadError:
            piece = b""
        if not piece:
            raise _error(self._source, "broke off while sending the body", Reason.CONNECTION)
        if self._source.bytes is not None:
            self._source.bytes.take(len(piece), self._halt)
        return piece


class ObjectsInParts:
    """Copies objects of any size and any key. Thread-safe.

    Args:
        source: Where objects are read.
        destination: Where they go.
        persistence: Repeats requests.
        budget: Memory for bodies.
        halt: Set when the run is to end.
    """

    def __init__(
        self,
        source: Side,
        destination: Side,
        *,
        persistence: Persistence,
        budget: MemoryBudget,
        halt: threading.Event,
    ) -> None:
        self._source = source
        self._destination = destination
        self._persistence = persistence
        self._budget = budget
        self._halt = halt

    def copy(self, source_key: str, key: str, size: int | None, *, private: bool) -> Copied:
        """Copy one object.

        Args:
            source_key: Where it is, relative to the source's prefix.
            key: Where it goes, relative to the destination's prefix.
            size: Bytes, as planned; None: unknown.
            private: Write it so that not everybody may read it.

        Raises:
            SideError: A side failed for good. Nothing was published.
            HaltedError: The run ends. Nothing was published.
        """
        readings: list[str] = []
        room = part_size_for(size or 0)
        while True:
            # It is read while it is written, so it takes a place at both sides. Whoever waits for the second with the
            # first one taken waits for somebody who waits for neither, nor for memory.
            try:
                with self._budget.hold(room, self._halt) as held, self._source, self._destination:
                    return self._persistence.run(
                        self._source,
                        source_key,
                        self._copy_once,
                        None,
                        source_key,
                        key,
                        planned=size,
                        private=private,
                        held=held,
                        readings=readings,
                    )
            # Its size was unknown, or has changed.
            except NeedsRoomError as needed:  # noqa: PERF203  (once an object)
                room = needed.size

    def _copy_once(
        self,
        source_key: str,
        key: str,
        *,
        planned: int | None,
        private: bool,
        held: int,
        readings: list[str],
    ) -> Copied:
        reading = _Reading(self._source, source_key, self._persistence, self._halt)
        part_size = part_size_for(reading.size)
        upload = boto3_objects.Upload(self._destination.storage, self._destination.storage.full_key(key))
        with contextlib.closing(reading):
            self._budget.check(part_size, held)
            try:
                self._send(key, upload.create, reading.attributes, private=private)
                digests = self._copy_parts(key, reading, upload, part_size)
                self._check_source(digests, reading, planned, readings)
                etag = self._send(key, upload.complete)
                if etag != digests.in_own_parts:
                    self._send(key, self._look_at, key, digests, upload)
            except _RestartError as restart:
                self._clean_up(upload.abort)
                raise restart.error from restart
            except BaseException:
                self._clean_up(upload.abort)
                raise
        self._clean_up(upload.remove_others)
        return Copied(digests.size, digests.md5)

    def _send(self, key: str, action: Callable[_P, _T], /, *arguments: _P.args, **named: _P.kwargs) -> _T:
        return self._persistence.run(self._destination, key, action, None, *arguments, **named)

    def _copy_parts(self, key: str, reading: _Reading, upload: boto3_objects.Upload, part_size: int) -> _Digests:
        """Read the body and send it part by part."""
        whole = md5(usedforsecurity=False)
        guess = guess_part_size(reading.size, reading.etag)
        guessed = None if guess in {None, part_size} else PartsDigest(guess or 0)
        parts: list[bytes] = []
        size = 0
        for part in _in_parts(reading.pieces(), part_size):
            size += len(part)
            whole.update(part)
            if guessed is not None:
                guessed.update(memoryview(part))
            digest = md5(part, usedforsecurity=False).digest()
            parts.append(digest)
            upload.keep_part(self._send(key, self._put_part, upload, part, digest))
        in_own_parts = etag_of_parts(parts)
        in_guessed_parts = guessed.etag() if guessed is not None else in_own_parts if guess else None
        return _Digests(size, whole.hexdigest(), in_guessed_parts, in_own_parts)

    def _put_part(self, upload: boto3_objects.Upload, part: bytearray, digest: bytes) -> str:
        if self._destination.bytes is not None:
            self._destination.bytes.take(len(part), self._halt)
        try:
            etag = upload.put_part(part, digest)
        except boto3_objects.UploadLostError as lost:
            raise _RestartError(_error(self._destination, "dropped an upload in parts", Reason.SERVER_ERROR)) from lost
        if upload.etags_are_md5 and is_md5(etag) and etag != digest.hex():
            raise _error(self._destination, "received another part than was sent", Reason.CHECKSUM_MISMATCH)
        return etag or digest.hex()

    def _check_source(self, digests: _Digests, reading: _Reading, planned: int | None, readings: list[str]) -> None:
        """Check the body against what the source says of it.

        Args:
            digests: The body's.
            reading: How it was read.
            planned: Bytes, as the plan has seen them; None: unknown.
            readings: MD5s of earlier readings of the same object; this one's is added.

        Raises:
            StorageError: It is another body.
        """
        agrees = digests.agrees(reading.etag)
        if agrees is not True:
            check_length(self._source, reading.key, digests.size, reading.etag, planned)
        if agrees is None and digests.in_guessed_parts is not None:
            # The guess of the part size may be wrong, or the body damaged. Two equal readings are no accident.
            agrees = digests.md5 in readings
        readings.append(digests.md5)
        if agrees is False and not (is_md5(reading.etag) and not self._source.storage.etag_is_md5(reading.key)):
            raise _error(self._source, "sent another body than its ETag says", Reason.CHECKSUM_MISMATCH)

    def _look_at(self, key: str, digests: _Digests, upload: boto3_objects.Upload) -> None:
        """Look at the object that was published, where the last reply does not prove it.

        Raises:
            StorageError: The destination has something else.
        """
        storage = self._destination.storage
        found = storage.head(key)
        if found is None:
            raise _error(self._destination, "does not have what it has just taken", Reason.SIZE_MISMATCH)
        if found.size != digests.size:
            raise _error(self._destination, "keeps another length than was sent", Reason.SIZE_MISMATCH)
        etag = bare(found.etag)
        if etag in {digests.in_own_parts, digests.md5} or not upload.etags_are_md5:
            return
        same_form = parts_of(etag) == parts_of(digests.in_own_parts)
        if same_form or (is_md5(etag) and storage.etag_is_md5(key)):
            raise _error(self._destination, "keeps another body than was sent", Reason.CHECKSUM_MISMATCH)

    def _clean_up(self, action: Callable[[], None]) -> None:
        """Remove what is not to stay. In spite of a stop, but without insisting: the server may be gone."""
        for _ in range(_ABORTS):
            with contextlib.suppress(Exception):  # the object's own error matters more
                action()
                return
            time.sleep(_ABORT_PAUSE)


def _nothing() -> None:
    """End nothing: obstore ends a connection with the last reference to its reply."""


def _in_parts(pieces: Iterator[bytes], part_size: int) -> Iterator[bytearray]:
    """Yield a body in parts. Each is the same buffer, filled anew: it must not be kept."""
    buffer = bytearray(part_size)
    view = memoryview(buffer)
    filled = 0
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            taken = min(len(rest), part_size - filled)
            view[filled : filled + taken] = rest[:taken]
            filled += taken
            rest = rest[taken:]
            if filled == part_size:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]
