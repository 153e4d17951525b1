"""The client against real servers: any key, any header, any answer."""

from __future__ import annotations

import gc
import hashlib
import os
import socket
import threading
import time
import weakref
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.demo.servers.start import LOOPBACK
from mastosync_dagster.s3.client import BucketAddress, Client, S3Error
from mastosync_dagster.s3.http import BytesSource, Failure, Reply, Transport, TransportError
from mastosync_dagster.s3.listing import NotXmlError, parse_page
from mastosync_dagster.s3.loop import Loop
from mastosync_dagster.s3.signing import Credentials
from mastosync_dagster_tests.support.answers import answering
from mastosync_dagster_tests.support.tls import tls_server

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path
    from typing import Any

    from mastosync_dagster.s3.http import Reply
    from mastosync_dagster_tests.support.corners import Bucket

PLAIN_KEYS = [
    "plain.png",
    "a b+c%20d.png",
    "ünï.png",
    "u\u0308.png",
    "q?h#i&k=v.png",
    "trail ",
    "semi;colon:@$,=.png",
    "quote'\"<>.png",
    "~*()!.png",
    "pipe|^{}[]`.png",
    "日本語/😀.png",
    ".lead/.x",
]
ODD_KEYS = ["a//b.png", "x/./y.png", "x/../y.png", "/a.png", "back\\slash.png", "tab\tkey.png"]
BODY = b"a body" * 100
MD5 = hashlib.md5(BODY, usedforsecurity=False)


@pytest.fixture
def loop() -> Iterator[Loop]:
    running = Loop("test")
    yield running
    running.close()


def client_of(
    loop: Loop, bucket: Bucket, *, endpoint: str | None = None, before_host: str = "", silence: float = 10.0
) -> Client:
    server = bucket.server
    return Client(
        loop,
        BucketAddress(endpoint or server.endpoint, before_host or bucket.name, path_style=not before_host),
        Transport(),
        region="us-east-1",
        credentials=lambda: Credentials(server.access_key_id, server.secret_access_key),
        silence=silence,
        write_silence=silence,
    )


@pytest.mark.parametrize("key", PLAIN_KEYS)
def test_a_key_of_any_characters_arrives_and_comes_back(loop: Loop, source_bucket: Bucket, key: str) -> None:
    assert_comes_back(client_of(loop, source_bucket), loop, key)


@pytest.mark.parametrize("key", [*PLAIN_KEYS, *ODD_KEYS])
def test_also_where_a_server_takes_any_key(loop: Loop, moto_bucket: Bucket, key: str) -> None:
    assert_comes_back(client_of(loop, moto_bucket), loop, key)


def assert_comes_back(client: Client, loop: Loop, key: str) -> None:
    headers = {"Content-Type": "image/png", "x-amz-meta-x": "two  blanks"}
    reply = loop.run(client.put(key, BODY, headers, MD5.digest()))
    assert reply.headers["etag"].strip('"') == MD5.hexdigest()
    reply = loop.run(client.get(key, limit=10_000))
    assert (reply.body, reply.headers["content-type"]) == (BODY, "image/png")
    assert [entry.key for entry in loop.run(client.list_page("", keys=10)).entries] == [key]
    loop.run(client.delete(key))
    with pytest.raises(S3Error) as raised:
        loop.run(client.get(key, limit=10_000))
    assert (raised.value.status, raised.value.code) == (404, "NoSuchKey")


def test_a_body_that_is_not_the_one_of_its_md5_is_refused_and_not_stored(loop: Loop, source_bucket: Bucket) -> None:
    client = client_of(loop, source_bucket)
    with pytest.raises(S3Error) as raised:
        loop.run(client.put("a", b"damaged", {}, MD5.digest()))
    assert raised.value.code == "BadDigest"
    with pytest.raises(S3Error):
        loop.run(client.head("a"))


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, 1024 * 1024 + 1, 6 * 1024 * 1024])
def test_bodies_of_any_size_go_and_come(loop: Loop, source_bucket: Bucket, size: int) -> None:
    client, body = client_of(loop, source_bucket), os.urandom(size)
    loop.run(client.put("a", body, {}, hashlib.md5(body, usedforsecurity=False).digest()))
    assert loop.run(client.get("a", limit=size)).body == body


