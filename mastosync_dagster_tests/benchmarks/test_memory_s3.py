"""The benchmark's server does what S3 does, as far as it goes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import signal
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import obstore
import pytest
from botocore.exceptions import ClientError

from benchmarks import network, servers
from benchmarks.native import NoCompilerError, build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

BUCKET = servers.BUCKET


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    try:
        build("memory_s3", folder)
    except NoCompilerError as error:
        pytest.skip(str(error))  # it is for the benchmark, which takes a C compiler; nothing else does
    return folder


@pytest.fixture
def server(programs: Path) -> Iterator[servers.Server]:
    with servers.server(servers.Kind.MEMORY, network.Place(), programs) as started:
        yield started


@pytest.fixture
def client(server: servers.Server) -> Iterator[S3Client]:
    made = server.client()
    yield made
    made.close()


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 100_000, 5_000_000])
def test_a_body_comes_back_with_its_headers_and_its_md5_as_etag(client: S3Client, size: int) -> None:
    body = os.urandom(size)
    kept: dict[str, Any] = {
        "ContentType": "image/png",
        "CacheControl": "public, immutable",
        "Metadata": {"made-by": "a test"},
    }
    answer = client.put_object(Bucket=BUCKET, Key="a/b.png", Body=body, **kept)
    assert answer["ETag"] == f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
    found = client.get_object(Bucket=BUCKET, Key="a/b.png")
    assert found["Body"].read() == body
    assert kept.items() <= found.items()
    assert client.head_object(Bucket=BUCKET, Key="a/b.png")["ContentLength"] == size


def test_a_body_that_is_not_the_one_of_its_content_md5_is_refused(client: S3Client) -> None:
    md5 = base64.b64encode(hashlib.md5(b"a body", usedforsecurity=False).digest()).decode()
    client.put_object(Bucket=BUCKET, Key="a", Body=b"a body", ContentMD5=md5)
    with pytest.raises(ClientError, match="BadDigest"):
        client.put_object(Bucket=BUCKET, Key="a", Body=b"damaged", ContentMD5=md5)
    assert client.get_object(Bucket=BUCKET, Key="a")["Body"].read() == b"a body"


def test_bodies_that_arrive_at_the_same_time_each_get_their_own_etag(server: servers.Server) -> None:
    sizes = [0, 1, 55, 56, 63, 64, 65, 119, 120, 4096, 30_000, 30_001, 30_002, 60_000, 60_064]
    bodies = {f"a/{number}": os.urandom(size) for number, size in enumerate(sizes)}
    store = server.store()

    def put(key: str) -> str | None:
        return obstore.put(store, key, bodies[key], use_multipart=False)["e_tag"]

    with ThreadPoolExecutor(len(bodies)) as pool:
        list(pool.map(put, bodies))  # a connection each
        # While it is held up, all of them arrive.
        os.kill(server.pid, signal.SIGSTOP)
        try:
            answers = {key: pool.submit(put, key) for key in bodies}
            time.sleep(0.5)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        etags = {key: answer.result() for key, answer in answers.items()}
    assert etags == {key: f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"' for key, body in bodies.items()}


def test_listings_are_in_byte_order_and_go_on_where_a_page_ended(client: S3Client) -> None:
    keys = sorted(f"{folder}/{name}" for folder in ("a", "a.b", "b") for name in range(40))
    for key in reversed(keys):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"")
    pages = client.get_paginator("list_objects_v2")

    def listed(prefix: str = "", after: str = "") -> list[str]:
        answers = pages.paginate(Bucket=BUCKET, Prefix=prefix, StartAfter=after, PaginationConfig={"PageSize": 7})
        return [entry["Key"] for answer in answers for entry in answer.get("Contents", [])]

    assert listed() == keys
    assert listed("a/") == [key for key in keys if key.startswith("a/")]
    assert listed("a/", "a/20") == [key for key in keys if key.startswith("a/") and key > "a/20"]
    assert listed("c/") == []
    folders = [
        entry["Prefix"]
        for answer in pages.paginate(Bucket=BUCKET, Delimiter="/", PaginationConfig={"PageSize": 1})
        for entry in answer["CommonPrefixes"]
    ]
    assert folders == ["a.b/", "a/", "b/"]


def test_what_it_cannot_do_it_refuses(client: S3Client) -> None:
    client.put_object(Bucket=BUCKET, Key="there", Body=b"")
    with pytest.raises(ClientError, match="NotImplemented"):
        client.copy_object(Bucket=BUCKET, Key="copy", CopySource=f"{BUCKET}/there")
    with pytest.raises(ClientError, match="NotImplemented"):
        client.create_multipart_upload(Bucket=BUCKET, Key="large")
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket=BUCKET, Key="absent")


def test_every_request_is_counted(server: servers.Server, client: S3Client) -> None:
    before = server.counts()
    client.put_object(Bucket=BUCKET, Key="one", Body=b"1")
    client.put_object(Bucket=BUCKET, Key="one", Body=b"2")
    client.get_object(Bucket=BUCKET, Key="one")["Body"].close()
    client.list_objects_v2(Bucket=BUCKET)
    client.delete_object(Bucket=BUCKET, Key="one")
    assert "Contents" not in client.list_objects_v2(Bucket=BUCKET)
    counted = {kind: count - before[kind] for kind, count in server.counts().items()}
    assert counted == {"GET": 1, "HEAD": 0, "PUT": 2, "DELETE": 1, "LIST": 2, "OTHER": 0}


def test_a_range_is_a_part_of_the_body(client: S3Client) -> None:
    client.put_object(Bucket=BUCKET, Key="a/b.png", Body=b"0123456789")

    def read(part: str) -> tuple[bytes, str | None]:
        answer = client.get_object(Bucket=BUCKET, Key="a/b.png", Range=part)
        return answer["Body"].read(), answer.get("ContentRange")

    assert read("bytes=2-4") == (b"234", "bytes 2-4/10")
    assert read("bytes=7-") == (b"789", "bytes 7-9/10")
    assert read("bytes=7-99") == (b"789", "bytes 7-9/10")
    with pytest.raises(ClientError, match="InvalidRange"):
        read("bytes=10-")


@pytest.mark.long(cases=0)
def test_one_get_of_a_hundred_is_late(programs: Path) -> None:
    with (
        servers.server(servers.Kind.STALLING, network.Place(), programs) as server,
        contextlib.closing(server.client()) as client,
    ):
        client.put_object(Bucket=BUCKET, Key="a/b.png", Body=b"0123456789")

        def seconds(_: int) -> float:
            started = time.monotonic()
            assert client.get_object(Bucket=BUCKET, Key="a/b.png")["Body"].read() == b"0123456789"
            return time.monotonic() - started

        with ThreadPoolExecutor(8) as pool:
            took = sorted(pool.map(seconds, range(200)))
    assert took[197] < 5
    assert all(10 <= each < 15 for each in took[198:])


def test_a_private_object_is_kept_from_those_who_do_not_sign_until_its_acl_is_changed(
    client: S3Client, server: servers.Server
) -> None:
    def status() -> int:
        try:
            with urllib.request.urlopen(f"{server.endpoint}/{BUCKET}/a") as answer:  # noqa: S310  (our own server)
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    client.put_object(Bucket=BUCKET, Key="a", Body=b"body", ACL="private")
    assert (client.get_object_acl(Bucket=BUCKET, Key="a")["Grants"], status()) == ([], 403)
    client.put_object_acl(Bucket=BUCKET, Key="a", ACL="public-read")
    (grant,) = client.get_object_acl(Bucket=BUCKET, Key="a")["Grants"]
    assert (grant["Permission"], grant["Grantee"]["URI"], status()) == (
        "READ",
        "http://acs.amazonaws.com/groups/global/AllUsers",
        200,
    )
    assert client.get_object(Bucket=BUCKET, Key="a")["Body"].read() == b"body"
