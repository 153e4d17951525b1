"""Real servers that all tests of a session share, and a fresh corner of each server for every test."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg2
import pytest

from mastosync_dagster.demo.servers import PostgresServer, S3Server, boto3_client, postgres, rclone_s3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the session."""
    with postgres() as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """An empty database of the test's own."""
    name = f"test_{uuid.uuid4().hex}"
    with contextlib.closing(psycopg2.connect(postgres_server.url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(f'CREATE DATABASE "{name}"')
        yield replace(postgres_server, database=name)
        connection.cursor().execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def source_server() -> Iterator[S3Server]:
    """An S3 server that checks signatures."""
    with rclone_s3() as server:
        yield server


@pytest.fixture(scope="session")
def destination_server() -> Iterator[S3Server]:
    """Another one, with other credentials."""
    with rclone_s3() as server:
        yield server


@dataclass(frozen=True)
class Bucket:
    """An empty bucket of the test's own, and a client to fill and inspect it."""

    server: S3Server
    name: str
    client: S3Client


def _bucket(server: S3Server) -> Bucket:
    client = boto3_client(server)
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    return Bucket(server=server, name=name, client=client)


@pytest.fixture
def source_bucket(source_server: S3Server) -> Bucket:
    """An empty bucket at the source."""
    return _bucket(source_server)


@pytest.fixture
def destination_bucket(destination_server: S3Server) -> Bucket:
    """An empty bucket at the destination."""
    return _bucket(destination_server)
