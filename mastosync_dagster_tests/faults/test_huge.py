"""Objects that are larger than anything that Mastodon takes: memory and the number of parts stay within bounds."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.s3 import etags
from mastosync_dagster.s3.etags import part_size_for
from mastosync_dagster_tests.faults.copy_process import MEMORY_MB, copy_command
from mastosync_dagster_tests.support.memory import peak_megabytes
from mastosync_dagster_tests.support.proxy import Kind, s3_proxy
from mastosync_dagster_tests.support.transfers import FAST, Transfer, line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket

MIB = 1024 * 1024
GIB = 1024 * MIB
HUGE = 300 * MIB
PEAK_MEGABYTES = 220
"""Python with its libraries takes some ninety, the budget thirty-two, and the rest is buffers of connections."""


@pytest.mark.parametrize(
    ("size", "part"),
    [
        (17 * MIB, 5 * MIB),
        (5_000 * MIB, 5 * MIB),
        (5_000 * MIB + 1, 6 * MIB),
        (5 * GIB + 1, 6 * MIB),
        (50 * GIB, 52 * MIB),
        (600 * GIB, 64 * MIB),
        (5_000 * GIB, 512 * MIB),
    ],
)
def test_parts_grow_with_the_object(size: int, part: int) -> None:
    assert part_size_for(size) == part
    assert -(-size // part) <= 10_000


def test_an_object_that_would_need_too_many_parts_gets_larger_ones(
    source_bucket: Bucket, destination_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens at 5 GiB + 1 with a limit of a thousand parts, at 17 MiB + 1 with one of three."""
    monkeypatch.setattr(etags, "FEW_PARTS", 3)
    body = os.urandom(17 * MIB + 1)
    with s3_proxy(destination_bucket.server.endpoint) as proxy:
        at_proxy = replace(destination_bucket, server=replace(destination_bucket.server, endpoint=proxy.endpoint))
        transfer = Transfer(
            tmp_path, source_bucket, at_proxy, settings=replace(FAST, large_object_mb=8, single_put_mb=0)
        )
        _, lines = transfer.run(transfer.put("a.mp4", body))
        assert [one.outcome for one in lines] == [Outcome.COPIED]
        assert transfer.fetched("a.mp4") == body
        assert [request.body_bytes for request in proxy.requests if request.kind is Kind.UPLOAD_PART] == [
            6 * MIB,
            6 * MIB,
            5 * MIB + 1,
        ]
        assert proxy.count(Kind.PUT) == 0


@pytest.mark.faults
def test_an_object_of_many_times_the_memory_is_streamed(
    source_bucket: Bucket, destination_bucket: Bucket, tmp_path: Path, report: Callable[[object], None]
) -> None:
    file = tmp_path / "huge"
    with file.open("wb") as sparse:
        sparse.truncate(HUGE)
    with file.open("rb") as body:
        put = source_bucket.client.put_object(Bucket=source_bucket.name, Key="a.mp4", Body=body)
    planned = line("a.mp4", size=HUGE, etag=put["ETag"].strip('"'))
    Transfer(tmp_path, source_bucket, destination_bucket).plan([planned])
    command = copy_command(tmp_path, source_bucket, destination_bucket)
    peak = peak_megabytes(command)
    copied = destination_bucket.client.head_object(Bucket=destination_bucket.name, Key="a.mp4")
    for bucket in (source_bucket, destination_bucket):
        bucket.client.delete_object(Bucket=bucket.name, Key="a.mp4")
    report(f"an object of {HUGE // MIB} MiB with memory_mb {MEMORY_MB}: {peak:.0f} MB resident at most")
    assert copied["ContentLength"] == HUGE
    assert peak < PEAK_MEGABYTES
