"""A storage: its listing, its objects, and how it is reached."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import pytest
from moto.s3.models import s3_backends

from mastosync_dagster.demo.servers.start import LOOPBACK, free_port
from mastosync_dagster.s3 import storage as storage_module
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.etags import is_md5
from mastosync_dagster.s3.headers import Attributes, http_date, shown
from mastosync_dagster.s3.listing import KeyRange
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.retry_policies import LISTING
from mastosync_dagster.s3.storage import (
    Storage,
    StorageSettings,
    _before,
    _folder,
    parse_timestamp,
)
from mastosync_dagster_tests.support.answers import answering, serving
from mastosync_dagster_tests.support.proxy import Answer, FirstVersion, Kind, Reset, Rule, s3_proxy
from mastosync_dagster_tests.support.transfers import put_many, storage
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mastosync_dagster_tests.support.corners import Bucket

MD5_OF_X = "9dd4e461268c8034f5c8564e155c67a6"
FILES = "media/files/"


def test_times_without_a_zone_or_out_of_range_are_no_fault() -> None:
    assert parse_timestamp("2024-01-01T00:00:00") == parse_timestamp("2024-01-01T00:00:00Z")
    assert parse_timestamp("9999-12-31T23:59:59-14:00") is None
    assert http_date("Mon, 01 Jan 2024 00:00:00") == http_date("Mon, 01 Jan 2024 00:00:00 GMT")
    assert http_date("Fri, 31 Dec 9999 23:59:59 -1400") is None


def fill(bucket: Bucket, keys: Iterable[str]) -> None:
    put_many(bucket, keys, b"x")


def listed(at: Storage, keys: KeyRange) -> list[str]:
    return [entry.key for entry in at.list_range(keys)]


def shown_by_head(at: Storage, key: str) -> tuple[str, int, str | None] | None:
    found = at.head(key)
    return None if found is None else found[:3]


def whole(prefix: str) -> KeyRange:
    return KeyRange(prefix, prefix, prefix[:-1] + "0")


# Listing


@pytest.mark.long
def test_a_range_includes_its_start_excludes_its_end_and_costs_a_request_per_thousand_keys(
    source_bucket: Bucket,
) -> None:
    keys = [f"{FILES}{number:04d}/a.png" for number in range(2500)]
    fill(source_bucket, [*keys, "media/filez/b.png", "media/a.png"])
    with s3_proxy(source_bucket.server.endpoint) as proxy:
        source = storage(source_bucket, "source", endpoint=proxy.endpoint)
        assert listed(source, whole(FILES)) == keys
        assert proxy.count() == 3
        proxy.forget()
        assert listed(source, KeyRange(FILES, f"{FILES}0100/", f"{FILES}0200/")) == keys[100:200]
        assert listed(source, KeyRange(FILES, keys[100], keys[200])) == keys[100:200]
        assert proxy.count() == 2
        proxy.forget()
        pages = list(source.list_pages(KeyRange(FILES, f"{FILES}3000/", f"{FILES}4000/")))
        assert pages == [[]]
        assert proxy.count() == 1


def page(*keys: str, token: str | None) -> bytes:
    """Return an answer with a page of a listing, which goes on where there is a token."""
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><LastModified>2024-01-01T00:00:00Z</LastModified></Contents>"
        for key in keys
    )
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    truncated = str(token is not None).lower()
    text = f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{more}<KeyCount/>{entries}</ListBucketResult>"
    return f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


def test_behind_an_empty_page_others_may_follow(source_bucket: Bucket) -> None:
    pages = [page(token="1"), page(token="2"), page("m/1", token="3"), page(token="4"), page("m/2", token=None)]
    with answering(*pages) as endpoint:
        assert listed(storage(source_bucket, "source", endpoint=endpoint), whole("m/")) == ["m/1", "m/2"]


def test_a_listing_by_tokens_alone_or_in_another_order_is_read_to_its_end(source_bucket: Bucket) -> None:
    pages = [page("a/1", "m/2", token="1"), page("m/1", token="2"), page("m/3", token=None)]
    with answering(*pages) as endpoint:
        keys = KeyRange("", "m/", "m0")
        assert listed(storage(source_bucket, "source", endpoint=endpoint), keys) == ["m/2", "m/1", "m/3"]


@pytest.mark.parametrize(
    "pages",
    [
        [page(token="1"), page(token="1")],
        [page("m/1", token="1"), page(token="2"), page(token="2")],
        [page("m/1", token="1"), page("m/1", token="2")],
    ],
    ids=["no key", "no further key", "the same key"],
)
def test_a_listing_that_would_never_end_is_an_error(source_bucket: Bucket, pages: list[bytes]) -> None:
    with answering(*pages) as endpoint, pytest.raises(StorageError, match="does not say where"):
        listed(storage(source_bucket, "source", endpoint=endpoint), whole("m/"))


def test_a_listing_shows_size_and_etag_of_each_object_below_the_key_prefix(source_bucket: Bucket) -> None:
    fill(source_bucket, ["some/where/media/files/1", "media/files/2"])
    source = storage(source_bucket, "source", prefix="some/where/")
    (entry,) = source.list_range(whole(FILES))
    assert entry[:3] == ("media/files/1", 1, MD5_OF_X)
    assert source.full_key(entry.key) == "some/where/media/files/1"


def test_the_key_prefix_is_verbatim_text_and_no_folder(source_bucket: Bucket) -> None:
    fill(source_bucket, ["oldmedia/files/1", "old/media/files/2"])
    assert listed(storage(source_bucket, "source", prefix="old"), whole(FILES)) == ["media/files/1"]


def test_a_listing_that_fails_is_repeated(source_bucket: Bucket) -> None:
    fill(source_bucket, [f"{FILES}1"])
    with s3_proxy(source_bucket.server.endpoint, Rule(Answer(503, "SlowDown"), times=2)) as proxy:
        assert listed(storage(source_bucket, "source", endpoint=proxy.endpoint), whole(FILES)) == [f"{FILES}1"]
        assert proxy.count() == 3


@pytest.mark.long(cases=0)
def test_a_server_that_knows_the_first_listing_alone_is_listed_to_its_end(moto_bucket: Bucket) -> None:
    keys = sorted(f"b/{number:04}" for number in range(2100))
    for key in ["a/1", *keys, "c/1"]:
        moto_bucket.client.put_object(Bucket=moto_bucket.name, Key=key, Body=b"")
    with s3_proxy(moto_bucket.server.endpoint, Rule(FirstVersion(), kinds=frozenset({Kind.LIST}))) as proxy:
        source = storage(moto_bucket, "source", endpoint=proxy.endpoint)
        assert listed(source, whole("b/")) == keys
        assert proxy.count(Kind.LIST) == 3
        assert listed(source, KeyRange("b/", "b/1050", "b/2060")) == keys[1050:2060]
        # A client that does not know yet, and begins in the middle.
        other = storage(moto_bucket, "source", endpoint=proxy.endpoint)
        assert listed(other, KeyRange("b/", "b/1050", "b/2060")) == keys[1050:2060]


def test_credentials_that_may_not_list_are_recognised(source_bucket: Bucket) -> None:
    denied = Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.LIST}))
    with s3_proxy(source_bucket.server.endpoint, denied) as proxy:
        source = storage(source_bucket, "source", endpoint=proxy.endpoint)
        with pytest.raises(StorageError) as caught:
            listed(source, whole(FILES))
        assert caught.value.reason is Reason.ACCESS_DENIED
        assert not caught.value.permanent
        assert source.check() is not None


NAMES = [
    " lead",
    "a b",
    "a#b",
    "a%20b",
    "a+b",
    "a=b&c",
    "a?x=1",
    "trail ",
    "x<y>&amp;",
    "~^`{|}\\",
    "'q\"",
    "[b]*:@!$(),;",
    "z",
    "é",
    "日本",
    "\U0001f600",
]
"""In byte order of their UTF-8."""


def test_keys_are_taken_as_they_are_and_come_in_byte_order(moto_bucket: Bucket) -> None:
    keys = [f"{FILES}{name}" for name in NAMES]
    for key in keys:
        moto_bucket.client.put_object(Bucket=moto_bucket.name, Key=key, Body=b"x")
    source = storage(moto_bucket, "source")
    assert sorted(keys, key=str.encode) == sorted(keys)
    assert listed(source, whole(FILES)) == sorted(keys)
    ordered = sorted(keys)
    for first, last in ((0, 3), (3, 9), (9, 14), (14, 16)):
        end = ordered[last] if last < len(ordered) else "media/files0"
        assert listed(source, KeyRange(FILES, ordered[first], end)) == ordered[first:last]
    for key in keys:
        assert shown_by_head(source, key) == (key, 1, MD5_OF_X)


def test_composed_and_decomposed_letters_are_two_keys(moto_bucket: Bucket) -> None:
    composed, decomposed = f"{FILES}\u00e9", f"{FILES}e\u0301"
    moto_bucket.client.put_object(Bucket=moto_bucket.name, Key=composed, Body=b"x")
    source = storage(moto_bucket, "source")
    assert listed(source, whole(FILES)) == [composed]
    assert source.head(decomposed) is None


@pytest.mark.parametrize("odd", ["a//b", "./a", "../a", "a/./b", "a/..", "c\x01d", "/a"])
def test_a_foreign_object_with_an_odd_key_neither_breaks_a_listing_nor_is_lost(moto_bucket: Bucket, odd: str) -> None:
    keys = [f"{FILES}!first", f"{FILES}{odd}", f"{FILES}zlast"]
    for key in keys:
        moto_bucket.client.put_object(Bucket=moto_bucket.name, Key=key, Body=b"x")
    source = storage(moto_bucket, "source")
    assert listed(source, whole(FILES)) == sorted(keys)
    assert listed(source, KeyRange(FILES, f"{FILES}!", f'{FILES}"')) == keys[:1]
    assert shown_by_head(source, keys[1]) == (keys[1], 1, MD5_OF_X)
    assert source.head(f"{keys[1]}-absent") is None
    assert source.check() is None


def test_pages_before_an_odd_key_are_not_listed_again(moto_bucket: Bucket) -> None:
    keys = [f"{FILES}{number:04d}" for number in range(1100)]
    for key in [*keys[:1000], f"{FILES}0999//odd", *keys[1000:1003]]:
        # (A thousand requests would take the server half a minute.)
        s3_backends["123456789012"]["aws"].put_object(moto_bucket.name, key, b"")
    pages = list(storage(moto_bucket, "source").list_pages(whole(FILES)))
    assert [len(page) for page in pages] == [1000, 4]


def test_a_folder_object_is_an_object_like_any_other(moto_bucket: Bucket) -> None:
    for key in (f"{FILES}dir/", f"{FILES}dir/a"):
        moto_bucket.client.put_object(Bucket=moto_bucket.name, Key=key, Body=b"")
    source = storage(moto_bucket, "source")
    assert listed(source, whole(FILES)) == [f"{FILES}dir/", f"{FILES}dir/a"]
    found = source.head(f"{FILES}dir/")
    assert found is not None
    assert found.key == f"{FILES}dir/"


@pytest.mark.parametrize(
    ("start", "after"),
    [
        # SeaweedFS leaves a folder out whose name is the beginning of where a listing begins.
        ("media/files/001/", "media/files/000~"),
        ("media/files/110/", "media/files/11"),
        ("media/files/000/000/009/", "media/files/000/000/008~"),
        ("media/files/", "media/files"),
        ("media/files/a.png", "media/files/a.pn"),
    ],
)
def test_a_listing_begins_right_before_its_first_key(start: str, after: str) -> None:
    assert _before(start) == after
    assert after < start


@pytest.mark.parametrize(
    ("keys", "folder"),
    [
        (KeyRange("a/", "a/", "a0"), "a/"),
        (KeyRange("a/", "a/000/001/", "a/000/002/"), "a/000/"),
        (KeyRange("a/", "a/000/001/x", "a/000/001/y"), "a/000/001/"),
        (KeyRange("a/", "a/000/", "a/001/"), "a/"),
    ],
)
def test_a_listing_ends_with_the_folder_that_holds_the_range(keys: KeyRange, folder: str) -> None:
    assert _folder(keys) == folder


def test_a_server_that_drops_the_first_connections_is_listed_all_the_same(
    source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "LISTING", replace(LISTING, backoff=0.01))
    fill(source_bucket, [f"{FILES}a"])
    with s3_proxy(source_bucket.server.endpoint, Rule(Reset(), times=5)) as proxy:
        assert listed(storage(source_bucket, "source", endpoint=proxy.endpoint), whole(FILES)) == [f"{FILES}a"]
        assert proxy.injected == 5


def test_nobody_there_is_said_soon(source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "_AT_ONCE_SECONDS", 0.1)
    source = storage(source_bucket, "source", endpoint=f"http://{LOOPBACK}:{free_port()}")
    started = time.monotonic()
    with pytest.raises(StorageError, match="cannot be reached") as caught:
        listed(source, whole(FILES))
    assert not caught.value.reached
    assert time.monotonic() - started < 2


# Single objects


def test_an_absent_object_is_none_and_a_refusal_is_not(source_bucket: Bucket) -> None:
    fill(source_bucket, ["p/there"])
    with s3_proxy(source_bucket.server.endpoint) as proxy:
        source = storage(source_bucket, "source", endpoint=proxy.endpoint, prefix="p/")
        assert shown_by_head(source, "there") == ("there", 1, MD5_OF_X)
        assert source.head("absent") is None
        proxy.set_rules(Rule(Answer(403)))
        with pytest.raises(StorageError) as caught:
            source.head("absent")
        assert (caught.value.reason, caught.value.key) == (Reason.ACCESS_DENIED, "absent")


@pytest.mark.parametrize(
    ("encryption", "is_md5"),
    [({}, True), ({"ServerSideEncryption": "AES256"}, True), ({"ServerSideEncryption": "aws:kms"}, False)],
)
def test_an_etag_is_no_md5_where_objects_have_a_key_of_their_own(
    moto_bucket: Bucket, *, encryption: dict[str, Any], is_md5: bool
) -> None:
    moto_bucket.client.put_object(Bucket=moto_bucket.name, Key="p/a", Body=b"x", **encryption)
    assert storage(moto_bucket, "source", prefix="p/").etag_is_md5("a") is is_md5


@pytest.mark.parametrize(
    ("etag", "plain"),
    [
        (MD5_OF_X, True),
        (f"{MD5_OF_X}-2", False),
        (None, False),
        ("", False),
        (MD5_OF_X.upper(), False),
        ("x" * 32, False),
    ],
)
def test_the_form_of_an_md5(*, etag: str | None, plain: bool) -> None:
    assert is_md5(etag) is plain


# How it is reached


def test_a_storage_without_a_fault_is_called_listable(source_bucket: Bucket) -> None:
    assert storage(source_bucket, "source").check() is None
    fill(source_bucket, ["a"])
    assert storage(source_bucket, "source").check() is None
    assert storage(source_bucket, "source", prefix="nothing/").check() is None


@pytest.mark.parametrize(
    ("settings", "reason", "words"),
    [
        ({"secret_access_key": "not-the-secret"}, Reason.BAD_CREDENTIALS, "AWS_SECRET_ACCESS_KEY"),
        ({"access_key_id": "nobody"}, Reason.BAD_CREDENTIALS, "AWS_ACCESS_KEY_ID"),
        ({"bucket": "absent"}, Reason.NO_SUCH_BUCKET, "S3_BUCKET"),
        ({"endpoint_url": f"http://{LOOPBACK}:{free_port()}"}, Reason.CONNECTION, "S3_ENDPOINT"),
        ({"access_key_id": None}, Reason.BAD_CREDENTIALS, "set AWS_ACCESS_KEY_ID"),
        ({"secret_access_key": ""}, Reason.BAD_CREDENTIALS, "set AWS_SECRET_ACCESS_KEY"),
        ({"profile": "nobody", "access_key_id": None, "secret_access_key": None}, Reason.BAD_CREDENTIALS, "profile"),
        ({"endpoint_url": "https://127.0.0.1:1", "ca_file": "/nowhere.pem"}, Reason.CONNECTION, "/nowhere.pem"),
    ],
)
def test_a_check_ends_within_seconds_and_says_what_to_change(
    source_bucket: Bucket, settings: dict[str, Any], reason: Reason, words: str
) -> None:
    with pytest.raises(StorageError) as caught:
        storage(source_bucket, "source", **settings).check()
    assert caught.value.permanent
    assert caught.value.reason is reason
    assert words in str(caught.value)


def test_without_any_credentials_it_is_said_where_to_put_them(
    source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    destination = storage(source_bucket, "destination", access_key_id=None, secret_access_key=None)
    with pytest.raises(StorageError, match="no credentials: set DESTINATION_AWS_ACCESS_KEY_ID"):
        destination.check()


class _Website(BaseHTTPRequestHandler):
    """Answers everything with a page that is well-formed XML."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"<?xml version='1.0'?><html><body>Welcome</body></html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def website() -> Iterator[str]:
    with serving(_Website) as endpoint:
        yield endpoint


