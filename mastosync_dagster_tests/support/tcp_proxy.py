"""A proxy before any TCP server (PostgreSQL, SSH) that loses connections, stalls, or is gone for a while."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING

from mastosync_dagster.demo.servers.start import LOOPBACK
from mastosync_dagster_tests.support.listening import stop_listening, turns

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 64 * 1024
_START_SECONDS = 10.0


class TcpProxy:
    """A running proxy. Its methods may be called from any thread.

    Attributes:
        port: Where it listens on loopback.
        upstream: The real server's port; may be changed when that server comes back elsewhere.
        accepted: Connections that it has taken.
        received: Bytes that have come from the server, headers of HTTP included.
        cut_after: Connections are reset when so many bytes have come from the server; None: never.
        cuts: How many more connections are cut.
        stall_after: Connections pass on nothing more when so many bytes have gone one way; None: never.
        stalls: How many more connections stall so.
        refusing: Whether it resets new connections at once.
    """

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self.upstream = upstream
        self.accepted = self.received = 0
        self.cut_after: int | None = None
        self.cuts = 0
        self.stall_after: int | None = None
        self.stalls = 0
        self.refusing = False
        self._stalled = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._tasks)

    def drop(self) -> int:
        """Reset every connection that is open now. Returns how many."""
        if self._loop is None:
            return 0
        return asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result(_START_SECONDS)

    async def _drop(self) -> int:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return len(tasks)

    @contextlib.contextmanager
    def gone(self) -> Iterator[None]:
        """Drop every connection, and take none while the block runs."""
        self.refusing = True
        self.drop()
        try:
            yield
        finally:
            self.refusing = False

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Pass nothing on while the block runs, in connections that are open now, which never go on."""
        self._stalled = True
        try:
            yield
        finally:
            self._stalled = False

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        """Serve until ``stop``. Runs in the proxy's own thread."""
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connected, LOOPBACK, 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await stop.wait()
        await stop_listening(server)
        await self._drop()
        await turns()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine, which may be cancelled before it has begun and would leave the connection open.
        self.accepted += 1
        if self.refusing:
            return _reset(writer)
        task = asyncio.get_running_loop().create_task(self._serve_one(reader, writer))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            _reset(writer)

        return task.add_done_callback(ended)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            upstream = await asyncio.open_connection(LOOPBACK, self.upstream)
            try:
                await self._relay((reader, writer), upstream)
            finally:
                _reset(upstream[1])

    async def _relay(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        pumps = [
            asyncio.ensure_future(self._pump(client[0], server[1], from_server=False)),
            asyncio.ensure_future(self._pump(server[0], client[1], from_server=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_server: bool) -> None:
        passed = 0
        while piece := await reader.read(_CHUNK):
            passed += len(piece)
            self.received += len(piece) if from_server else 0
            if self.stall_after is not None and passed >= self.stall_after and self.stalls > 0:
                self.stalls -= 1
                await asyncio.Event().wait()
            if self._stalled:
                await asyncio.Event().wait()
            if from_server and self.cut_after is not None and passed >= self.cut_after and self.cuts > 0:
                self.cuts -= 1
                writer.write(piece[: len(piece) // 2])
                await writer.drain()
                return
            writer.write(piece)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        # Closing a socket that lingers for no time sends RST instead of FIN.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.contextmanager
def tcp_proxy(upstream: int) -> Iterator[TcpProxy]:
    """Run a proxy on a free loopback port until the block ends.

    Args:
        upstream: Port of the real server on loopback.
    """
    proxy = TcpProxy(upstream)
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(
        target=loop.run_until_complete, args=(proxy.serve(started, stop),), name="tcp-proxy", daemon=True
    )
    thread.start()
    if not started.wait(_START_SECONDS):
        raise RuntimeError("the proxy did not start")
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(_START_SECONDS)
        loop.close()
