"""How a server of the test process stops and leaves no socket open."""

from __future__ import annotations

import asyncio

_TURNS = 5
"""What asyncio's loop takes to make a connection of an accepted socket, or to close one, and two more."""


async def turns() -> None:
    """Let the running loop go on with what it has begun."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def stop_listening(server: asyncio.Server) -> None:
    """Close a server; the connections it has accepted are all made by then.

    One that closes at once forgets those that are accepted and not yet made: asyncio's Server._attach fails on them,
    and their sockets stay open.
    """
    loop = asyncio.get_running_loop()
    for listening in server.sockets:
        loop.remove_reader(listening.fileno())
    await turns()
    server.close()
