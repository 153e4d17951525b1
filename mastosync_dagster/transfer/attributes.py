"""What a single object is, beside what a listing shows: its header fields and metadata, or its body's MD5."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, NamedTuple

from obstore import get

from mastosync_dagster.transfer import boto3_objects
from mastosync_dagster.transfer.headers import Attributes, shown_by_obstore
from mastosync_dagster.transfer.pool import patiently
from mastosync_dagster.transfer.storage import addressable

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable

    from typing_extensions import Buffer

    from mastosync_dagster.transfer.storage import Storage

_PIECE = 1024 * 1024


def read_attributes(storage: Storage, key: str, halt: threading.Event) -> Attributes:
    """Ask for those header fields and that metadata of an object that a copy takes over (HEAD).

    Args:
        storage: The side.
        key: Relative to the key prefix.
        halt: Set, no further attempt is made.

    Raises:
        StorageError: The side refuses, or has no such object.
    """
    full = storage.full_key(key)

    def ask() -> Attributes:
        if not addressable(full):
            return boto3_objects.read_attributes(storage, full)
        return shown_by_obstore(get(storage.reader(), full, options={"head": True}).attributes)

    return patiently(storage, key, ask, halt).to_keep()


class Digest(NamedTuple):
    """What a body is.

    Attributes:
        size: Bytes.
        md5: MD5 in hex.
    """

    size: int
    md5: str


def read_digest(storage: Storage, key: str, halt: threading.Event, *, first: int | None = None) -> Digest:
    """Read an object in pieces that are not kept. Raises as `read_attributes` does.

    Args:
        storage: The side.
        key: Relative to the key prefix.
        halt: Set, no further attempt is made.
        first: So many bytes of it; None: to its end.
    """
    full = storage.full_key(key)

    def read() -> Digest:
        size, digest = 0, hashlib.md5(usedforsecurity=False)
        with contextlib.ExitStack() as stack:
            if addressable(full):
                pieces: Iterable[Buffer] = get(storage.reader(), full).stream(_PIECE)
            else:
                reply = boto3_objects.get(storage, full, _PIECE)
                stack.callback(reply.close)
                pieces = reply.pieces
            for piece in pieces:
                taken = memoryview(piece)[: None if first is None else first - size]
                size += len(taken)
                digest.update(taken)
                if size == first:
                    break
        return Digest(size, digest.hexdigest())

    return patiently(storage, key, read, halt)
