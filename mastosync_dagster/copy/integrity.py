"""Who proves a body: the destination, which refuses another one than its Content-MD5 says, or a digest made here."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.etags import bare, is_md5
from mastosync_dagster.s3.probes import refuses_damaged
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.storage import has_md5, listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mastosync_dagster.copy.endpoint import Endpoint
    from mastosync_dagster.s3.storage import ListedObject

_LOG = logging.getLogger(__name__)
_NOT_FOUND = 404


def body_error(endpoint: Endpoint, what: str, reason: Reason) -> StorageError:
    """Return an error about a body, which a repetition may cure."""
    return StorageError(f"the {endpoint.storage.settings.name} {what}", reason=reason, retryable=True)


async def look_at(endpoint: Endpoint, key: str) -> ListedObject | None:
    """Ask once for an object, given its relative key; None: there is none."""
    try:
        reply = await endpoint.client.head(endpoint.storage.full_key(key))
    except S3Error as error:
        if error.status == _NOT_FOUND:
            return None
        raise
    return listed(key, reply.headers)


async def etag_is_md5(endpoint: Endpoint, key: str) -> bool:
    """Ask once whether an object's ETag is the MD5 of its body."""
    return has_md5((await endpoint.client.head(endpoint.storage.full_key(key))).headers)


async def check_length(source: Endpoint, key: str, size: int, etag: str | None, planned: int | None) -> None:
    """Compare a body of which its ETag proves nothing with what its side shows: it may be a page with status 200.

    Args:
        source: Where it was read.
        key: The object, relative to the side's prefix.
        size: Bytes of the body.
        etag: Bare ETag of the answer; None where it had none.
        planned: Bytes, as the plan has seen them; None: nobody has seen the object.

    Raises:
        StorageError: The side shows something else.
    """
    if size == planned:
        return
    found = await look_at(source, key)
    if found is None or found.size != size or (etag is not None and found.etag not in {None, etag}):
        raise body_error(
            source,
            "sent a body of which no ETag speaks, and of another length than the object that it shows",
            Reason.SIZE_MISMATCH,
        )


class DestinationProof:
    """What the destination has shown of how it proves bodies.

    Attributes:
        checks_md5: It refuses a body that is not the one of its Content-MD5.
        gives_md5s: The ETags of what is written are MD5s, as far as was seen.
        hashed_bytes: Bytes of bodies that were hashed here.
    """

    def __init__(self, destination: Endpoint) -> None:
        self._destination = destination
        self.checks_md5 = False
        self.gives_md5s = True
        self.hashed_bytes = 0

    def vouches_for(self, headers: Mapping[str, str]) -> bool:
        """Tell whether a body need not be hashed here: its MD5 is known from the source, and the destination checks."""
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
        except Exception as error:  # noqa: BLE001  (also credentials that cannot be had: nobody waits for this)
            # Whatever is wrong, the objects themselves will tell; until then they are hashed.
            _LOG.info("not known whether the destination checks bodies (%s)", destination.storage.error(error))

    async def question(self, key: str, size: int, md5: str, headers: Mapping[str, str]) -> None:
        """Look at an object that was written, where the answer does not prove it.

        Args:
            key: The object, relative to the key prefix.
            size: Bytes that were written.
            md5: Their MD5 in hex.
            headers: Of the answer.

        Raises:
            StorageError: The destination has something else.
        """
        destination = self._destination
        etag = bare(headers.get("etag"))
        if is_md5(etag) and self.gives_md5s and await etag_is_md5(destination, key):
            raise body_error(destination, "received another body than was sent", Reason.CHECKSUM_MISMATCH)
        found = await look_at(destination, key)
        if found is None or found.size != size:
            what = "does not have what it has just taken" if found is None else "keeps another length than was sent"
            raise body_error(destination, what, Reason.SIZE_MISMATCH)
        if is_md5(etag):
            # Encrypted with a key of its own, as everything that is written to this bucket now.
            self.gives_md5s = False
        elif is_md5(found.etag) and found.etag != md5 and self.gives_md5s and await etag_is_md5(destination, key):
            raise body_error(destination, "keeps another body than was sent", Reason.CHECKSUM_MISMATCH)
