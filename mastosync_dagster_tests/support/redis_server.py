"""A Redis server that keeps its data, and can be killed and started again."""

from __future__ import annotations

import contextlib
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
import redis

from mastosync_dagster.demo.servers.start import LOOPBACK, free_port
from mastosync_dagster.installation.processes import running
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

NEEDS_REDIS = pytest.mark.skipif(
    shutil.which("redis-server") is None,
    reason="there is no redis-server on this machine (Debian: apt-get install redis-server)",
)


class RedisServer:
    """A server on loopback, whose files are in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the server."""
        return f"redis://{LOOPBACK}:{self._port}/0"

    @property
    def client(self) -> redis.Redis:
        """A new client."""
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=5)

    def start(self) -> None:
        """Start it with what it had when it ended, and wait until it answers."""
        command = [
            *("redis-server", "--bind", LOOPBACK, "--port", str(self._port), "--dir", str(self._folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        ]
        self._process = self._stack.enter_context(running(command, log=self._folder / "redis.log"))
        wait_until(self._answers)

    def kill(self) -> None:
        """End it as a crash does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End it for good."""
        self._stack.close()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """Run a server until the block ends."""
    server = RedisServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
