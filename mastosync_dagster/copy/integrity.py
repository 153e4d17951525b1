"""Who proves a body: the destination, which refuses another one than its Content-MD5 says, or a digest made here.

`copy.single` and `copy.multipart` compare ETag and digest; what follows where they differ is here.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.etags import bare, is_md5
from mastosync_dagster.s3.http import TransportError
from mastosync_dagster.s3.probes import refuses_damaged
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.storage import LARGEST, has_md5, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from mastosync_dagster.copy.endpoint import Endpoint
    from mastosync_dagster.s3.http import Reply
    from mastosync_dagster.s3.storage import ListedObject

Unchanged: TypeAlias = "Callable[[int], Coroutine[Any, Any, None]]"
"""Asks the destination for an object of so many bytes that is to be written; raises an `Aside` if it has another."""

_LOG = logging.getLogger(__name__)
_NOT_FOUND = 404
_READ = frozenset({200, 206})


def body_error(endpoint: Endpoint, what: str, reason: Reason) -> StorageError:
    """Return an error about a body, which a retry may cure."""
    return StorageError(f"the {endpoint.storage.settings.name} {what}", reason=reason, retryable=True)


def broken_off(source: Endpoint) -> StorageError:
    """Return the error of a body that ended before its announced length."""
    return body_error(source, "broke off while sending the body", Reason.CONNECTION)


def wrong_body(source: Endpoint) -> StorageError:
    """Return the error of a body that does not match the source's ETag."""
    return body_error(source, "sent another body than its ETag says", Reason.CHECKSUM_MISMATCH)


async def head_object(endpoint: Endpoint, key: str) -> ListedObject | None:
    """Ask once for an object, given its relative key; None: it is not found."""
    try:
        reply = await endpoint.client.head(endpoint.storage.full_key(key))
    except S3Error as error:
        if error.status == _NOT_FOUND:
            return None
        raise
    return listed(key, reply.headers)


def check_size(destination: Endpoint, found: ListedObject | None, size: int) -> ListedObject:
    """Return an object that was written; a `StorageError` where it is not found, or has another size."""
    if found is None:
        raise body_error(destination, "does not have what it has just taken", Reason.SIZE_MISMATCH)
    if found.size != size:
        raise body_error(destination, "keeps another length than was sent", Reason.SIZE_MISMATCH)
    return found


class _Beginning:
    """Hashes the first bytes of a body, and wants no more (a `Sink`)."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.digest = hashlib.md5(usedforsecurity=False)

    def begin(self, _curl: object, reply: Reply) -> bool:
        """Take an object, and no refusal."""
        return reply.status in _READ

    def write(self, data: bytes) -> int | None:
        """Take a piece, or end the transfer."""
        self.digest.update(data[: self.left])
        surplus = len(data) > self.left
        self.left -= min(len(data), self.left)
        return -1 if surplus else None


async def is_beginning(source: Endpoint, key: str, found: ListedObject) -> bool:
    """Return whether the destination has the beginning of the source's object: it was cut off on its way.

    Servers that write files keep what has arrived of a request that broke off (rclone serve s3 does).
    """
    if not is_md5(found.etag):
        return False
    sink = _Beginning(found.size)
    if found.size:
        await source.take_bytes(found.size)
        wanted = [("range", f"bytes=0-{found.size - 1}")]
        # A server that gives more than was asked for is stopped, which is an error too.
        with contextlib.suppress(S3Error, TransportError):
            await source.client.get(source.storage.full_key(key), limit=LARGEST, headers=wanted, sink=sink)
    return sink.left == 0 and sink.digest.hexdigest() == found.etag


async def etag_is_md5(endpoint: Endpoint, key: str) -> bool:
    """Ask once whether an object's ETag is the MD5 of its body."""
    return has_md5((await endpoint.client.head(endpoint.storage.full_key(key))).headers)