def test_a_body_above_the_limit_is_not_taken_and_a_refusal_is_read_whatever_the_limit(
    loop: Loop, source_bucket: Bucket
) -> None:
    client = client_of(loop, source_bucket)
    loop.run(client.put("a", BODY * 1000, {}, None))
    with pytest.raises(TransportError) as raised:
        loop.run(client.get("a", limit=100_000))
    assert raised.value.failure is Failure.TOO_LARGE
    with pytest.raises(S3Error) as refused:
        loop.run(client.get("absent", limit=1))
    assert refused.value.code == "NoSuchKey"


def test_pages_follow_upon_each_other(loop: Loop, source_bucket: Bucket) -> None:
    client = client_of(loop, source_bucket)
    for number in range(7):
        loop.run(client.put(f"a/{number}", b"", {}, None))
    seen: list[str] = []
    token = None
    while True:
        page = loop.run(client.list_page("a/", after="a/0", token=token, keys=2))
        seen += [entry.key for entry in page.entries]
        token = page.token
        if not page.truncated:
            break
    assert seen == [f"a/{number}" for number in range(1, 7)]


def test_an_answer_without_a_length_and_with_raw_utf_8_in_its_headers_is_an_answer(
    loop: Loop, source_bucket: Bucket
) -> None:
    head = 'HTTP/1.1 200 OK\r\nConnection: close\r\nX-Amz-Meta-Name: größe\r\nETag: W/"ABC"\r\n\r\n'
    with answering(head.encode() + BODY) as endpoint:
        reply = loop.run(client_of(loop, source_bucket, endpoint=endpoint).get("a", limit=10_000))
    assert (reply.body, reply.headers["x-amz-meta-name"]) == (BODY, "größe")


def test_a_body_that_breaks_off_is_a_broken_connection(loop: Loop, source_bucket: Bucket) -> None:
    with (
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfew") as endpoint,
        pytest.raises(TransportError) as raised,
    ):
        loop.run(client_of(loop, source_bucket, endpoint=endpoint).get("a", limit=10_000))
    assert (raised.value.failure, raised.value.reached) == (Failure.BROKEN, True)


def test_what_speaks_no_http_is_recognised(loop: Loop, source_bucket: Bucket) -> None:
    with answering(b"SSH-2.0-OpenSSH_9.2\r\n") as endpoint, pytest.raises(TransportError) as raised:
        loop.run(client_of(loop, source_bucket, endpoint=endpoint).get("a", limit=10_000))
    assert raised.value.failure in {Failure.NOT_HTTP, Failure.BROKEN}


def test_a_redirect_is_reported_and_not_followed(loop: Loop, source_bucket: Bucket) -> None:
    answer = b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/elsewhere\r\nContent-Length: 0\r\n\r\n"
    with answering(answer) as endpoint, pytest.raises(S3Error) as raised:
        loop.run(client_of(loop, source_bucket, endpoint=endpoint).put("a", BODY, {}, None))
    assert (raised.value.status, raised.value.location) == (307, "http://127.0.0.1:1/elsewhere")


def test_an_error_inside_a_success_is_an_error(loop: Loop, source_bucket: Bucket) -> None:
    error = b"<Error><Code>InternalError</Code><Message>too late</Message></Error>"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(error), error)
    requests: list[Callable[[Client], Coroutine[Any, Any, object]]] = [
        lambda client: client.list_page("", keys=1),
        lambda client: client.complete_upload("a", "id", ["x"]),
        lambda client: client.copy("b", "a", "c", {}),
        lambda client: client.put_acl("a", "private"),
        lambda client: client.delete("a"),
    ]
    for request in requests:
        with answering(answer) as endpoint, pytest.raises(S3Error) as raised:
            loop.run(request(client_of(loop, source_bucket, endpoint=endpoint)))
        assert (raised.value.code, raised.value.text) == ("InternalError", "too late")


