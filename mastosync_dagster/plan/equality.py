"""Whether two objects are equal, as far as listings tell."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.etags import is_md5

if TYPE_CHECKING:
    from mastosync_dagster.s3.storage import ListedObject, Storage

_QUESTIONS = 10


class Etags:
    """Finds out whether a storage's ETags that look like MD5s are MD5s: it asks at the first few mismatches.

    ``are_md5`` is the answer, as far as is known.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._questions = _QUESTIONS
        self.are_md5 = True

    def mislead(self, key: str) -> bool:
        """Return whether the ETag of this object, and then of all, says nothing about the body."""
        if self.are_md5 and self._questions:
            self._questions -= 1
            # Without an answer the ETag is trusted: the object is copied again, which harms nothing.
            with contextlib.suppress(StorageError):
                self.are_md5 = self._storage.etag_is_md5(key)
        return not self.are_md5


class Equality:
    """Compares the listed objects of two storages."""

    def __init__(self, source: Storage, destination: Storage) -> None:
        self.source = Etags(source)
        self.destination = Etags(destination)

    def are_equal(self, here: ListedObject, there: ListedObject) -> bool:
        """Return whether two objects are of one size, and their ETags are not two different MD5s."""
        if here.size != there.size:
            return False
        if here.etag == there.etag or not (is_md5(here.etag) and is_md5(there.etag)):
            return True
        return self.destination.mislead(there.key) or self.source.mislead(here.key)
