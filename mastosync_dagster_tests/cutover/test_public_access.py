"""What everybody gets at a public address: an answer, or an error that says why there is none."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.cutover.media_host import PublicUrl
from mastosync_dagster.cutover.public_access import PublicAddressError, PublicReader
from mastosync_dagster.demo.servers.start import LOOPBACK
from mastosync_dagster.s3.settings import StorageSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWERS = {200: True, 206: True, 416: True, 403: False, 404: False, 401: False}
NO_ANSWERS = (429, 500, 501, 502, 503, 504, 520, 522, 530)
_LONG = 200_000


class _Statuses(BaseHTTPRequestHandler):
    """Answers ``/<status>/<bytes>`` with that status and as many bytes; ``/<status>/<bytes>/<path>`` leads there."""

    def do_GET(self) -> None:
        _, status, length, *target = self.path.split("/", 3)
        self.send_response(int(status))
        self.send_header("Content-Length", length)
        if target:
            self.send_header("Location", f"/{target[0]}" if target[0] else self.path)
        self.end_headers()
        with contextlib.suppress(OSError):  # whoever asked has heard enough
            self.wfile.write(b"x" * int(length))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def reader() -> Iterator[PublicReader]:
    """Ask at a server of statuses."""
    with ThreadingHTTPServer((LOOPBACK, 0), _Statuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = PublicUrl("http", f"{LOOPBACK}:{server.server_address[1]}", "")
        with PublicReader(url, StorageSettings(name="destination", bucket="b")) as reader:
            yield reader
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("length", [3, _LONG])
def test_who_may_read_is_what_the_status_says(reader: PublicReader, length: int) -> None:
    assert {status: reader.ask(f"{status}/{length}").readable for status in ANSWERS} == ANSWERS


def test_a_redirect_is_followed_to_what_everybody_gets(reader: PublicReader) -> None:
    for status in (301, 302, 303, 307, 308):
        for end, readable in ((200, True), (403, False)):
            answer = reader.ask(f"{status}/0/307/0/{end}/3")
            assert (answer.readable, answer.status) == (readable, end)
            assert answer.redirect is not None
            assert answer.redirect.endswith(f"/307/0/{end}/3")
    assert not reader.ask("304/0").readable
    with pytest.raises(PublicAddressError, match="redirects, one after the other"):
        reader.ask("302/0/")


@pytest.mark.long
def test_a_server_that_is_busy_or_broken_has_not_said_who_may_read(reader: PublicReader) -> None:
    def text_of(key: str) -> str:
        with pytest.raises(PublicAddressError) as error:
            reader.ask(key)
        return str(error.value)

    keys = [f"{status}/{length}" for status in NO_ANSWERS for length in (3, _LONG)]
    # At the same time: each waits between its attempts.
    with ThreadPoolExecutor(len(keys)) as pool:
        texts = list(pool.map(text_of, keys))
    for key, text in zip(keys, texts, strict=True):
        assert f"HTTP {key.split('/')[0]}" in text
        assert LOOPBACK in text
