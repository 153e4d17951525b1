"""Header fields and user metadata are two things, whatever they are named; a transport word is neither."""

from __future__ import annotations

import os
import threading
import uuid
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from moto.s3.models import FakeKey
from moto.server import ThreadedMotoServer

from mastosync_dagster.demo.servers.start import LOOPBACK, S3Server, boto3_client
from mastosync_dagster.plan.items import ExpectedObject
from mastosync_dagster.records.findings import Finding
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.s3.headers import Attributes
from mastosync_dagster.s3.storage import ListedObject
from mastosync_dagster.verify.object_checks import Comparison, ObjectCheck, ObjectChecker
from mastosync_dagster.verify.settings import AuditSettings
from mastosync_dagster_tests.support.corners import Bucket
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule, s3_proxy
from mastosync_dagster_tests.support.transfers import FAST, Transfer, storage

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
LARGE = os.urandom(9 * MIB)
HEADERS = {"ContentType": "image/png", "CacheControl": "public, immutable", "ContentDisposition": "inline"}
NAMED_LIKE_HEADERS = {
    "content-type": "text/html",
    "cache-control": "no-store",
    "content-disposition": "attachment",
    "content-encoding": "gzip",
    "content-language": "tlh",
    "storage-class": "GLACIER",
    "contenttype": "text/plain",
    "expires": "never",
    "x-amz-acl": "public-read-write",
    "color": "red",
}
OTHER_CREDENTIALS = {"access_key_id": "another"}
"""Of the source: so source and destination are no longer one server, and bodies are streamed."""


def store_verbatim(key: FakeKey, metadata: Any, replace: bool = False) -> None:  # noqa: FBT001, FBT002  (as moto has it)
    """Keep Content-Encoding as it came: moto alone takes ``aws-chunked`` out, some servers do not."""
    if replace:
        key._metadata = {}  # type: ignore[assignment]  # moto says the same, and ignores it too
    key._metadata.update(metadata)


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    """A server that keeps all header fields and metadata as they come."""
    server = ThreadedMotoServer(ip_address=LOOPBACK, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeKey, "set_metadata", store_verbatim)
        yield S3Server(
            endpoint=f"http://{host}:{port}",
            access_key_id="id",
            secret_access_key="secret",
            pid=0,
            log=Path(os.devnull),
        )
    server.stop()


@pytest.fixture
def transfer(tmp_path: Path, moto: S3Server) -> Transfer:
    client = boto3_client(moto)
    source, destination = (Bucket(moto, f"test-{uuid.uuid4().hex[:12]}", client) for _ in range(2))
    for bucket in (source, destination):
        client.create_bucket(Bucket=bucket.name)
    return Transfer(tmp_path, source, destination, settings=replace(FAST, large_object_mb=8))


