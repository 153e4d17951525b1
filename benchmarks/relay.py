"""Counts what comes back from a server: a process's own counters leave connections out."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

from benchmarks.network import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 256 * 1024
_START_SECONDS = 10.0


class Relay:
    """Passes connections on to a server.

    Attributes:
        port: Where it listens on loopback.
        received: Bytes that came from the server so far, headers of HTTP included.
    """

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self.received = 0
        self._upstream = upstream
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Take no more connections."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    async def serve(self, ready: threading.Event) -> None:
        """Take connections until it is stopped."""
        self._loop = asyncio.get_running_loop()
        async with await asyncio.start_server(self._pass_on, LOOPBACK, 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await self._stop.wait()

    async def _pass_on(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(LOOPBACK, self._upstream)
        await asyncio.gather(self._copy(client, to_server, 0), self._copy(server, to_client, 1))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, counted: int) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):  # whoever closes first ends both ways
            while piece := await source.read(_CHUNK):
                self.received += counted * len(piece)
                target.write(piece)
                await target.drain()
        target.close()


@contextlib.contextmanager
def relay(upstream: int) -> Iterator[Relay]:
    """Pass connections on to a port of this machine until the block ends."""
    made, ready = Relay(upstream), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(made.serve(ready)), daemon=True)
    thread.start()
    if not ready.wait(_START_SECONDS):
        raise TimeoutError("the relay did not start")
    try:
        yield made
    finally:
        made.stop()
        thread.join(_START_SECONDS)
