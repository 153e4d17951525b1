"""Manifests in a bucket are fetched several at a time, and none that nobody asks for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.records.doubts import Doubt, DoubtLine, DoubtWriter
from mastosync_dagster.records.store import BucketManifests, ManifestNotFoundError
from mastosync_dagster.runs.doubt_lists import DoubtList
from mastosync_dagster.runs.manifests import Damaged, ManifestOrigin
from mastosync_dagster_tests.support.proxy import Delay, Kind, Rule, s3_proxy
from mastosync_dagster_tests.support.transfers import storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket
    from mastosync_dagster_tests.support.proxy import Proxy

LISTS = 24
DELAY = 0.5
ORIGIN = ManifestOrigin("there", acls=True)


@pytest.fixture
def proxy(destination_bucket: Bucket) -> Iterator[Proxy]:
    with s3_proxy(destination_bucket.server.endpoint) as made:
        yield made


@pytest.fixture
def store(destination_bucket: Bucket, proxy: Proxy, tmp_path: Path) -> BucketManifests:
    """A store with the doubt lists of many ranges, one object on each."""
    made = BucketManifests(storage(destination_bucket, "destination", endpoint=proxy.endpoint))
    listed = DoubtList(made, ORIGIN, "accounts")
    for number in range(LISTS):
        with DoubtWriter(tmp_path / "doubts.parquet", ORIGIN.metadata()) as writer:
            writer.write(DoubtLine(number, "avatar/original", Doubt.PRIVATE, 0, f"key-{number}"))
        listed.publish(tmp_path / "doubts.parquet", f"{number}-{number}", "run")
    proxy.forget()
    return made


@pytest.mark.long
def test_a_night_reads_and_removes_the_lists_of_many_ranges_several_at_a_time(
    store: BucketManifests, proxy: Proxy
) -> None:
    listed = DoubtList(store, ORIGIN, "accounts")
    proxy.set_rules(Rule(Delay(DELAY), kinds=frozenset({Kind.GET, Kind.DELETE})))
    begun = time.monotonic()
    doubts, whole = listed.read(Damaged(pytest.fail))
    read = time.monotonic()
    assert list(doubts.rows().ids) == list(range(LISTS))
    assert proxy.count(Kind.GET) == LISTS
    listed.remove(whole)
    removed = time.monotonic()
    assert listed.files() == []
    assert proxy.count(Kind.DELETE) == LISTS
    for seconds in (read - begun, removed - read):
        assert seconds < LISTS * DELAY / 2


def test_lists_are_read_in_their_order(store: BucketManifests) -> None:
    listed = DoubtList(store, ORIGIN, "accounts")
    files = sorted(listed.files(), key=lambda file: int(file.partition.partition("-")[0]))
    assert [line.row_id for line in listed.lines(files)] == list(range(LISTS))


def test_who_needs_the_first_ones_fetches_few_more(store: BucketManifests, proxy: Proxy) -> None:
    files = sorted(store.files("doubts_accounts"))
    with store.ahead(files) as file_of, file_of(files[0]):
        pass
    assert proxy.count(Kind.GET) == 1
    with store.ahead(files) as file_of:
        for file in files[:3]:
            with file_of(file) as path:
                assert path.stat().st_size
    assert proxy.count(Kind.GET) <= 1 + 5


def test_one_that_another_run_has_replaced_keeps_no_other_from_being_read(store: BucketManifests) -> None:
    files = sorted(store.files("doubts_accounts"))
    store.remove(files[3])
    with store.ahead(files) as file_of:
        for file in files:
            if file == files[3]:
                with pytest.raises(ManifestNotFoundError), file_of(file):
                    pass
            else:
                with file_of(file) as path, store.file(file) as own:
                    assert path.read_bytes() == own.read_bytes()
