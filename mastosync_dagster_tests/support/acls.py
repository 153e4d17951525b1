"""An S3 server that keeps ACLs and enforces them: moto, on loopback."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from mastosync_dagster.demo.servers.start import LOOPBACK, S3Server, free_port
from mastosync_dagster.installation.processes import running
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster_tests.support.corners import Bucket

_START_SECONDS = 60.0
NOBODY_LISTS = Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.LIST}), unsigned=True)
"""For a proxy before this server, which lets everybody list a bucket."""


@contextlib.contextmanager
def acl_server() -> Iterator[S3Server]:
    """Run the server until the block ends. It takes any key and any secret."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "moto.log"
        with running(command, log=log) as process:
            deadline = time.monotonic() + _START_SECONDS
            while not _listens(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield S3Server(
                endpoint=f"http://{LOOPBACK}:{port}",
                access_key_id="key-of-the-acl-server",
                secret_access_key="secret-of-the-acl-server",
                pid=process.pid,
                log=log,
            )


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def anonymous_status(server: S3Server, bucket: str, key: str) -> int:
    """Return the status with which the server answers a GET without credentials."""
    url = urlsplit(server.endpoint)
    with contextlib.closing(http.client.HTTPConnection(url.hostname or "", url.port, timeout=20)) as connection:
        connection.request("GET", f"/{bucket}/{quote(key)}")
        answer = connection.getresponse()
        answer.read()
        return answer.status


def let_everybody_read(bucket: Bucket, folder: str = "", rest: str = "*") -> None:
    """Give a bucket the policy with which Mastodon's documentation makes one public, for keys below a folder."""
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": "*"},
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket.name}/{folder}{rest}",
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))
