"""Files of other servers are fetched over HTTPS alone, from public addresses alone, and only as much as may be."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from ipaddress import IPv4Network
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis.strategies import text

from mastosync_dagster.refetch import fetch
from mastosync_dagster.refetch.fetch import Fetcher, FetchError, FetchSettings, host_of
from mastosync_dagster.refetch.magic_bytes import begins_like
from mastosync_dagster.refetch.public_addresses import is_public_address
from mastosync_dagster_tests.support.web import ADDRESS, HOST, JPEG, PNG, hostile_web

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster_tests.support.web import Web

PICTURES = {"image/png": 100_000, "image/jpeg": 100_000}
PNG_ALONE = {"image/png": 100_000}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with hostile_web(tmp_path_factory.mktemp("web")) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "body", "content_type"),
    [
        ("/good.png", PNG, "image/png"),
        ("/good.jpg", JPEG, "image/jpeg"),
        ("/chunked.png", PNG, "image/png"),
        ("/once", PNG, "image/png"),
        ("/thrice", PNG, "image/png"),
        (f"/to?//{HOST}:PORT/good.png", PNG, "image/png"),
    ],
)
def test_a_good_file_comes_whole(web: Web, path: str, body: bytes, content_type: str) -> None:
    fetched = Fetcher(web.settings()).fetch(web.url(path.replace("PORT", str(web.port))), PICTURES, threading.Event())
    assert (bytes(fetched.body), fetched.content_type) == (body, content_type)
    # The connection goes to the address, and yet both the certificate and the server are asked under the name.
    assert web.hosts == {(f"{HOST}:{web.port}", HOST)}


def test_a_server_that_does_not_know_the_type_is_believed_where_only_one_comes_into_question(web: Web) -> None:
    fetcher, url = Fetcher(web.settings()), web.url("/unsaid.png")
    assert fetcher.fetch(url, PNG_ALONE, threading.Event()).content_type == "image/png"
    with pytest.raises(FetchError, match=fetch.WRONG_TYPE):
        fetcher.fetch(url, PICTURES, threading.Event())


REFUSED = [
    ("http://files.example/good.png", fetch.NOT_HTTPS),
    ("ftp://files.example/good.png", fetch.NOT_HTTPS),
    ("file:///etc/passwd", fetch.NOT_HTTPS),
    ("//files.example/good.png", fetch.NO_ADDRESS),
    ("files", fetch.NO_ADDRESS),
    ("", fetch.NO_ADDRESS),
    ("https://", fetch.NO_ADDRESS),
    ("https://files.example:99999/", fetch.NO_ADDRESS),
    ("https://[1:2/", fetch.NO_ADDRESS),
    ("https://.files.example:PORT/good.png", fetch.NO_ADDRESS),
    (f"https://{'a' * 64}.example/good.png", fetch.NO_ADDRESS),
    ("https://\ud800.example/", fetch.NO_ADDRESS),
    ("https://127.0.0.1:PORT/good.png", fetch.NOT_PUBLIC),
    ("https://[::1]:PORT/good.png", fetch.NOT_PUBLIC),
    ("https://[::ffff:127.0.0.2]:PORT/good.png", fetch.NOT_PUBLIC),
    ("https://169.254.169.254/latest/meta-data/", fetch.NOT_PUBLIC),
    ("https://inside.example:PORT/good.png", fetch.NOT_PUBLIC),
    ("https://both.example:PORT/good.png", fetch.NOT_PUBLIC),
    ("https://metadata.example:PORT/good.png", fetch.NOT_PUBLIC),
    ("https://nobody.example:PORT/good.png", fetch.UNRESOLVABLE),
    ("https://no-such-name.example:PORT/good.png", fetch.UNRESOLVABLE),
    ("https://other-name.example:PORT/good.png", fetch.UNTRUSTED),
    (f"https://{ADDRESS}:PORT/good.png", fetch.UNTRUSTED),
    (f"https://{ADDRESS}:1/good.png", fetch.UNREACHABLE),
    *(
        (f"https://files.example:PORT{path}", why)
        for path, why in (
            ("/to?https://127.0.0.1:PORT/good.png", fetch.NOT_PUBLIC),
            ("/to?https://169.254.169.254/latest/meta-data/", fetch.NOT_PUBLIC),
            ("/to?https://inside.example:PORT/good.png", fetch.NOT_PUBLIC),
            ("/to?http://files.example:PORT/good.png", fetch.NOT_HTTPS),
            ("/to?file:///etc/passwd", fetch.NOT_HTTPS),
            ("/to?https://[1:2/", fetch.NO_ADDRESS),
            ("/loop", fetch.TOO_MANY_REDIRECTS),
            ("/page", fetch.WRONG_TYPE),
            ("/svg", fetch.WRONG_TYPE),
            ("/disguised.png", fetch.DISGUISED),
            ("/empty.png", fetch.EMPTY),
            ("/gzip.png", fetch.ENCODED),
            ("/large.png", fetch.TOO_LARGE),
            ("/endless.png", fetch.TOO_LARGE),
            ("/short.png", fetch.BROKEN),
            ("/broken-chunk.png", fetch.BROKEN),
            ("/unbounded.png", fetch.UNBOUNDED),
            ("/silent", fetch.TOO_SLOW),
            ("/drip.png", fetch.TOO_SLOW),
            ("/drip-of-headers", fetch.TOO_SLOW),
            ("/gone", "HTTP 404"),
            ("/busy", "HTTP 503"),
        )
    ),
]


@pytest.mark.parametrize(("url", "why"), REFUSED)
def test_everything_else_is_refused_soon_and_in_plain_words(web: Web, url: str, why: str) -> None:
    # Only those who are waited for find somebody in a hurry.
    hurry = {"idle_timeout": 1.0, "total_timeout": 2.0} if why == fetch.TOO_SLOW else {}
    begun = time.monotonic()
    with pytest.raises(FetchError, match=why) as caught:
        Fetcher(web.settings(**hurry)).fetch(url.replace("PORT", str(web.port)), PICTURES, threading.Event())
    assert time.monotonic() - begun < 20
    assert "://" not in str(caught.value).replace("https://", "")
    assert not any(host.startswith(("127.0.0.1", "inside", "both")) for host, _ in web.hosts)


def test_nobody_connects_to_loopback_whatever_redirects_there(web: Web) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as witness:
        witness.settimeout(0.2)
        url = web.url(f"/to?https://127.0.0.1:{witness.getsockname()[1]}/")
        with pytest.raises(FetchError, match=fetch.NOT_PUBLIC):
            Fetcher(web.settings()).fetch(url, PICTURES, threading.Event())
        with pytest.raises(TimeoutError):
            witness.accept()


def test_a_name_is_resolved_once_for_a_connection_so_that_it_cannot_change_its_mind(web: Web) -> None:
    answers = iter([[ADDRESS], ["127.0.0.1"]])
    settings = web.settings(resolve=lambda *_: next(answers))
    assert bytes(Fetcher(settings).fetch(web.url("/good.png"), PICTURES, threading.Event()).body) == PNG
    answers = iter([[ADDRESS], ["127.0.0.1"]])
    with pytest.raises(FetchError, match=fetch.NOT_PUBLIC):
        Fetcher(settings).fetch(web.url("/once"), PICTURES, threading.Event())


def test_where_one_address_does_not_answer_the_next_one_is_tried(web: Web) -> None:
    silent_and_good = web.settings(resolve=lambda *_: ["127.0.0.3", ADDRESS], allowed=[IPv4Network("127.0.0.2/31")])
    assert bytes(Fetcher(silent_and_good).fetch(web.url("/good.png"), PICTURES, threading.Event()).body) == PNG


def test_no_proxy_of_the_environment_is_asked(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert bytes(Fetcher(web.settings()).fetch(web.url("/good.png"), PICTURES, threading.Event()).body) == PNG


@pytest.mark.long(cases=0)
@given(url=text(), then=text())
@example("https://files.example:PORT/\r\nX: y", "\r\nX: y")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_address_however_odd_does_anything_but_be_refused(web: Web, url: str, then: str) -> None:
    for odd in (url, f"https://{url}", f"https://{HOST}:{web.port}/{url}", web.url(f"/to?{quote(then)}")):
        assert isinstance(host_of(odd), str)
        with pytest.raises(FetchError):
            Fetcher(web.settings()).fetch(odd, PICTURES, threading.Event())


def test_by_default_the_tests_own_server_is_none_to_go_to(web: Web) -> None:
    with pytest.raises(FetchError, match=fetch.NOT_PUBLIC):
        Fetcher(FetchSettings()).fetch(f"https://{ADDRESS}:{web.port}/good.png", PICTURES, threading.Event())
    with pytest.raises(FetchError, match=fetch.NOT_PUBLIC):
        Fetcher(FetchSettings()).fetch(f"https://localhost:{web.port}/good.png", PICTURES, threading.Event())


def test_a_fetch_that_is_no_longer_wanted_ends(web: Web) -> None:
    halt = threading.Event()
    threading.Timer(0.3, halt.set).start()
    with pytest.raises(FetchError, match=fetch.STOPPED):
        Fetcher(web.settings(total_timeout=60)).fetch(web.url("/drip.png"), PICTURES, halt)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((address, True) for address in ("1.1.1.1", "172.15.255.255", "172.32.0.0", "100.63.0.1", "100.128.0.1")),
        *((address, True) for address in ("2606:4700::1111", "2a01:4f8::1", "64:ff9b::1.1.1.1")),
        *((address, False) for address in ("0.0.0.1", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1")),
        *((address, False) for address in ("127.255.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255")),
        *((address, False) for address in ("192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.19.0.1")),
        *((address, False) for address in ("198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1")),
        *((address, False) for address in ("255.255.255.255", "::", "::1", "::ffff:1.1.1.1", "::1.1.1.1")),
        *((address, False) for address in ("fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1")),
        *((address, False) for address in ("2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1")),
        *((address, False) for address in ("64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::1")),
        *((address, False) for address in ("", "localhost", "2130706433", "0x7f.1", "127.1")),
    ],
)
def test_what_is_a_public_address(address: str, public: bool) -> None:  # noqa: FBT001  (a row of the table)
    assert is_public_address(address) is public


@pytest.mark.parametrize(
    ("content_type", "begins", "otherwise"),
    [
        ("image/jpeg", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n"),
        ("image/png", b"\x89PNG\r\n\x1a\n", b"\x89PNX\r\n\x1a\n"),
        ("image/gif", b"GIF89a", b"GIF90a"),
        ("image/webp", b"RIFF\x10\0\0\0WEBPVP8 ", b"RIFF\x10\0\0\0WAVE"),
        ("image/avif", b"\0\0\0\x1cftypavif", b"\0\0\0\x1cmoov"),
        ("video/mp4", b"\0\0\0\x18ftypmp42", b"<html>"),
        ("video/quicktime", b"\0\0\0\x08wide", b"\0\0\0\x08wild"),
        ("video/webm", b"\x1a\x45\xdf\xa3", b"OggS"),
        ("audio/ogg", b"OggS", b"fLaC"),
        ("audio/mpeg", b"ID3\x03", b"<!DOCTYPE"),
        ("audio/mpeg", b"\xff\xfb\x90", b"\xfe\xff"),
        ("audio/wav", b"RIFF\x10\0\0\0WAVE", b"RIFF\x10\0\0\0WEBP"),
        ("image/svg+xml", b"", b"<svg/>"),
    ],
)
def test_files_are_known_by_how_they_begin(content_type: str, begins: bytes, otherwise: bytes) -> None:
    assert begins_like(content_type, begins) is bool(begins)
    assert not begins_like(content_type, otherwise)
