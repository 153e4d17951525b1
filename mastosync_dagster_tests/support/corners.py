"""A fresh corner of a server for a test: a database or a bucket of a new name."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg2

from mastosync_dagster.demo.servers.start import PostgresServer, S3Server, boto3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


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
