"""The servers of the demo are real: they check passwords and signatures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg2
import pytest
from botocore.exceptions import ClientError

from mastosync_dagster.demo.servers.start import PostgresServer, boto3_client

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.corners import Bucket


def test_postgres_refuses_a_wrong_password(database: PostgresServer) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(replace(database, password="wrong").url)


def test_s3_servers_keep_an_object_and_refuse_a_wrong_secret(source_bucket: Bucket) -> None:
    source_bucket.client.put_object(Bucket=source_bucket.name, Key="a/b", Body=b"x", CacheControl="max-age=1")
    reply = source_bucket.client.get_object(Bucket=source_bucket.name, Key="a/b")
    assert (reply["Body"].read(), reply["CacheControl"]) == (b"x", "max-age=1")
    without_rights = boto3_client(replace(source_bucket.server, secret_access_key="wrong"))
    with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|403"):
        without_rights.get_object(Bucket=source_bucket.name, Key="a/b")
