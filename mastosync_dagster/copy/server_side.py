"""Copies objects between two buckets (or prefixes) of one server, without their bodies passing through here."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mastosync_dagster.copy.endpoint import EndpointError
from mastosync_dagster.copy.integrity import body_error, etag_is_md5, head_object
from mastosync_dagster.copy.single import Copied
from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import Aside
from mastosync_dagster.s3.etags import bare, is_md5
from mastosync_dagster.s3.headers import shown
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.storage import listed

if TYPE_CHECKING:
    from mastosync_dagster.copy.endpoint import Endpoint

_LOG = logging.getLogger(__name__)

LARGEST = 5 * 1024**3
"""Bytes of the largest object that S3 copies in one request."""

_NOT_FOUND = 404
_TRANSIENT = frozenset(
    {Reason.THROTTLED, Reason.TIMEOUT, Reason.CONNECTION, Reason.SERVER_ERROR, Reason.BAD_CREDENTIALS}
)
"""Failures that say nothing about whether the server copies by itself."""


class RefusedError(Aside):
    """The server does not copy this object by itself, or not as it must be."""


class ServerSideCopies:
    """Has the server copy, between a source and a destination on one server, under the same credentials.

    Header fields and metadata are kept by the server; the ACL, which it would not keep, is the permission's.

    Attributes:
        copied: Objects copied so.
    """

    def __init__(self, source: Endpoint, destination: Endpoint) -> None:
        self._source = source
        self._destination = destination
        self._refused = False
        self.copied = 0

    async def copy(self, source_key: str, key: str, size: int | None, etag: str | None, *, private: bool) -> Copied:
        """Copy one object. Keys are relative; size and bare ETag are the plan's, None where unknown.

        Raises:
            EndpointError: A storage failed for good.
            RefusedError: The object has to be copied otherwise.
        """
        if self._refused or (size is not None and size > LARGEST):
            raise RefusedError
        async with self._destination as destination:
            # Another copy may have been refused while this one waited for a slot.
            if self._refused:
                raise RefusedError
            try:
                copied = await destination.send(key, self._copy, source_key, key, size, bare(etag), private)
            except EndpointError as problem:
                await self._judge(problem, source_key)
                raise
        self.copied += 1
        return copied

    async def _copy(
        self,
        source_key: str,
        key: str,
        size: int | None,
        etag: str | None,
        private: bool,  # noqa: FBT001  (as `copy`)
    ) -> Copied:
        """Request a copy, and compare the result with the plan, or with the source where that has changed.

        Raises:
            StorageError: The server made something else, or nothing.
            RefusedError: It has kept a header field that a copy leaves out.
        """
        source, destination = self._source.storage, self._destination.storage
        client, full = self._destination.client, destination.full_key(key)
        await client.copy(
            source.settings.bucket, source.full_key(source_key), full, destination.own_headers(private=private)
        )
        try:
            reply = await client.head(full)
        except S3Error as error:
            if error.status == _NOT_FOUND:
                what = "does not have what it has just copied"
                raise body_error(self._destination, what, Reason.CHECKSUM_MISMATCH) from error
            raise
        made = listed(key, reply.headers)
        if not await self._equal(key, made.size, made.etag, size, etag):
            now = await head_object(self._source, source_key)
            if now is None or not await self._equal(key, made.size, made.etag, now.size, now.etag):
                what = "made something else of an object that it copied by itself"
                raise body_error(self._destination, what, Reason.CHECKSUM_MISMATCH)
            etag = now.etag
        if shown(reply.headers).names_transport:
            # Streamed, it is written anew, without.
            raise RefusedError
        return Copied(made.size, made.etag if is_md5(made.etag) and made.etag == etag else None)

    async def _equal(self, key: str, size: int, made: str | None, wanted_size: int | None, wanted: str | None) -> bool:
        """Compare an object that was made with what is wanted; an upload in parts becomes one body by the copy."""
        if size != wanted_size:
            return False
        differ = is_md5(made) and is_md5(wanted) and made != wanted
        return not differ or not await etag_is_md5(self._destination, key)

    async def _judge(self, problem: EndpointError, source_key: str) -> None:
        """Find out what a refused copy means.

        Raises:
            EndpointError: The source lacks the object.
            RefusedError: The server does not copy by itself; not this object, or none at all.
        """
        error = problem.error
        if error.reason in _TRANSIENT:
            return
        if error.reason is Reason.CHANGED_DURING_COPY and not error.retryable:
            # Some servers do not find a key with odd characters as the source of a copy, though it is there.
            if await self._source.send(source_key, head_object, self._source, source_key) is None:
                raise EndpointError(self._source, error) from problem
            raise RefusedError from problem
        if not self.copied and not self._refused:
            self._refused = True
            _LOG.warning("the server does not copy by itself (%s): objects are streamed through here", error)
        raise RefusedError from problem
