"""Copies objects that fit in memory: one GET, one PUT, verified on both ends."""

from __future__ import annotations

import contextlib
from hashlib import md5
from typing import TYPE_CHECKING, NamedTuple

from obstore import get, put

from mastosync_dagster.transfer import boto3_objects
from mastosync_dagster.transfer.errors import Aside, StorageError
from mastosync_dagster.transfer.headers import shown_by_obstore
from mastosync_dagster.transfer.outcomes import Reason
from mastosync_dagster.transfer.plausible import check_length
from mastosync_dagster.transfer.storage import SMALL_BODY
from mastosync_dagster.transfer.verify import BodyDigests, PartsDigest, bare, guess_part_size, is_md5
from mastosync_dagster.transfer.window import NeedsRoomError

if TYPE_CHECKING:
    import threading
    from datetime import datetime

    from obstore import Bytes

    from mastosync_dagster.transfer.headers import Attributes
    from mastosync_dagster.transfer.sides import Persistence, Side
    from mastosync_dagster.transfer.window import MemoryBudget


class Copied(NamedTuple):
    """An object that lies at the destination, verified.

    Attributes:
        size: Bytes.
        md5: MD5 of its body in hex; None where the server copied it and does not say.
    """

    size: int
    md5: str | None


class TooLargeError(Aside):
    """The body turns out to be too large to be held in memory."""


class OlderError(Aside):
    """The source's object was not written after the moment that it was expected to be. Nothing was written.

    Attributes:
        size: Its bytes.
        etag: Its bare ETag; None where there is none.
    """

    def __init__(self, size: int, etag: str | None) -> None:
        super().__init__("older than expected")
        self.size = size
        self.etag = etag


class _Body(NamedTuple):
    """A verified body, on its way.

    Attributes:
        data: The bytes.
        size: How many.
        md5: Their MD5 in hex.
        attributes: Header fields and user metadata, as the source has them.
    """

    data: Bytes | bytes
    size: int
    md5: str
    attributes: Attributes


