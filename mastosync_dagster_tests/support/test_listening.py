"""Proxies that stop while clients still connect leave no socket open."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import warnings
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from mastosync_dagster.demo.servers.start import LOOPBACK
from mastosync_dagster_tests.support.proxy import s3_proxy
from mastosync_dagster_tests.support.tcp_proxy import tcp_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROUNDS = 20
_CLIENTS = 24


@contextlib.contextmanager
def http(upstream: int) -> Iterator[int]:
    with s3_proxy(f"http://{LOOPBACK}:{upstream}") as proxy:
        yield urlsplit(proxy.endpoint).port or 0


@contextlib.contextmanager
def tcp(upstream: int) -> Iterator[int]:
    with tcp_proxy(upstream) as proxy:
        yield proxy.port


@pytest.mark.parametrize("proxied", [http, tcp])
def test_a_proxy_that_stops_while_clients_connect_leaves_no_socket_open(
    proxied: Callable[[int], contextlib.AbstractContextManager[int]],
) -> None:
    clients: list[socket.socket] = []

    def connect(port: int) -> None:
        for _ in range(_CLIENTS):
            with contextlib.suppress(OSError):
                clients.append(socket.create_connection((LOOPBACK, port)))

    with (
        socket.create_server((LOOPBACK, 0)) as upstream,
        warnings.catch_warnings(record=True) as left,
    ):
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(_ROUNDS):
            with proxied(upstream.getsockname()[1]) as port:
                connecting = threading.Thread(target=connect, args=(port,))
                connecting.start()
            connecting.join()
        gc.collect()
    for client in clients:
        client.close()
    assert clients
    # What is collected may also be of earlier tests: processes for which Dagster does not wait.
    assert [text for text in (str(warning.message) for warning in left) if "socket" in text] == []
