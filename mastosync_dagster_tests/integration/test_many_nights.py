"""What a run asks for does not grow with the nights behind it."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from mastosync_dagster.ranges.partitions import FileType, parse_range
from mastosync_dagster.records.folding import fold_manifests
from mastosync_dagster.records.manifest import ManifestWriter
from mastosync_dagster.records.store import FolderManifests
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.doubts import CHANGES
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster.runs.watermarks import SYNC_CHANGES
from mastosync_dagster.sync import steps
from mastosync_dagster.sync.copy_step import copy_planned
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.manifests import manifest_line
from mastosync_dagster_tests.support.proxy import Kind

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.installation import Installation
    from mastosync_dagster_tests.support.proxy import RecordedRequest

pytestmark = pytest.mark.long

NIGHTS = 1_000
MOST_FILES = 45
"""Of so many nights, at any time: see `test_folding`."""
ACCOUNTS = FileType.ACCOUNTS
OF_NIGHTS = f"manifests/{SYNC_CHANGES}/"


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> FolderManifests:
    """The manifests of a thousand nights, folded as each night does. They lie in a folder, and are links of one."""
    folder = tmp_path_factory.mktemp("nights")
    store = FolderManifests(folder / "kept")
    with ManifestWriter(folder / "manifest.parquet") as writer:
        for number in range(5):
            writer.write(manifest_line(number, group=ACCOUNTS.value))
    store.write(folder / "manifest.parquet", SYNC_CHANGES, CHANGES, "night-0")
    (first,) = store.files(SYNC_CHANGES)
    with store.file(first) as file:
        for night in range(1, NIGHTS):
            os.link(folder / "manifest.parquet", file.with_name(f"night-{night}.parquet"))
            if night % 10 == 0:  # at fewer there is nothing to fold
                fold_manifests(store, SYNC_CHANGES, CHANGES, pytest.fail)
    return store


@dataclass(frozen=True)
class RequestsBefore:
    """The requests before the first object was copied: to each place, and for manifests of nights."""

    requests: Counter[tuple[str, Kind]]
    of_nights: list[str]


def is_copy(request: RecordedRequest) -> bool:
    is_probe = "/mastosync-check/" in request.key
    return request.kind is Kind.PUT and not is_probe and not request.key.startswith("manifests/")


def asked_before_the_first_copy(world: Installation, planned: float) -> RequestsBefore:
    """Return what has been asked for since requests were counted.

    From the time ``planned``, when the first object may be asked for, source and destination are asked about several
    objects at once: those requests are no part of it. What is asked of the manifests counts until an object is written.
    """
    to_destination = world.destination_proxy.requests
    first = min(request.at for request in to_destination if is_copy(request))
    requests, of_nights = Counter[tuple[str, Kind]](), list[str]()
    for request in to_destination:
        of_manifests = (request.key + request.prefix).startswith("manifests/")
        if request.at < first and request.kind is Kind.GET and request.key.startswith(OF_NIGHTS):
            of_nights.append(request.key)
        elif request.at < (first if of_manifests else planned):
            requests["manifests" if of_manifests else "destination", request.kind] += 1
    for request in world.source_proxy.requests:
        requests["source", request.kind] += request.at < planned
    return RequestsBefore(requests, of_nights)


def run_first(world: Installation, key: str, folded: FolderManifests, *, nights: bool, differs: bool) -> RequestsBefore:
    """Run an ID range for the first time into a new destination, and return what is asked for before it copies.

    ``differs``: the destination has one of its objects, cut short.
    """
    destination, manifests = (create_bucket(world.destination.server) for _ in range(2))
    settings = {"DESTINATION_S3_BUCKET": destination.name, "MASTOSYNC_MANIFESTS": f"s3://{manifests.name}/manifests"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        if nights:
            kept = manifest_store(world.dagster, S3Bucket.destination(), S3Bucket.source())
            for file in folded.files(SYNC_CHANGES):
                with folded.file(file) as local:
                    kept.write(local, file.group, file.partition, file.run_id)
        if differs:
            ids = parse_range(key)
            expected = next(
                each for each in world.instance.objects_of(ACCOUNTS.value) if ids.lo <= each.row_id <= ids.hi
            )
            body = world.source.client.get_object(Bucket=world.source.name, Key=expected.source_key)["Body"].read()
            destination.client.put_object(Bucket=destination.name, Key=expected.key, Body=body[: len(body) // 2])
        planned: list[float] = []

        def noting(*arguments: Any) -> Any:
            planned.append(time.monotonic())
            return copy_planned(*arguments)

        patch.setattr(steps, "copy_planned", noting)
        world.forget()
        assert world.run(f"sync_{ACCOUNTS.value}", key).success
        return asked_before_the_first_copy(world, *planned)


@pytest.mark.parametrize("differs", [False, True])
def test_before_the_first_copy_a_range_asks_as_often_however_many_nights_there_were(
    world: Installation, folded: FolderManifests, *, differs: bool
) -> None:
    key, *_ = world.register(ACCOUNTS)[ACCOUNTS]
    none, many = (run_first(world, key, folded, nights=nights, differs=differs) for nights in (False, True))
    assert none.requests == many.requests
    assert {place for place, kind in many.requests if kind is Kind.LIST} == {"source", "destination", "manifests"}
    assert none.of_nights == []
    files = [f"manifests/{file.name}" for file in folded.files(SYNC_CHANGES)] if differs else []
    assert sorted(many.of_nights) == sorted(files)
    assert len(files) <= MOST_FILES