def test_a_website_is_no_empty_bucket(source_bucket: Bucket, website: str) -> None:
    with pytest.raises(StorageError, match="does not answer like an S3 storage") as caught:
        storage(source_bucket, "source", endpoint_url=website).check()
    assert caught.value.permanent


def test_a_bucket_can_stand_in_the_host_name(source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Recorder(_Website):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with serving(Recorder) as endpoint:
        # Names that nobody resolves are left to an HTTP proxy.
        monkeypatch.setenv("http_proxy", endpoint)
        source = storage(source_bucket, "source", endpoint_url="http://s3.example:81/", path_style=False)
        assert source.head("a/b.png") is None
        source = storage(source_bucket, "source", endpoint_url="http://s3.example:81/", path_style=True)
        assert source.head("a/b.png") is None
    assert asked == [
        f"http://{source_bucket.name}.s3.example:81/a/b.png",
        f"http://s3.example:81/{source_bucket.name}/a/b.png",
    ]


def test_the_region_is_asked_of_amazon_and_of_nobody_else(moto_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{moto_bucket.name}-eu"
    moto_bucket.client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    plain = StorageSettings(name="source", bucket=name, access_key_id="id", secret_access_key="secret")
    # Every name of Amazon's is answered by the test's server.
    monkeypatch.setattr(Storage, "_endpoint", lambda *_: moto_bucket.server.endpoint)
    assert Storage(plain).region == "eu-central-1"
    assert Storage(replace(plain, region="eu-west-1")).region == "eu-west-1"
    assert Storage(replace(plain, endpoint_url="https://s3.example")).region == "us-east-1"
    with pytest.raises(StorageError) as caught:
        _ = Storage(replace(plain, bucket="absent-for-sure")).region
    assert caught.value.reason is Reason.NO_SUCH_BUCKET


@pytest.mark.parametrize(
    ("permission", "private", "acl"),
    [("public-read", False, "public-read"), ("public-read", True, "private"), (None, False, None), ("", True, None)],
)
def test_writes_carry_the_acl_and_reads_do_not(
    source_bucket: Bucket, *, permission: str | None, private: bool, acl: str | None
) -> None:
    with s3_proxy(source_bucket.server.endpoint) as proxy:
        destination = storage(source_bucket, "destination", endpoint=proxy.endpoint, permission=permission)
        headers = destination.write_headers(Attributes({}, {}), private=private)
        destination.run(lambda client: client.put("a", b"x", headers, None))
        destination.run(lambda client: client.get("a", limit=1))
        destination.head("a")
        listed(destination, KeyRange("", "", "z"))
        assert [(request.kind, request.headers.get("x-amz-acl")) for request in proxy.requests] == [
            (Kind.PUT, acl),
            (Kind.GET, None),
            (Kind.HEAD, None),
            (Kind.LIST, None),
        ]


def test_a_client_is_made_once_also_for_many_threads(source_bucket: Bucket) -> None:
    source = storage(source_bucket, "source", permission="public-read")
    with ThreadPoolExecutor(8) as pool:
        assert len({id(one) for one in pool.map(lambda _: source.client, range(50))}) == 1


def test_nothing_of_a_storage_stays_when_nobody_has_it_any_more(source_bucket: Bucket) -> None:
    source = storage(source_bucket, "of-nobody")
    assert source.head("absent") is None  # the last answer was an error
    assert threads_of("of-nobody")
    del source
    gc.collect()
    wait_until(lambda: not threads_of("of-nobody"), 5)


def threads_of(name: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == f"s3-{name}"]


def test_the_storage_class_is_the_destinations_own(source_bucket: Bucket) -> None:
    read = shown({"content-type": "image/png", "x-amz-storage-class": "GLACIER_IR", "x-amz-meta-storage-class": "x"})
    kept = {"Content-Type": "image/png", "x-amz-meta-storage-class": "x"}
    destination = storage(source_bucket, "destination")
    assert destination.write_headers(read, private=False) == kept
    destination = storage(source_bucket, "destination", storage_class="STANDARD_IA")
    assert destination.write_headers(read, private=False) == {**kept, "x-amz-storage-class": "STANDARD_IA"}


BASE = StorageSettings(name="source", bucket="media", endpoint_url="https://s3.example")


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"endpoint_url": "https://S3.example:443/"}, True),
        ({"endpoint_url": "http://s3.example"}, True),
        ({"access_key_id": "other"}, True),
        ({"bucket": "other"}, False),
        ({"prefix": "other/"}, False),
        ({"endpoint_url": "https://s3.example:9000"}, False),
        ({"endpoint_url": "https://other.example"}, False),
        ({"endpoint_url": None}, False),
    ],
)
def test_the_same_place_is_recognised(*, change: dict[str, Any], same: bool) -> None:
    first = Storage(BASE)
    second = Storage(replace(BASE, **change))
    assert first.same_place(second) is same


def test_all_of_amazon_is_one_place() -> None:
    first = Storage(replace(BASE, endpoint_url=None))
    second = Storage(replace(BASE, endpoint_url="https://s3.eu-west-1.amazonaws.com", region="eu-west-1"))
    assert first.same_place(second)


def test_no_secret_is_shown(source_bucket: Bucket) -> None:
    source = storage(source_bucket, "source", session_token="a-token")
    assert source.settings.secret_access_key
    assert source.settings.secret_access_key not in repr(source)
    assert "a-token" not in repr(source)
