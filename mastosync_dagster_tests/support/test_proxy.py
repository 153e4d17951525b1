"""The proxy passes requests through unchanged, counts them, and damages those that its rules name."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from mastosync_dagster_tests.support.proxy import (
    Answer,
    Cut,
    Delay,
    Fault,
    Flip,
    Hold,
    Kind,
    NewHeaders,
    Proxy,
    Reset,
    Rule,
    Stall,
    Trickle,
    When,
    WrongEtag,
    s3_proxy,
)
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

    from mastosync_dagster_tests.support.corners import Bucket

BODY = bytes(range(256)) * 40
KEY = "media_attachments/files/1/original/ü b.png"


@pytest.fixture
def proxy(source_bucket: Bucket) -> Iterator[Proxy]:
    source_bucket.client.put_object(Bucket=source_bucket.name, Key=KEY, Body=BODY)
    with s3_proxy(source_bucket.server.endpoint) as running:
        yield running


@pytest.fixture
def client(proxy: Proxy, source_bucket: Bucket) -> S3Client:
    return through(proxy, source_bucket)


def through(proxy: Proxy, bucket: Bucket) -> S3Client:
    """Return a client that speaks to the bucket's server through the proxy and presigns URLs in the form it takes."""
    server = bucket.server
    return boto3.client(
        "s3",
        endpoint_url=proxy.endpoint,
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=server.secret_access_key,
        region_name=server.region,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            retries={"total_max_attempts": 1},
        ),
    )


def fetch(client: S3Client, bucket: str, *, timeout: float = 5.0) -> tuple[int, dict[str, str], bytes]:
    """GET the object once, with no repetition of any kind."""
    url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": KEY})
    return once("GET", url, timeout=timeout)


def store(client: S3Client, bucket: str) -> int:
    """PUT the body under another key, once. Returns the status."""
    url = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "new"})
    return once("PUT", url, body=BODY)[0]


def once(
    method: str, url: str, *, body: bytes | None = None, timeout: float = 5.0
) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", body=body)
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    finally:
        connection.close()


