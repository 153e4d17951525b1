"""Copies objects between two buckets (or prefixes) of one server, without their bodies passing through here."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import obstore

from mastosync_dagster.transfer.errors import Aside, StorageError
from mastosync_dagster.transfer.headers import shown_by_obstore
from mastosync_dagster.transfer.outcomes import Reason
from mastosync_dagster.transfer.sides import SideError
from mastosync_dagster.transfer.verify import bare, is_md5
from mastosync_dagster.transfer.whole import Copied

if TYPE_CHECKING:
    from obstore.store import S3Store

    from mastosync_dagster.transfer.sides import Persistence, Side

_LOG = logging.getLogger(__name__)

LARGEST = 5 * 1024**3
"""Bytes of the largest object that S3 copies in one request."""

_TRANSIENT = frozenset(
    {Reason.THROTTLED, Reason.TIMEOUT, Reason.CONNECTION, Reason.SERVER_ERROR, Reason.BAD_CREDENTIALS}
)
"""Failures that say nothing about whether the server copies by itself."""


class RefusedError(Aside):
    """The server does not copy this object by itself, or not as it must be."""


class CopiesOnServer:
    """Lets the server copy. Thread-safe.

    Header fields and metadata are kept by the server; the ACL, which it would not keep, is the permission's.

    Args:
        source: Where objects are.
        destination: Where they go: the same server, under the same credentials.
        persistence: Repeats requests.

    Attributes:
        copied: Objects copied so.
    """

    def __init__(self, source: Side, destination: Side, persistence: Persistence) -> None:
        self._source = source
        self._destination = destination
        self._persistence = persistence
        self._copiers = [destination.storage.copier(source.storage, private=private) for private in (False, True)]
        self._refused = False
        self._lock = threading.Lock()
        self.copied = 0

    def copy(self, source_key: str, key: str, size: int | None, etag: str | None, *, private: bool) -> Copied:
        """Copy one object.

        Args:
            source_key: Where it is, relative to the source's prefix; a key that obstore can name.
            key: Where it goes, relative to the destination's prefix; such a key too.
            size: Bytes, as planned; None: unknown.
            etag: Bare ETag, as planned; None: unknown.
            private: Write it so that not everybody may read it.

        Raises:
            SideError: A side failed for good.
            RefusedError: The object has to be copied otherwise.
        """
        if self._refused or (size is not None and size > LARGEST):
            raise RefusedError
        with self._destination:
            # Who has waited for a place may have been told meanwhile.
            if self._refused:
                raise RefusedError
            try:
                copied = self._persistence.run(
                    self._destination, key, self._copy, None, self._copiers[private], source_key, key, size, bare(etag)
                )
            except SideError as problem:
                self._judge(problem)
                raise
        with self._lock:
            self.copied += 1
        return copied

    def _copy(self, copier: S3Store, source_key: str, key: str, size: int | None, etag: str | None) -> Copied:
        """Ask for a copy, and compare what came of it with the plan, or with the source where that has changed.

        Raises:
            StorageError: The server made something else, or nothing.
            RefusedError: It has kept a header field that a copy leaves out.
        """
        source, destination = self._source.storage, self._destination.storage
        full = destination.full_key(key)
        obstore.copy(copier, source.full_key(source_key), full)
        try:
            found = obstore.get(destination.reader(), full, options={"head": True})
        except FileNotFoundError as absent:
            raise _error(self._destination, "does not have what it has just copied") from absent
        made_size, made = found.meta["size"], bare(found.meta["e_tag"])
        if not self._equal(key, made_size, made, size, etag):
            now = source.head(source_key)
            if now is None or not self._equal(key, made_size, made, now.size, bare(now.etag)):
                raise _error(self._destination, "made something else of an object that it copied by itself")
            etag = bare(now.etag)
        if shown_by_obstore(found.attributes).names_transport:
            # Streamed, it is written anew, without.
            raise RefusedError
        return Copied(made_size, made if is_md5(made) and made == etag else None)

    def _equal(self, key: str, size: int, made: str | None, wanted_size: int | None, wanted: str | None) -> bool:
        """Compare an object that was made with what is wanted; an upload in parts becomes one body by the copy."""
        if size != wanted_size:
            return False
        differ = is_md5(made) and is_md5(wanted) and made != wanted
        return not differ or not self._destination.storage.etag_is_md5(key)

    def _judge(self, problem: SideError) -> None:
        """Find out what a refused copy means.

        Raises:
            SideError: The source lacks the object.
            RefusedError: The server does not copy by itself; not this object, or none at all.
        """
        error = problem.error
        if error.reason in _TRANSIENT:
            return
        if error.reason is Reason.CHANGED_DURING_COPY and not error.retryable:
            raise SideError(self._source, error) from problem
        with self._lock:
            if not self.copied and not self._refused:
                self._refused = True
                _LOG.warning("the server does not copy by itself (%s): objects are streamed through here", error)
        raise RefusedError from problem


def _error(side: Side, what: str) -> StorageError:
    return StorageError(f"the {side.storage.settings.name} {what}", reason=Reason.CHECKSUM_MISMATCH, retryable=True)
