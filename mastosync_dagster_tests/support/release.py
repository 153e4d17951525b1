"""An installation that an earlier version has left: its home, unpacked, and real servers with its rows and objects.

``data/home-0.1.0.tar.xz`` says in its README how it was made.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
from boto3.s3.transfer import TransferConfig

from mastosync_dagster.demo.servers.start import boto3_client
from mastosync_dagster_tests.support.acls import acl_server, anonymous_status
from mastosync_dagster_tests.support.corners import (
    Bucket,
    create_bucket,
    create_database,
    drop_database,
    environment_of,
)
from mastosync_dagster_tests.support.proxy import Kind, Proxy, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pytest

    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server

_ARCHIVE = Path(__file__).parents[1] / "data" / "home-0.1.0.tar.xz"
_DESTINATION = "media-new"
# Records are about this name. It does not exist: requests come to a proxy.
_ENDPOINT = "http://s3.new.example"
_PARTS = TransferConfig(multipart_threshold=15 * 2**20, multipart_chunksize=5 * 2**20)
_THREADS = 8
_ABOUT_OBJECTS = frozenset({Kind.PUT, Kind.COPY, Kind.COMPLETE_UPLOAD})
_NO_MEDIA = re.compile(r"(?:^|/)mastosync-check/|\.parquet$")
_MEDIA = re.compile(r"(?:cache/)?media_attachments/(?:files|thumbnails)/([\d/]+)/(?:original|small)/")
_OWNERS = (
    "SELECT m.id, a.suspended_at IS NOT NULL OR s.deleted_at IS NOT NULL FROM media_attachments m"
    " LEFT JOIN accounts a ON a.id = m.account_id LEFT JOIN statuses s ON s.id = m.status_id"
)


@dataclass(frozen=True)
class Released:
    """The installation, with the environment that points at it.

    Attributes:
        facts: What had happened to it, by the script that made the archive.
        home: DAGSTER_HOME.
        folder: The unpacked archive.
    """

    facts: Mapping[str, Any]
    home: Path
    folder: Path
    database: PostgresServer
    source: Bucket
    destination: Bucket
    destination_proxy: Proxy
    environment: Mapping[str, str]

    @property
    def written(self) -> list[str]:
        """The keys that the destination was asked to write, sorted: neither probes nor manifests."""
        return sorted(
            request.key
            for request in self.destination_proxy.requests
            if request.kind in _ABOUT_OBJECTS and not _NO_MEDIA.search(request.key)
        )

    def execute(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement in Mastodon's database and return its rows."""
        with contextlib.closing(psycopg2.connect(self.database.url)) as connection, connection.cursor() as cursor:
            cursor.execute(query, parameters)
            return cursor.fetchall()

    def wrong_answers(self) -> dict[str, int]:
        """Return the answers to anonymous GETs of media objects at the destination that differ from what must be."""
        private = dict(self.execute(_OWNERS))
        pages = self.destination.client.get_paginator("list_objects_v2").paginate(Bucket=self.destination.name)
        wrong = {}
        for key in [entry["Key"] for page in pages for entry in page["Contents"]]:
            found = _MEDIA.match(key)
            row_id = int(found[1].replace("/", "")) if found else 0
            answer = anonymous_status(self.destination.server, self.destination.name, key)
            if row_id in private and answer != (403 if private[row_id] else 200):
                wrong[key] = answer
        return wrong


@contextlib.contextmanager
def released(
    postgres_server: PostgresServer, source_server: S3Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Released]:
    """Unpack the archive into a folder, fill a database and both buckets, and set the environment."""
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / "home-0.1.0"
    database = create_database(postgres_server)
    with contextlib.closing(psycopg2.connect(database.url)) as connection, connection, connection.cursor() as cursor:
        for name in ("schema.sql", "rows.sql"):
            cursor.execute((unpacked / name).read_text())
    source = create_bucket(source_server)
    _fill(source, json.loads((unpacked / "source.json").read_text()))
    with acl_server() as server:
        destination = Bucket(server=server, name=_DESTINATION, client=boto3_client(server))
        destination.client.create_bucket(Bucket=_DESTINATION)
        _fill(destination, json.loads((unpacked / "destination.json").read_text()))
        with s3_proxy(server.endpoint) as proxy:
            home = unpacked / "home"
            environment = {
                **environment_of(database, source, destination, source.server.endpoint, _ENDPOINT, home),
                "MASTOSYNC_ROWS_PER_PARTITION": "40",
                "http_proxy": proxy.endpoint,
                "no_proxy": "127.0.0.1,localhost",
            }
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            facts = json.loads((unpacked / "facts.json").read_text())
            yield Released(facts, home, unpacked, database, source, destination, proxy, environment)
    drop_database(database)


def _fill(bucket: Bucket, objects: Sequence[Mapping[str, Any]]) -> None:
    """Write objects whose bodies follow from a name each, as they were at the source when that was their key."""

    def write(each: Mapping[str, Any]) -> None:
        if "data" in each:
            body = base64.b64decode(each["data"])
        else:
            body = hashlib.shake_256(each["body"].encode()).digest(each["size"])
        extra = {**each["headers"], **({"ACL": each["acl"]} if "acl" in each else {})}
        if len(body) < _PARTS.multipart_threshold:
            bucket.client.put_object(Bucket=bucket.name, Key=each["key"], Body=body, **extra)
        else:
            bucket.client.upload_fileobj(io.BytesIO(body), bucket.name, each["key"], ExtraArgs=extra, Config=_PARTS)

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(write, objects):
            pass
