"""A TCP proxy that vanishes: after so many bytes of answers its connections break, and nobody listens any more."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNK = 256


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """Yield a port that answers no attempt to connect: its queue is full, and the system drops what comes."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        with contextlib.suppress(TimeoutError):
            while True:
                stack.enter_context(socket.create_connection(address, timeout=0.5))
        yield address[1]


class Vanishing:
    """Passes connections on to a port of this machine, until it has passed on enough answers.

    Attributes:
        port: Where it listens.
        gone: Set when it has vanished.
    """

    def __init__(self, target: int, after: int) -> None:
        self.gone = threading.Event()
        self._target = target
        self._left = after
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._sockets += [client, server]
                self._start(self._pump, client, server, False)
                self._start(self._pump, server, client, True)

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:  # noqa: FBT001  (a thread's argument)
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                if counted:
                    with self._lock:
                        self._left -= len(data)
                        enough = self._left < 0
                    if enough:
                        self.vanish()
                        return
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def vanish(self) -> None:
        """Break every connection, and listen no more."""
        self.gone.set()
        with self._lock:
            sockets = [self._listener, *self._sockets]
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Vanish, and give everything back."""
        self.vanish()
        for thread in self._threads:
            thread.join(10)
        for each in [self._listener, *self._sockets]:
            each.close()


@contextlib.contextmanager
def vanishing(target: int, *, after: int) -> Iterator[Vanishing]:
    """Run such a proxy until the block ends.

    Args:
        target: The port to pass connections on to.
        after: Bytes of answers that it still passes on.
    """
    proxy = Vanishing(target, after)
    try:
        yield proxy
    finally:
        proxy.close()