def test_a_page_in_the_place_of_an_answer_does_not_say_that_something_was_done(
    loop: Loop, source_bucket: Bucket
) -> None:
    page = b"<html><body>Back soon.</body></html>"
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page)
    requests: list[Callable[[Client], Coroutine[Any, Any, object]]] = [
        lambda client: client.complete_upload("a", "id", ["x"]),
        lambda client: client.copy("b", "a", "c", {}),
        lambda client: client.put_acl("a", "private"),
        lambda client: client.delete("a"),
    ]
    for request in requests:
        with answering(answer) as endpoint, pytest.raises(NotXmlError, match="a page in HTML"):
            loop.run(request(client_of(loop, source_bucket, endpoint=endpoint)))


@pytest.mark.timeout(60)
def test_of_a_long_refusal_little_is_kept(loop: Loop, source_bucket: Bucket) -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 20000000\r\n\r\n" + bytes(20_000_000)

    class Nothing:
        def begin(self, _curl: object, reply: Reply) -> bool:
            return reply.status == 200

        def write(self, _data: bytes) -> int | None:
            raise AssertionError("there is no object")

    with answering(answer) as endpoint, pytest.raises(S3Error) as raised:
        loop.run(client_of(loop, source_bucket, endpoint=endpoint).get("a", limit=2**62, sink=Nothing()))
    assert raised.value.status == 404
    assert len(raised.value.reply.body) < 1_000_000


@pytest.mark.parametrize(
    "body",
    [
        b'<!DOCTYPE x [<!ENTITY a "b">]><ListBucketResult>&a;</ListBucketResult>',
        '<?xml version="1.0" encoding="UTF-16"?><ListBucketResult/>'.encode("utf-16"),
        b"<html><body>Welcome</body></html>",
        b"",
        b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
    ],
    ids=["entities", "another encoding", "a page", "nothing", "no size"],
)
def test_what_is_no_listing_is_not_taken_for_one(body: bytes) -> None:
    with pytest.raises(NotXmlError):
        parse_page(body)


def test_silence_ends_a_request(loop: Loop, source_bucket: Bucket) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        endpoint = f"http://{LOOPBACK}:{server.getsockname()[1]}"
        client = client_of(loop, source_bucket, endpoint=endpoint, silence=1.0)
        with pytest.raises(TransportError) as raised:
            loop.run(client.get("a", limit=1))
    assert (raised.value.failure, raised.value.reached) == (Failure.TIMEOUT, True)


def test_a_kept_connection_that_falls_silent_is_no_name_that_cannot_be_resolved(
    loop: Loop, source_bucket: Bucket
) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                connection.recv(65536)
                time.sleep(5)

        threading.Thread(target=serve, daemon=True).start()
        endpoint = f"http://{LOOPBACK}:{server.getsockname()[1]}"
        client = client_of(loop, source_bucket, endpoint=endpoint, silence=1.0)
        loop.run(client.get("a", limit=1))
        with pytest.raises(TransportError) as raised:
            loop.run(client.get("a", limit=1))
    assert (raised.value.failure, raised.value.reached) == (Failure.TIMEOUT, True)