class WholeObjects:
    """Copies objects whose bodies are held in memory. Thread-safe.

    Args:
        source: Where objects are read.
        destination: Where they go.
        persistence: Repeats requests.
        budget: Memory for bodies.
        limit: Bytes of a body at most.
        halt: Set when the run is to end.

    Attributes:
        limit: As the argument.
    """

    def __init__(
        self,
        source: Side,
        destination: Side,
        *,
        persistence: Persistence,
        budget: MemoryBudget,
        limit: int,
        halt: threading.Event,
    ) -> None:
        self._source = source
        self._destination = destination
        self._persistence = persistence
        self._budget = budget
        self.limit = limit
        self._halt = halt
        # By whether the body is small, and whether the object is private.
        self._readers = [source.storage.reader(retries=False, small=small) for small in (False, True)]
        self._writers = [
            [destination.storage.store(private=private, retries=False, small=small) for private in (False, True)]
            for small in (False, True)
        ]
        self._source_prefix = source.storage.settings.prefix
        self._destination_prefix = destination.storage.settings.prefix
        self._destination_has_md5s = True
        self._doubted: dict[str, str] = {}

    def copy(
        self,
        source_key: str,
        key: str,
        size: int | None,
        *,
        private: bool,
        odd: bool = False,
        written_after: datetime | None = None,
    ) -> Copied:
        """Copy one object.

        Args:
            source_key: Where it is, relative to the source's prefix.
            key: Where it goes, relative to the destination's prefix.
            size: Bytes, as planned; None: unknown.
            private: Write it so that not everybody may read it.
            odd: obstore cannot name one of the keys.
            written_after: The object must have been written after this moment; None: whenever.

        Raises:
            OlderError: It was not.
            SideError: A side failed for good.
            TooLargeError: It is larger than the limit. Nothing was written.
        """
        room = size or 0
        while True:
            try:
                if room <= self._budget.share:
                    return self._copy(source_key, key, size, 0, written_after, private=private, odd=odd)
                with self._budget.hold(room, self._halt) as held:
                    return self._copy(source_key, key, size, held, written_after, private=private, odd=odd)
            # Its size was unknown, or has changed.
            except NeedsRoomError as needed:  # noqa: PERF203  (once an object)
                room = needed.size

    def _copy(
        self,
        source_key: str,
        key: str,
        size: int | None,
        held: int,
        written_after: datetime | None,
        *,
        private: bool,
        odd: bool,
    ) -> Copied:
        fetch = self._fetch_visibly if odd else self._fetch
        with self._source:
            body = self._persistence.run(
                self._source, source_key, fetch, self._fetch_visibly, source_key, held, size, written_after
            )
        store = self._store_visibly if odd else self._store
        with self._destination:
            self._persistence.run(self._destination, key, store, self._store_visibly, key, body, private)
        return Copied(body.size, body.md5)

    def _fetch(self, key: str, held: int, planned: int | None, written_after: datetime | None) -> _Body:
        small = planned is not None and planned <= SMALL_BODY
        reply = get(self._readers[small], self._source_prefix + key)
        meta = reply.meta
        if written_after is not None and meta["last_modified"] <= written_after:
            raise OlderError(meta["size"], bare(meta["e_tag"]))
        self._admit(meta["size"], held)
        data = reply.bytes()
        attributes = shown_by_obstore(reply.attributes)
        return self._verified(key, data, meta["size"], meta["e_tag"], attributes, planned=planned)

    def _fetch_visibly(self, key: str, held: int, planned: int | None, written_after: datetime | None) -> _Body:
        reply = boto3_objects.get(self._source.storage, self._source_prefix + key, self.limit)
        with contextlib.closing(reply):
            if written_after is not None and reply.modified is not None and reply.modified <= written_after:
                raise OlderError(reply.size, reply.etag)
            self._admit(reply.size, held)
            data = b"".join(reply.pieces)
        etag = f'"{reply.etag}"' if reply.etag else None
        return self._verified(key, data, reply.size, etag, reply.attributes, planned=planned)

    def _admit(self, size: int, held: int) -> None:
        """Make sure that a body may be read into memory."""
        if size > self.limit:
            raise TooLargeError
        self._budget.check(size, held)

    def _verified(
        self,
        key: str,
        data: Bytes | bytes,
        size: int,
        etag: str | None,
        attributes: Attributes,
        *,
        planned: int | None,
    ) -> _Body:
        """Check a body against what the source says of it.

        Args:
            key: The object.
            data: Its body as received.
            size: Bytes, as the reply says.
            etag: ETag of the reply, as it came.
            attributes: Header fields and metadata.
            planned: Bytes, as the plan has seen them; None: unknown.

        Raises:
            StorageError: It is another body.
        """
        if self._source.bytes is not None:
            self._source.bytes.take(size, self._halt)
        digest = md5(data, usedforsecurity=False).hexdigest()
        if len(data) != size:
            raise StorageError(
                f"the {self._source.storage.settings.name} sent a body of another length than it announced",
                reason=Reason.SIZE_MISMATCH,
                retryable=True,
            )
        if etag != f'"{digest}"':
            self._question_source(key, data, digest, bare(etag), planned)
        return _Body(data, size, digest, attributes)

    def _question_source(
        self, key: str, data: Bytes | bytes, digest: str, etag: str | None, planned: int | None
    ) -> None:
        """Find out what an ETag means that is not the body's MD5.

        Raises:
            StorageError: It means that the body is damaged, or that it is none of the object's.
        """
        in_parts = None
        part_size = guess_part_size(len(data), etag)
        if part_size is not None:
            parts = PartsDigest(part_size)
            parts.update(memoryview(data))
            in_parts = parts.etag()
        agrees = BodyDigests(len(data), digest, in_parts).agrees(etag)
        if agrees is not True:
            check_length(self._source, key, len(data), etag, planned)
        if agrees is None and in_parts is not None:
            # The guess of the part size may be wrong, or the body damaged. Two equal readings are no accident.
            agrees = self._doubted.pop(key, None) == digest
            if not agrees:
                self._doubted[key] = digest
        if agrees is False and not (is_md5(etag) and not self._source.storage.etag_is_md5(key)):
            raise StorageError(
                f"the {self._source.storage.settings.name} sent another body than its ETag says",
                reason=Reason.CHECKSUM_MISMATCH,
                retryable=True,
            )

    def _store(self, key: str, body: _Body, private: bool) -> None:  # noqa: FBT001  (handed through Persistence.run)
        attributes = self._destination.storage.write_attributes(body.attributes).for_obstore()
        if attributes is None:
            self._store_visibly(key, body, private)
            return
        if self._destination.bytes is not None:
            self._destination.bytes.take(body.size, self._halt)
        try:
            answer = put(
                self._writers[body.size <= SMALL_BODY][private],
                self._destination_prefix + key,
                body.data,
                attributes=attributes,
                use_multipart=False,
            )
        except Exception as error:
            if "ETag Header missing" not in str(error):
                raise
            self._question_destination(key, body, None)
            return
        etag = answer["e_tag"]
        if etag != f'"{body.md5}"':
            self._question_destination(key, body, bare(etag))

    def _store_visibly(self, key: str, body: _Body, private: bool) -> None:  # noqa: FBT001  (as `_store`)
        etag = boto3_objects.put(
            self._destination.storage,
            self._destination_prefix + key,
            bytes(body.data),
            bytes.fromhex(body.md5),
            body.attributes,
            private=private,
        )
        if etag != body.md5:
            self._question_destination(key, body, etag)

    def _question_destination(self, key: str, body: _Body, etag: str | None) -> None:
        """Look at an object that was written, where the reply does not prove it.

        Args:
            key: The object.
            body: What was written.
            etag: Bare ETag of the reply; None where it had none.

        Raises:
            StorageError: The destination has something else.
        """
        storage = self._destination.storage
        if is_md5(etag) and self._destination_has_md5s and storage.etag_is_md5(key):
            raise StorageError(
                f"the {storage.settings.name} received another body than was sent",
                reason=Reason.CHECKSUM_MISMATCH,
                retryable=True,
            )
        found = storage.head(key)
        if found is None or found.size != body.size:
            raise StorageError(
                f"the {storage.settings.name} "
                + ("does not have what it has just taken" if found is None else "keeps another length than was sent"),
                reason=Reason.SIZE_MISMATCH,
                retryable=True,
            )
        shown = bare(found.etag)
        if is_md5(etag):
            # Encrypted with a key of its own, as everything that is written to this bucket now.
            self._destination_has_md5s = False
        elif is_md5(shown) and shown != body.md5 and self._destination_has_md5s and storage.etag_is_md5(key):
            raise StorageError(
                f"the {storage.settings.name} keeps another body than was sent",
                reason=Reason.CHECKSUM_MISMATCH,
                retryable=True,
            )
