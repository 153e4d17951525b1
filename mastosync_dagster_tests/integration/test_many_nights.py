"""What a run asks for does not grow with the nights behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.folding import fold_manifests
from mastosync_dagster.records.manifest import ManifestWriter
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.doubts import CHANGES
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster.runs.watermarks import SYNC_CHANGES
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.manifests import manifest_line
from mastosync_dagster_tests.support.proxy import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster_tests.support.installation import Installation

pytestmark = pytest.mark.long

NIGHTS = 40
ACCOUNTS = FileType.ACCOUNTS


def live_through(world: Installation, folder: Path, nights: int) -> None:
    """Publish what so many nights publish, and fold it as each of them does."""
    store = manifest_store(world.dagster, S3Bucket.destination(), S3Bucket.source())
    for night in range(nights):
        with ManifestWriter(folder / "manifest.parquet") as writer:
            for number in range(night, night + 5):
                writer.write(manifest_line(number, group=ACCOUNTS.value))
        store.write(folder / "manifest.parquet", SYNC_CHANGES, CHANGES, f"night-{night:04}")
        fold_manifests(store, SYNC_CHANGES, CHANGES, pytest.fail)


def test_a_range_sends_as_many_requests_however_many_nights_there_were(
    world: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, *_ = world.register(ACCOUNTS)[ACCOUNTS]
    counts = []
    for nights in (0, NIGHTS):
        bucket = create_bucket(world.destination.server).name
        monkeypatch.setenv("MASTOSYNC_MANIFESTS", f"s3://{bucket}/manifests")
        live_through(world, tmp_path, nights)
        assert world.run(f"sync_{ACCOUNTS.value}", key).success
        world.forget()
        assert world.run(f"sync_{ACCOUNTS.value}", key).success
        counts.append((world.source_proxy.counts(), world.destination_proxy.counts()))
    assert counts[0] == counts[1]
    assert counts[0][1]["GET", Kind.LIST] > 0