class _Kept(BaseHTTPRequestHandler):
    """Answers over connections that are kept."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def client_at(loop: Loop, endpoint: str, transport: Transport) -> Client:
    return Client(
        loop,
        BucketAddress(endpoint, "bucket"),
        transport,
        region="us-east-1",
        credentials=lambda: Credentials("id", "secret"),
        silence=5.0,
        write_silence=5.0,
    )


def test_a_forked_process_leaves_the_connections_of_its_parent_alone(loop: Loop, tmp_path: Path) -> None:
    connections: list[object] = []

    class Counted(_Kept):
        def setup(self) -> None:
            connections.append(self.client_address)
            super().setup()

    with tls_server(tmp_path, Counted) as (endpoint, certificate):
        client = client_at(loop, endpoint, Transport(ca_file=str(certificate)))
        assert loop.run(client.get("a", limit=10)).body == b"ok"
        child = os.fork()
        if child == 0:
            os._exit(len(loop.run(client.get("a", limit=10)).body))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        assert loop.run(client.get("a", limit=10)).body == b"ok"
        loop.close()
    assert len(connections) == 2


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE", None])
def test_a_private_ca_is_the_one_that_the_aws_tools_and_openssl_use(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    with tls_server(tmp_path, _Kept) as (endpoint, certificate):
        if variable is None:
            with pytest.raises(TransportError) as raised:
                loop.run(client_at(loop, endpoint, Transport()).get("a", limit=10))
            assert raised.value.failure is Failure.CERTIFICATE
            reply = loop.run(client_at(loop, endpoint, Transport(verify=False)).get("a", limit=10))
        else:
            monkeypatch.setenv(variable, str(certificate))
            reply = loop.run(client_at(loop, endpoint, Transport()).get("a", limit=10))
        loop.close()
    assert reply.body == b"ok"


@pytest.mark.parametrize("exempt", ["127.0.0.0/8", "127.0.0.1", "*", None])
def test_a_proxy_is_asked_but_for_what_no_proxy_names(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exempt: str | None
) -> None:
    for name in ("https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    if exempt is not None:
        monkeypatch.setenv("NO_PROXY", exempt)
    with tls_server(tmp_path, _Kept) as (endpoint, certificate):
        client = client_at(loop, endpoint, Transport(ca_file=str(certificate)))
        if exempt is None:
            with pytest.raises(TransportError) as raised:
                loop.run(client.get("a", limit=10))
            assert raised.value.failure is Failure.CONNECT
        else:
            assert loop.run(client.get("a", limit=10)).body == b"ok"
        loop.close()


def test_the_host_is_signed_as_it_is_sent(loop: Loop, source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", source_bucket.server.endpoint)  # so no name is looked up
    client = client_of(loop, source_bucket, endpoint="http://S3.Example.test")
    loop.run(client.put("A", BODY, {}, None))
    assert loop.run(client.get("A", limit=10_000)).body == BODY
    with pytest.raises(S3Error) as raised:
        loop.run(
            client_of(loop, source_bucket, endpoint="http://s3.example.test", before_host="Media").get("A", limit=1)
        )
    assert raised.value.code == "NoSuchBucket"


def test_what_was_sent_is_not_kept(loop: Loop, source_bucket: Bucket) -> None:
    client = client_of(loop, source_bucket)
    sources = [BytesSource(b"x" * 2_000_000) for _ in range(3)]
    kept = [weakref.ref(source) for source in sources]
    for number, source in enumerate(sources):
        loop.run(client.put(f"a{number}", source, {}, None))
    del sources, source
    gc.collect()
    assert [reference() for reference in kept] == [None] * 3


def test_an_object_that_a_sink_does_not_want_is_not_kept(loop: Loop, source_bucket: Bucket) -> None:
    class Unwilling:
        def begin(self, _curl: object, _reply: Reply) -> bool:
            return False

        def write(self, _data: bytes) -> None:
            pytest.fail("it was not wanted")

    client = client_of(loop, source_bucket)
    loop.run(client.put("a", b"x" * 5_000_000, {}, None))
    with pytest.raises(TransportError) as raised:
        loop.run(client.get("a", limit=2**40, sink=Unwilling()))
    assert raised.value.status == 200


def test_no_secret_is_shown() -> None:
    assert "hidden" not in repr(Credentials("id", "hidden", "hidden"))
