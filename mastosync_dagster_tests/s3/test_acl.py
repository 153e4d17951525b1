"""ACLs are set where there are some, and no object is touched where there are none."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.demo.servers.start import LOOPBACK
from mastosync_dagster.s3.acl import everybody_reads, is_public, set_acl
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster_tests.support.proxy import Kind, Rule, TakenForBody, s3_proxy
from mastosync_dagster_tests.support.transfers import storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mastosync_dagster.s3.storage import Storage
    from mastosync_dagster_tests.support.corners import Bucket

HALT = threading.Event()


@pytest.mark.parametrize("body", [b"", b"a picture", b"<svg/>"])
def test_an_object_on_a_server_that_takes_an_acl_for_a_body_stays_as_it_is(
    destination_bucket: Bucket, body: bytes
) -> None:
    client, bucket = destination_bucket.client, destination_bucket.name
    client.put_object(Bucket=bucket, Key="a.png", Body=body, ContentType="image/png")
    destination = storage(destination_bucket, "destination", permission="public-read")
    asks: tuple[Callable[[], object], ...] = (
        lambda: set_acl(destination, "a.png", private=True, halt=HALT),
        lambda: set_acl(destination, "a.png", private=False, halt=HALT),
        lambda: is_public(destination, "a.png", HALT),
    )
    for ask in asks:
        with pytest.raises(StorageError, match="Leave DESTINATION_S3_PERMISSION empty") as message:
            ask()
        assert message.value.permanent
    found = client.get_object(Bucket=bucket, Key="a.png")
    assert (found["Body"].read(), found["ContentType"]) == (body, "image/png")


def test_an_acl_is_set_and_read(moto_bucket: Bucket) -> None:
    moto_bucket.client.put_object(Bucket=moto_bucket.name, Key="a.png", Body=b"a picture")
    destination = storage(moto_bucket, "destination", permission="public-read")
    for private in (False, True, False):
        set_acl(destination, "a.png", private=private, halt=HALT)
        assert is_public(destination, "a.png", HALT) is not private


def test_an_object_that_is_gone_is_not_found(moto_bucket: Bucket) -> None:
    destination = storage(moto_bucket, "destination", permission="public-read")
    with pytest.raises(StorageError) as message:
        set_acl(destination, "gone.png", private=True, halt=HALT)
    assert not message.value.permanent


@pytest.fixture
def emptying(moto_bucket: Bucket) -> Iterator[Storage]:
    """A storage that shows ACLs rightly, and takes what sets one for a new body."""
    with s3_proxy(moto_bucket.server.endpoint, Rule(TakenForBody(), kinds=frozenset({Kind.OTHER}))) as proxy:
        yield storage(moto_bucket, "destination", endpoint=proxy.endpoint, permission="public-read")


def test_an_acl_that_empties_an_object_is_noticed_at_the_first_one(moto_bucket: Bucket, emptying: Storage) -> None:
    keys = [f"{number}.png" for number in range(40)]
    for key in keys:
        moto_bucket.client.put_object(Bucket=moto_bucket.name, Key=key, Body=b"a picture", ACL="public-read")

    def attempt(key: str) -> None:
        with pytest.raises(StorageError, match="Set DESTINATION_S3_PERMISSION to an empty text") as message:
            set_acl(emptying, key, private=True, halt=HALT)
        assert message.value.permanent

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(attempt, keys))
    listed = moto_bucket.client.list_objects_v2(Bucket=moto_bucket.name)["Contents"]
    assert sorted(entry["Size"] for entry in listed) == [0, *[9] * 39]


def test_an_object_that_is_empty_anyway_does_not_show_that_acls_empty_objects(
    moto_bucket: Bucket, emptying: Storage
) -> None:
    moto_bucket.client.put_object(Bucket=moto_bucket.name, Key="empty", Body=b"", ACL="public-read")
    moto_bucket.client.put_object(Bucket=moto_bucket.name, Key="a.png", Body=b"a picture", ACL="public-read")
    set_acl(emptying, "empty", private=True, halt=HALT)
    with pytest.raises(StorageError, match="DESTINATION_S3_PERMISSION"):
        set_acl(emptying, "a.png", private=True, halt=HALT)


@pytest.mark.parametrize(("status", "public"), [(403, False), (404, False), (200, True), (503, None), (429, None)])
def test_a_long_page_that_refuses_does_not_let_everybody_read(
    moto_bucket: Bucket, status: int, *, public: bool | None
) -> None:
    class Wordy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "200000")
            self.end_headers()
            with contextlib.suppress(OSError):  # whoever asked has heard enough
                self.wfile.write(b"x" * 200_000)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer((LOOPBACK, 0), Wordy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        source = storage(moto_bucket, "source", endpoint=f"http://{LOOPBACK}:{server.server_address[1]}")
        try:
            if public is None:
                with pytest.raises(StorageError):
                    everybody_reads(source, "a.png", HALT)
            else:
                assert everybody_reads(source, "a.png", HALT) is public
        finally:
            server.shutdown()
            thread.join()


def test_where_acls_leave_objects_whole_only_the_first_is_looked_at(moto_bucket: Bucket) -> None:
    for number in range(5):
        moto_bucket.client.put_object(
            Bucket=moto_bucket.name, Key=f"{number}.png", Body=b"a picture", ACL="public-read"
        )
    with s3_proxy(moto_bucket.server.endpoint) as proxy:
        destination = storage(moto_bucket, "destination", endpoint=proxy.endpoint, permission="public-read")
        for number in range(5):
            set_acl(destination, f"{number}.png", private=True, halt=HALT)
        assert proxy.count(Kind.HEAD) == 2
