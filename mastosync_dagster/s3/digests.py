"""Reads an object's body for its length and MD5."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.s3.http import Reply, TransportError
from mastosync_dagster.s3.storage import LARGEST

if TYPE_CHECKING:
    import threading

    import pycurl

    from mastosync_dagster.s3.client import Client
    from mastosync_dagster.s3.storage import Storage

_OK = range(200, 300)
_END = -1
"""Ends a transfer, returned by a callback of libcurl's."""


class Digest(NamedTuple):
    """A body's length in bytes, and its MD5 in hex."""

    size: int
    md5: str


def read_digest(storage: Storage, key: str, halt: threading.Event | None = None, *, first: int | None = None) -> Digest:
    """Read an object, or its first bytes, in pieces that are not kept. Raises as `Storage.head_existing`."""
    sink = _Digester(first)
    headers = () if first is None else (("range", f"bytes=0-{first - 1}"),)

    async def read(client: Client) -> Digest:
        sink.reset()
        try:
            await client.get(storage.full_key(key), limit=LARGEST, headers=headers, sink=sink)
        except TransportError:
            if not sink.full:  # else it was ended here
                raise
        return Digest(sink.size, sink.digest.hexdigest())

    return storage.ask(read, key, halt)


class _Digester:
    """Hashes a body that arrives."""

    def __init__(self, first: int | None) -> None:
        self._first = first
        self.reset()

    def reset(self) -> None:
        """Forget what has come."""
        self.size = 0
        self.digest = hashlib.md5(usedforsecurity=False)

    @property
    def full(self) -> bool:
        """Whether no more is wanted."""
        return self.size == self._first

    def begin(self, _curl: pycurl.Curl, reply: Reply) -> bool:
        """Take an object, and no refusal."""
        return reply.status in _OK

    def write(self, data: bytes) -> int | None:
        """Take a piece."""
        taken = data if self._first is None else data[: self._first - self.size]
        self.size += len(taken)
        self.digest.update(taken)
        return _END if self.full else None