class Planned(NamedTuple):
    """What a plan has of an object at the source: bytes, and the bare ETag. None: unknown."""

    size: int | None
    etag: str | None


def refuse_page(source: Endpoint, size: int, headers: Mapping[str, str], planned: Planned) -> None:
    """Raise a `StorageError` for a page in HTML of another length than planned, whatever its ETag: Mastodon keeps none.

    A proxy sends such a page for every object, and one that keeps its pages in a bucket with its MD5.
    """
    if size != planned.size and headers.get("content-type", "").lower().startswith("text/html"):
        raise body_error(source, "sent a page in HTML in the place of the object", Reason.UNEXPECTED)


async def check_length(source: Endpoint, key: str, size: int, headers: Mapping[str, str], planned: Planned) -> None:
    """Compare the length of a body that its ETag does not prove with its object's: it may be a page with status 200.

    ``key`` is relative; ``headers`` are those of the answer with the body.

    Raises:
        StorageError: The source shows something else, or nothing that shows whose body it is.
    """
    # A folder sends no page: a file that Mastodon was still writing has grown.
    if size == planned.size or source.storage.settings.is_folder:
        return
    etag = bare(headers.get("etag"))
    if planned.size is not None and etag != planned.etag:
        # Also where its HEAD says the same: a page that a proxy sends for everything has a length of its own.
        raise body_error(
            source, "sent a body that no ETag proves, and of another length than planned", Reason.CHANGED_DURING_COPY
        )
    found = await head_object(source, key)
    if found is None or found.size != size or (etag is not None and found.etag not in {None, etag}):
        raise body_error(
            source,
            "sent a body that no ETag proves, and of another length than the object that it shows",
            Reason.SIZE_MISMATCH,
        )


class DestinationProof:
    """What is known of how the destination proves bodies.

    Attributes:
        checks_md5: It refuses a body that does not have the MD5 of its Content-MD5.
        gives_md5s: The ETags of what is written are MD5s, as far as is known.
        hashed_bytes: Bytes of bodies that were hashed here.
    """

    def __init__(self, destination: Endpoint) -> None:
        self._destination = destination
        self.checks_md5 = False
        self.gives_md5s = True
        self.hashed_bytes = 0

    def vouches_for(self, headers: Mapping[str, str]) -> bool:
        """Return whether a body need not be hashed here: the source has its MD5, and the destination checks it."""
        return self.checks_md5 and has_md5(headers)

    def md5(self, body: bytes | bytearray) -> bytes:
        """Hash a body."""
        self.hashed_bytes += len(body)
        return hashlib.md5(body, usedforsecurity=False).digest()

    async def try_canary(self) -> None:
        """Find out whether the destination checks bodies."""
        destination = self._destination
        try:
            self.checks_md5 = await refuses_damaged(destination.client, destination.storage)
        except Exception as error:  # noqa: BLE001  (also missing credentials: nothing waits for this)
            # Whatever is wrong, copying the objects will show it; until then they are hashed.
            _LOG.info("not known whether the destination checks bodies (%s)", destination.storage.error(error))

    async def check_written(self, key: str, size: int, md5: str, headers: Mapping[str, str]) -> None:
        """Check an object that was written, where the answer's headers do not prove it. The MD5 is in hex.

        Raises:
            StorageError: The destination has something else.
        """
        destination = self._destination
        etag = bare(headers.get("etag"))
        if is_md5(etag) and self.gives_md5s and await etag_is_md5(destination, key):
            raise body_error(destination, "received another body than was sent", Reason.CHECKSUM_MISMATCH)
        found = check_size(destination, await head_object(destination, key), size)
        if is_md5(etag):
            # Encrypted with a key of its own, as everything that is written to this bucket now.
            self.gives_md5s = False
        elif is_md5(found.etag) and found.etag != md5 and self.gives_md5s and await etag_is_md5(destination, key):
            raise body_error(destination, "keeps another body than was sent", Reason.CHECKSUM_MISMATCH)