def as_stored(transfer: Transfer, key: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the header fields that the copy has, of those in question, and its metadata."""
    reply = transfer.destination.client.head_object(Bucket=transfer.destination.name, Key=key)
    names = (*HEADERS, "ContentEncoding", "ContentLanguage", "StorageClass")
    return {name: reply[name] for name in names if name in reply}, reply["Metadata"]  # type: ignore[literal-required]  # boto3's own names


@dataclass(frozen=True)
class Way:
    """A way that an object takes.

    Attributes:
        body: Its body.
        key: Its key.
        source: Options of the source.
        destination: Options of the destination.
        throttled: The first requests to both storages are refused.
        on_server: The server copies by itself.
    """

    body: bytes = b"body"
    key: str = "media/a.png"
    source: dict[str, Any] = field(default_factory=lambda: OTHER_CREDENTIALS)
    destination: dict[str, Any] = field(default_factory=dict)
    throttled: bool = False
    on_server: bool = False


WAYS = {
    "in memory": Way(),
    "with a storage class": Way(destination={"storage_class": "STANDARD_IA"}),
    "in parts": Way(body=LARGE),
    "with an odd key": Way(key="media//a.png"),
    "after throttling": Way(throttled=True),
    "by the server": Way(source={}, on_server=True),
    "by the server, with a storage class": Way(source={}, on_server=True, destination={"storage_class": "STANDARD_IA"}),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("content_encoding", [None, "br"])
def test_metadata_named_like_a_header_stays_metadata(
    transfer: Transfer, way: Way, content_encoding: str | None
) -> None:
    headers = HEADERS | ({"ContentEncoding": content_encoding} if content_encoding else {})
    transfer.source_options, transfer.destination_options = dict(way.source), dict(way.destination)
    with s3_proxy(transfer.source.server.endpoint) as proxy:
        if way.throttled:
            transfer.source_options["endpoint"] = transfer.destination_options["endpoint"] = proxy.endpoint
            refused = frozenset({Kind.GET, Kind.PUT})
            proxy.set_rules(*(Rule(Answer(503, "SlowDown"), kinds=frozenset({kind}), times=1) for kind in refused))
        planned = transfer.put(way.key, way.body, Metadata=NAMED_LIKE_HEADERS, **headers)
        counts, lines = transfer.run(planned)
    assert (lines[0].outcome, counts.copied_on_server) == (Outcome.COPIED, int(way.on_server))
    storage_class = {"StorageClass": way.destination["storage_class"]} if way.destination else {}
    assert as_stored(transfer, way.key) == ({**headers, **storage_class}, NAMED_LIKE_HEADERS)


@pytest.mark.parametrize("key", ["media/a.png", "media//a.png"])
def test_the_sources_storage_class_is_not_taken_over(transfer: Transfer, key: str) -> None:
    transfer.source_options = dict(OTHER_CREDENTIALS)
    transfer.run(transfer.put(key, b"body", StorageClass="STANDARD_IA", Metadata={"storage-class": "x"}, **HEADERS))
    assert as_stored(transfer, key) == (HEADERS, {"storage-class": "x"})


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("stored", "kept"),
    [
        ("aws-chunked", None),
        ("AWS-Chunked", None),
        ("aws-chunked,gzip", "gzip"),
        (" gzip ,  aws-chunked ", "gzip"),
        ("aws-chunked, ", None),
        ("br, aws-chunked, gzip", "br, gzip"),
    ],
)
def test_a_transport_word_is_not_copied(transfer: Transfer, way: Way, stored: str, kept: str | None) -> None:
    transfer.source_options, transfer.destination_options = dict(way.source), dict(way.destination)
    planned = transfer.put(way.key, way.body, ContentEncoding=stored, Metadata={"content-encoding": "aws-chunked"})
    found = transfer.source.client.head_object(Bucket=transfer.source.name, Key=way.key)
    assert found["ContentEncoding"].strip() == stored.strip()
    counts, lines = transfer.run(planned)
    # Where the server copies by itself it keeps the word: such an object is streamed instead.
    assert (lines[0].outcome, counts.copied, counts.copied_on_server) == (Outcome.COPIED, 1, 0)
    headers, metadata = as_stored(transfer, way.key)
    assert (headers.get("ContentEncoding"), metadata) == (kept, {"content-encoding": "aws-chunked"})
    assert transfer.fetched(way.key) == way.body


def test_the_server_goes_on_copying_by_itself_beside_such_an_object(transfer: Transfer) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(20)]
    planned.append(transfer.put("a/20", b"body", ContentEncoding="aws-chunked"))
    counts, _ = transfer.run(*planned)
    assert (counts.copied, counts.copied_on_server) == (21, 20)


def compared(transfer: Transfer, key: str) -> tuple[tuple[Finding, str], ...]:
    """Compare an object's header fields and metadata at both storages, as a verification does."""
    storages = storage(transfer.source, "source"), storage(transfer.destination, "destination")
    there = ListedObject(key, 4, None)
    comparison = Comparison(ExpectedObject(key), key, there, there, Finding.EQUAL)
    check = ObjectCheck(comparison, headers=True, acl=False, body=False)
    return ObjectChecker(*storages, AuditSettings()).check(check, threading.Event()).differences


@pytest.mark.parametrize("key", ["a.png", "a//a.png"])
@pytest.mark.parametrize(
    ("here", "there"),
    [("aws-chunked", None), (None, "aws-chunked"), ("gzip", "aws-chunked,gzip"), ("gzip, AWS-CHUNKED", "gzip")],
)
def test_a_transport_word_at_either_storage_is_no_difference(
    transfer: Transfer, key: str, here: str | None, there: str | None
) -> None:
    for bucket, encoding in ((transfer.source, here), (transfer.destination, there)):
        arguments: dict[str, Any] = {"ContentEncoding": encoding} if encoding else {}
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"body", **arguments)
    assert compared(transfer, key) == ()


@pytest.mark.parametrize("key", ["a.png", "a//a.png"])
def test_metadata_and_the_header_that_it_is_named_like_are_compared_each_with_its_own(
    transfer: Transfer, key: str
) -> None:
    for bucket, header, metadata in (
        (transfer.source, "image/png", {"content-type": "text/html"}),
        (transfer.destination, "text/html", {"content-type": "image/png"}),
    ):
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"body", ContentType=header, Metadata=metadata)
    ((finding, detail),) = compared(transfer, key)
    assert finding is Finding.HEADERS_DIFFER
    assert detail == (
        "Content-Type is 'text/html', at the source 'image/png'; "
        "x-amz-meta-content-type is 'image/png', at the source 'text/html'"
    )


class _Capitals(BaseHTTPRequestHandler):
    """Answers HEAD as a server that writes header names in its own way."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        for name, value in (
            ("CONTENT-TYPE", "image/png"),
            ("content-length", "4"),
            ("ETag", '"9dd4e461268c8034f5c8564e155c67a6"'),
            ("Last-Modified", "Sat, 28 Nov 2026 11:27:10 GMT"),
            ("X-AMZ-META-Content-Type", "text/html"),
            ("x-amz-meta-CACHE-CONTROL", "no-store"),
            ("content-ENCODING", "AWS-CHUNKED , br"),
        ):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("key", ["a.png", "a//a.png"])
def test_names_are_distinguished_in_whatever_case_a_server_writes_them(transfer: Transfer, key: str) -> None:
    with ThreadingHTTPServer((LOOPBACK, 0), _Capitals) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = replace(
            transfer.source, server=replace(transfer.source.server, endpoint=f"http://{LOOPBACK}:{server.server_port}")
        )
        found = storage(at, "source").read_attributes(key).to_keep()
        server.shutdown()
    assert found == Attributes(
        {"Content-Type": "image/png", "Content-Encoding": "br"},
        {"content-type": "text/html", "cache-control": "no-store"},
    )
