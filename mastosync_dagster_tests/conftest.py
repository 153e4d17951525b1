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


def _execute(server: PostgresServer, statement: str) -> None:
    administrative = replace(server, database="postgres")
    with contextlib.closing(psycopg2.connect(administrative.url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(statement)


def create_database(server: PostgresServer, template: str = "template1") -> PostgresServer:
    """Create a database of a new name, as a copy of another that nobody is connected to."""
    name = f"test_{uuid.uuid4().hex}"
    _execute(server, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return replace(server, database=name)


def drop_database(server: PostgresServer) -> None:
    """Drop a database, whoever is connected to it."""
    _execute(server, f'DROP DATABASE "{server.database}" WITH (FORCE)')


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """An empty database of the test's own."""
    created = create_database(postgres_server)
    yield created
    drop_database(created)


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


def create_bucket(server: S3Server) -> Bucket:
    """Create a bucket of a new name."""
    client = boto3_client(server)
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    return Bucket(server=server, name=name, client=client)


@pytest.fixture
def source_bucket(source_server: S3Server) -> Bucket:
    """An empty bucket at the source."""
    return create_bucket(source_server)


@pytest.fixture
def destination_bucket(destination_server: S3Server) -> Bucket:
    """An empty bucket at the destination."""
    return create_bucket(destination_server)
