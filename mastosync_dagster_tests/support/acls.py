"""An S3 server that keeps ACLs and enforces them: moto, in a thread of the test process, on loopback."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from moto.server import ThreadedMotoServer

from mastosync_dagster.demo.servers import LOOPBACK, S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def acl_server() -> Iterator[S3Server]:
    """Run the server until the block ends. It takes any key and any secret."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address=LOOPBACK, port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(
            endpoint=f"http://{host}:{port}",
            access_key_id="key-of-the-acl-server",
            secret_access_key="secret-of-the-acl-server",
            pid=os.getpid(),
            log=Path(os.devnull),
        )
    finally:
        server.stop()


def anonymous_status(server: S3Server, bucket: str, key: str) -> int:
    """Return the status with which the server answers a GET without credentials."""
    url = urlsplit(server.endpoint)
    with contextlib.closing(http.client.HTTPConnection(url.hostname or "", url.port, timeout=20)) as connection:
        connection.request("GET", f"/{bucket}/{quote(key)}")
        answer = connection.getresponse()
        answer.read()
        return answer.status
