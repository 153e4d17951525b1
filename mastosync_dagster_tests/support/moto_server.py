"""A server that keeps ACLs, storage classes and encryption, for the tests of the transfer."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from moto.server import ThreadedMotoServer

from mastosync_dagster.demo.servers.start import LOOPBACK, S3Server, boto3_client
from mastosync_dagster_tests.support.corners import Bucket

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """A server that takes any key, keeps ACLs, and takes any secret."""
    server = ThreadedMotoServer(ip_address=LOOPBACK, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield S3Server(
        endpoint=f"http://{host}:{port}", access_key_id="id", secret_access_key="secret", pid=0, log=Path(os.devnull)
    )
    server.stop()


@pytest.fixture
def moto_bucket(moto: S3Server) -> Bucket:
    """An empty bucket there."""
    client = boto3_client(moto)
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    return Bucket(server=moto, name=name, client=client)
