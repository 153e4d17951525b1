"""What a single object's body is."""

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
"""What ends a transfer, said by a callback of libcurl's."""


class Digest(NamedTuple):
    """What a body is.

    Attributes:
        size: Bytes.
        md5: MD5 in hex.
    """

    size: int
    md5: str


def read_digest(storage: Storage, key: str, halt: threading.Event, *, first: int | None = None) -> Digest:
    """Read an object in pieces that are not kept. Raises as `Storage.dated`.

    Args:
        storage: The side.
        key: Relative to the key prefix.
        halt: Set, no further attempt is made.
        first: So many bytes of it; None: to its end.
    """
    sink = _Digester(first)
    headers = () if first is None else (("range", f"bytes=0-{first - 1}"),)

    async def read(client: Client) -> Digest:
        sink.begin_anew()
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
        self.begin_anew()

    def begin_anew(self) -> None:
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
        return _END if self.full and self._first is not None else None