def test_signed_requests_pass_unchanged_and_are_counted_by_kind(
    proxy: Proxy, client: S3Client, source_bucket: Bucket
) -> None:
    bucket = source_bucket.name
    big = b"x" * (6 * 1024 * 1024)
    client.put_object(Bucket=bucket, Key="new", Body=BODY, ContentType="image/png", Metadata={"a": "b"})
    reply = client.get_object(Bucket=bucket, Key="new")
    client.head_object(Bucket=bucket, Key="new")
    listed = client.list_objects_v2(Bucket=bucket)
    client.copy_object(Bucket=bucket, Key="copied", CopySource={"Bucket": bucket, "Key": "new"})
    upload = client.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    part = client.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, Body=big)
    client.complete_multipart_upload(
        Bucket=bucket,
        Key="parts",
        UploadId=upload,
        MultipartUpload={"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]},
    )
    client.delete_object(Bucket=bucket, Key="copied")

    assert (reply["Body"].read(), reply["ContentType"]) == (BODY, "image/png")
    # The server capitalizes the names of metadata.
    assert {name.lower(): value for name, value in reply["Metadata"].items()} == {"a": "b"}
    assert {entry["Key"] for entry in listed["Contents"]} == {KEY, "new"}
    assert source_bucket.client.get_object(Bucket=bucket, Key="parts")["Body"].read() == big
    assert proxy.counts() == {
        ("PUT", Kind.PUT): 1,
        ("GET", Kind.GET): 1,
        ("HEAD", Kind.HEAD): 1,
        ("GET", Kind.LIST): 1,
        ("PUT", Kind.COPY): 1,
        ("POST", Kind.CREATE_UPLOAD): 1,
        ("PUT", Kind.UPLOAD_PART): 1,
        ("POST", Kind.COMPLETE_UPLOAD): 1,
        ("DELETE", Kind.DELETE): 1,
    }
    assert sum(1 for request in proxy.requests if request.kind.multipart) == 3
    assert proxy.count(Kind.GET, key="^new$") == 1
    proxy.forget()
    assert proxy.requests == ()


def test_an_answer_of_the_proxys_own_does_not_reach_the_server(
    proxy: Proxy, client: S3Client, source_bucket: Bucket
) -> None:
    proxy.set_rules(Rule(Answer(429, "SlowDown", retry_after=7), kinds=frozenset({Kind.GET})))
    status, headers, body = fetch(client, source_bucket.name)
    assert (status, headers["retry-after"]) == (429, "7")
    assert b"<Code>SlowDown</Code>" in body


def test_a_success_can_hold_an_error(proxy: Proxy, client: S3Client, source_bucket: Bucket) -> None:
    proxy.set_rules(Rule(Answer(200, "InternalError")))
    with pytest.raises(ClientError, match="InternalError"):
        client.copy_object(Bucket=source_bucket.name, Key="c", CopySource={"Bucket": source_bucket.name, "Key": KEY})


@pytest.mark.parametrize("when", list(When))
def test_a_reset_loses_the_request_or_only_its_reply(
    proxy: Proxy, client: S3Client, source_bucket: Bucket, when: When
) -> None:
    proxy.set_rules(Rule(Reset(when)))
    with pytest.raises(ConnectionError):
        fetch(client, source_bucket.name)
    with pytest.raises(ConnectionError):
        store(client, source_bucket.name)

    def is_stored() -> bool:
        page = source_bucket.client.list_objects_v2(Bucket=source_bucket.name)
        return "new" in [entry["Key"] for entry in page["Contents"]]

    # rclone shows half an object for a short time, until it knows that no more comes.
    wait_until(lambda: is_stored() == (when is When.AFTER))


def test_a_body_can_be_cut_short_of_its_announced_length(proxy: Proxy, client: S3Client, source_bucket: Bucket) -> None:
    proxy.set_rules(Rule(Cut(100)))
    with pytest.raises(http.client.IncompleteRead) as error:
        fetch(client, source_bucket.name)
    assert error.value.partial == BODY[:100]


def test_a_body_can_be_cut_without_a_sign(proxy: Proxy, client: S3Client, source_bucket: Bucket) -> None:
    proxy.set_rules(Rule(Cut(100, announced=False)))
    status, headers, body = fetch(client, source_bucket.name)
    assert (status, body, "content-length" in headers) == (200, BODY[:100], False)


def test_one_byte_can_be_flipped_on_either_way(proxy: Proxy, client: S3Client, source_bucket: Bucket) -> None:
    proxy.set_rules(Rule(Flip(5), kinds=frozenset({Kind.GET})), Rule(Flip(6, request=True)))
    _, _, body = fetch(client, source_bucket.name)
    assert [at for at, (one, other) in enumerate(zip(body, BODY, strict=True)) if one != other] == [5]
    assert store(client, source_bucket.name) == 200
    stored = source_bucket.client.get_object(Bucket=source_bucket.name, Key="new")["Body"].read()
    assert [at for at, (one, other) in enumerate(zip(stored, BODY, strict=True)) if one != other] == [6]


def test_one_bit_can_be_flipped_behind_a_text(proxy: Proxy, client: S3Client, source_bucket: Bucket) -> None:
    rule = Rule(Flip(2, bits=1, behind=b"<Key>"), kinds=frozenset({Kind.LIST}))
    proxy.set_rules(rule)
    url = client.generate_presigned_url("list_objects_v2", Params={"Bucket": source_bucket.name})
    assert b"<Key>meeia_attachments/" in once("GET", url)[2]
    assert (proxy.used[rule], proxy.injected) == (1, 1)


def test_a_flip_that_finds_nothing_to_damage_does_not_count(
    proxy: Proxy, client: S3Client, source_bucket: Bucket
) -> None:
    rules = [Rule(flip, times=1) for flip in (Flip(len(BODY)), Flip(behind=b"no such text"))]
    proxy.set_rules(*rules)
    assert [fetch(client, source_bucket.name)[2] for _ in rules] == [BODY, BODY]
    assert ([proxy.used[rule] for rule in rules], proxy.injected) == ([0, 0], 0)


@pytest.mark.parametrize("fault", [Stall(), Stall(100)])
def test_a_reply_can_stop_with_the_connection_open(
    proxy: Proxy, client: S3Client, source_bucket: Bucket, fault: Fault
) -> None:
    proxy.set_rules(Rule(fault))
    with pytest.raises(TimeoutError):
        fetch(client, source_bucket.name, timeout=0.5)


def test_a_trickle_outlasts_the_timeout_of_a_read(proxy: Proxy, client: S3Client, source_bucket: Bucket) -> None:
    proxy.set_rules(Rule(Trickle(5.0)))
    errors: list[Exception] = []

    def read() -> None:
        try:
            fetch(client, source_bucket.name, timeout=0.5)
        except Exception as error:  # noqa: BLE001  (handed to the test's thread)
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(1.5)
    assert thread.is_alive()
    proxy.close_connections()
    thread.join(5)
    assert [type(error) for error in errors] == [http.client.IncompleteRead]


@pytest.mark.parametrize("etag", ["0" * 32, None])
def test_an_etag_can_be_wrong_or_absent(
    proxy: Proxy, client: S3Client, source_bucket: Bucket, etag: str | None
) -> None:
    proxy.set_rules(Rule(WrongEtag(etag)))
    _, headers, body = fetch(client, source_bucket.name)
    assert (headers.get("etag"), body) == (etag and f'"{etag}"', BODY)


def test_no_body_follows_the_head_of_a_reply_that_names_no_length(
    proxy: Proxy, client: S3Client, source_bucket: Bucket
) -> None:
    proxy.set_rules(Rule(NewHeaders((("content-length", None),))))
    url = urlsplit(client.generate_presigned_url("head_object", Params={"Bucket": source_bucket.name, "Key": KEY}))
    request = f"HEAD {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode()
    received = b""
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=5.0) as connection:
        for replies in (1, 2):
            connection.sendall(request)
            while received.count(b"\r\n\r\n") < replies:
                received += connection.recv(65536)
    first, second, rest = received.split(b"\r\n\r\n")
    assert (first[:12], second[:12], rest) == (b"HTTP/1.1 200", b"HTTP/1.1 200", b"")


