"""A fresh corner of a server for a test: a database or a bucket of a new name."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg2

from mastosync_dagster.demo.servers.start import PostgresServer, S3Server, boto3_client

if TYPE_CHECKING:
    from pathlib import Path

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


def create_database_in(server: PostgresServer, encoding: str) -> PostgresServer:
    """Create an empty database in an encoding such as LATIN1."""
    name = f"test_{uuid.uuid4().hex}"
    _execute(server, f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
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


def environment_of(
    database: PostgresServer, source: Bucket, destination: Bucket, source_url: str, destination_url: str, home: Path
) -> dict[str, str]:
    """Return the variables that point at these servers, at the addresses of their proxies, and at a Dagster home."""
    return {
        "DATABASE_URL": database.url,
        "S3_BUCKET": source.name,
        "S3_ENDPOINT": source_url,
        "S3_REGION": source.server.region,
        "AWS_ACCESS_KEY_ID": source.server.access_key_id,
        "AWS_SECRET_ACCESS_KEY": source.server.secret_access_key,
        "DESTINATION_S3_BUCKET": destination.name,
        "DESTINATION_S3_ENDPOINT": destination_url,
        "DESTINATION_S3_REGION": destination.server.region,
        "DESTINATION_AWS_ACCESS_KEY_ID": destination.server.access_key_id,
        "DESTINATION_AWS_SECRET_ACCESS_KEY": destination.server.secret_access_key,
        "DAGSTER_HOME": str(home),
    }
