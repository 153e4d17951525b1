"""A peer that dies in the middle of a body is noticed within a minute, however large the body is."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from mastosync_dagster.demo.servers.start import LOOPBACK
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster_tests.support.tcp_proxy import tcp_proxy
from mastosync_dagster_tests.support.transfers import Transfer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket

MIB = 1024 * 1024
KEY = "media_attachments/files/000/000/001/original/0123456789abcdef.png"
"""Of one content. What a file server of files shows of a video cut off may be Mastodon's until the next run."""


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("dies", ["source", "destination"])
def test_a_peer_that_dies_in_the_middle_of_a_large_body_is_noticed_within_a_minute(
    dies: str,
    source_bucket: Bucket,
    destination_bucket: Bucket,
    tmp_path: Path,
    report: Callable[[object], None],
) -> None:
    """The proxy neither reads nor writes any more, as little as a machine without power does, and never hangs up."""
    buckets = {"source": source_bucket, "destination": destination_bucket}
    server = buckets[dies].server
    body = os.urandom(12 * MIB)
    with tcp_proxy(urlsplit(server.endpoint).port or 0) as proxy:
        at_proxy = replace(server, endpoint=f"http://{LOOPBACK}:{proxy.port}")
        buckets[dies] = replace(buckets[dies], server=at_proxy)
        transfer = Transfer(tmp_path, buckets["source"], buckets["destination"])
        planned = transfer.put(KEY, body)
        proxy.stall_after, proxy.stalls = 4 * MIB, 1
        started = time.monotonic()
        _, (copied,) = transfer.run(planned)
        took = time.monotonic() - started
    assert copied.outcome is Outcome.COPIED
    assert proxy.stalls == 0
    assert transfer.fetched(KEY) == body
    report(f"{dies} that dies in the middle of a body of 12 MiB: copied all the same after {took:.0f} s")
    assert took < 60