def test_rules_count_altogether_or_per_key(proxy: Proxy, client: S3Client, source_bucket: Bucket) -> None:
    proxy.set_rules(Rule(Answer(503), kinds=frozenset({Kind.GET}), skip=1, times=2))
    assert [fetch(client, source_bucket.name)[0] for _ in range(4)] == [200, 503, 503, 200]
    proxy.set_rules(Rule(Answer(503), key="original", times=1, per_key=True))
    assert [fetch(client, source_bucket.name)[0] for _ in range(3)] == [503, 200, 200]


def test_chance_depends_on_the_seed_alone(source_bucket: Bucket) -> None:
    source_bucket.client.put_object(Bucket=source_bucket.name, Key=KEY, Body=BODY)
    outcomes = []
    for seed in (1, 1, 2):
        with s3_proxy(source_bucket.server.endpoint, Rule(Answer(503), probability=0.5), seed=seed) as proxy:
            client = through(proxy, source_bucket)
            outcomes.append([fetch(client, source_bucket.name)[0] for _ in range(20)])
    assert outcomes[0] == outcomes[1] != outcomes[2]
    assert set(outcomes[0]) == {200, 503}


def test_requests_are_held_until_the_rules_are_replaced(proxy: Proxy, client: S3Client, source_bucket: Bucket) -> None:
    proxy.set_rules(Rule(Hold(), skip=1))
    statuses: list[int] = [fetch(client, source_bucket.name)[0]]
    held = threading.Thread(target=lambda: statuses.append(fetch(client, source_bucket.name)[0]))
    held.start()
    wait_until(lambda: proxy.in_flight == 1)
    held.join(0.3)
    assert statuses == [200]
    proxy.set_rules()
    held.join()
    assert statuses == [200, 200]


def test_a_delay_adds_to_other_rules_and_requests_in_flight_are_counted(
    proxy: Proxy, client: S3Client, source_bucket: Bucket
) -> None:
    proxy.set_rules(Rule(Delay(0.3)), Rule(Answer(404, "NoSuchKey")))
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(fetch(client, source_bucket.name)[0])) for _ in range(4)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [404] * 4
    assert time.monotonic() - started >= 0.3
    # The proxy counts a request out shortly after the client has its answer.
    while proxy.in_flight and time.monotonic() - started < 30:
        time.sleep(0.01)
    assert (proxy.most_in_flight, proxy.in_flight) == (4, 0)
