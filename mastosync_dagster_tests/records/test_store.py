"""Where manifests stay: in a folder, or in a private bucket, found again by partition."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.records.manifest import ManifestWriter
from mastosync_dagster.records.parquet import GROUP_LINES
from mastosync_dagster.records.store import (
    BucketManifests,
    FolderManifests,
    ManifestStore,
    ManifestStoreError,
    StoredManifest,
)
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster_tests.support.manifests import manifest_line, newest_of_each
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule, s3_proxy
from mastosync_dagster_tests.support.transfers import storage

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ManifestStore:
    """Each kind of store in turn, empty."""
    if request.param == "folder":
        return FolderManifests(tmp_path / "kept")
    bucket: Bucket = request.getfixturevalue("moto_bucket")  # its times are in whole seconds, as those of S3
    return BucketManifests(storage(bucket, "destination", prefix="manifests/"))


def manifest(folder: Path, *numbers: int) -> Path:
    """Write a local manifest with a line for each number."""
    file = folder / "manifest.parquet"
    with ManifestWriter(file) as writer:
        for number in numbers:
            writer.write(manifest_line(number))
    return file


def rows(store: ManifestStore, kept: StoredManifest) -> list[int]:
    return [line.row_id for lines in store.read(kept) for line in lines]


def test_a_manifest_is_kept_and_read_again(store: ManifestStore, tmp_path: Path) -> None:
    where = store.write(manifest(tmp_path, 1, 2), "media", "-99-50000", "run-1")
    assert where.endswith("media/-99-50000/run-1.parquet")
    (kept,) = newest_of_each(store, "media")
    assert (kept.group, kept.partition, kept.run_id) == ("media", "-99-50000", "run-1")
    assert abs(kept.written.timestamp() - time.time()) < 60
    assert rows(store, kept) == [1, 2]
    with store.file(kept) as file:
        assert file.read_bytes() == (tmp_path / "manifest.parquet").read_bytes()


def test_the_newest_of_each_partition_counts(store: ManifestStore, tmp_path: Path) -> None:
    # Names do not tell the age.
    for number, (partition, run) in enumerate([("1-9", "z"), ("10-19", "b"), ("1-9", "a")], start=1):
        store.write(manifest(tmp_path, number), "media", partition, run)
    store.write(manifest(tmp_path, 9), "accounts", "1-9", "other")
    assert [(kept.partition, kept.run_id, rows(store, kept)) for kept in newest_of_each(store, "media")] == [
        ("1-9", "a", [3]),
        ("10-19", "b", [2]),
    ]
    newest = store.in_order("media", "1-9")[-1]
    assert newest.run_id == "a"
    assert store.in_order("media")[0].run_id == "z"


def test_of_two_within_a_second_the_one_that_was_written_later_is_the_newer(
    store: ManifestStore, tmp_path: Path
) -> None:
    files = []
    for number, run in enumerate(["z", "m", "a"]):
        folder = tmp_path / run
        folder.mkdir()
        files.append((manifest(folder, number), run))
    time.sleep(1 - time.time() % 1)
    for file, run in reversed(files):
        place = store.write(file, "media", "1-9", run)
        if "://" not in place:
            os.utime(place, (1_700_000_000, 1_700_000_000))
    kept = {each.run_id: each for each in store.files("media")}
    assert len({each.written for each in kept.values()}) == 1
    assert [each.run_id for each in store.in_order("media")] == ["z", "m", "a"]
    newest = store.in_order("media", "1-9")[-1]
    assert [newest, *newest_of_each(store, "media")] == [kept["a"], kept["a"]]
    assert store.is_later(kept["a"], kept["z"])
    assert not store.is_later(kept["z"], kept["m"])


def test_an_empty_store_has_none(store: ManifestStore) -> None:
    assert newest_of_each(store, "media") == []
    assert store.in_order("media", "1-9") == []
    assert store.in_order("media") == []


def test_written_twice_the_later_one_counts(store: ManifestStore, tmp_path: Path) -> None:
    store.write(manifest(tmp_path, 1), "media", "1-9", "run")
    store.write(manifest(tmp_path, 2), "media", "1-9", "run")
    (kept,) = newest_of_each(store, "media")
    assert rows(store, kept) == [2]


def test_a_large_manifest_is_read_in_batches(store: ManifestStore, tmp_path: Path) -> None:
    store.write(manifest(tmp_path, *range(2 * GROUP_LINES + 1)), "media", "1-9", "run")
    (kept,) = newest_of_each(store, "media")
    assert [len(lines) for lines in store.read(kept)] == [GROUP_LINES, GROUP_LINES, 1]


@pytest.mark.parametrize(
    "names", [("..", "1-9", "r"), ("media", "1/9", "r"), ("media", "1-9", ""), ("m\n", "1-9", "r")]
)
def test_what_is_no_name_writes_nothing(store: ManifestStore, tmp_path: Path, names: tuple[str, str, str]) -> None:
    with pytest.raises(ManifestStoreError, match="not a name"):
        store.write(manifest(tmp_path, 1), *names)
    assert newest_of_each(store, "media") == []


def test_a_folder_never_shows_half_a_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    store = FolderManifests(folder)
    store.write(manifest(tmp_path, 1), "media", "1-9", "run")
    (folder / "media/1-9/.other.parquet.unfinished").write_bytes(b"half")
    (folder / "media/1-9/.other.parquet").write_bytes(b"half")
    assert [kept.run_id for kept in newest_of_each(store, "media")] == ["run"]


def test_a_manifest_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kept"
    target, synced, sync = folder / "media/1-9/run.parquet", list[tuple[int, bool]](), os.fsync

    def fsync(opened: int) -> None:
        synced.append((os.fstat(opened).st_ino, target.exists()))
        sync(opened)

    monkeypatch.setattr(os, "fsync", fsync)
    FolderManifests(folder).write(manifest(tmp_path, 1), "media", "1-9", "run")
    above = [(each.stat().st_ino, True) for each in (target.parent, target.parent.parent, folder)]
    assert synced == [(target.stat().st_ino, False), *above]


@pytest.mark.parametrize(
    "name",
    ["", "media/", "media/1-9/", "media/x.parquet/", "media/1-9/z.txt", "media/x.parquet", "media/1-9/deep/er.parquet"]
    + [
        "media//x.parquet",
        "media/1-9//x.parquet",
        "//",
        "media/./x.parquet",
        "media/../x.parquet",
        "media/1-9/.parquet",
    ]
    + ["media/1-9/a b.parquet", "media/ü/x.parquet", "media/1-9/%2F.parquet", "media0", "media"],
)
def test_what_somebody_else_has_put_there_ends_nothing(moto_bucket: Bucket, tmp_path: Path, name: str) -> None:
    store = BucketManifests(storage(moto_bucket, "destination", prefix="manifests/"))
    store.write(manifest(tmp_path, 1), "media", "1-9", "run")
    moto_bucket.client.put_object(Bucket=moto_bucket.name, Key=f"manifests/{name}", Body=b"foreign")
    assert [(kept.partition, kept.run_id) for kept in newest_of_each(store, "media")] == [("1-9", "run")]
    newest = store.in_order("media", "1-9")[-1]
    assert newest.run_id == "run"
    assert store.runs("media") == {"run"}
    assert rows(store, store.in_order("media")[0]) == [1]


@pytest.mark.parametrize("name", ["media/1-9/x.parquet/", "media/a b/x.parquet", "media/1-9/ü.parquet", "x.parquet"])
def test_what_somebody_else_has_put_into_the_folder_ends_nothing(tmp_path: Path, name: str) -> None:
    store = FolderManifests(tmp_path / "kept")
    store.write(manifest(tmp_path, 1), "media", "1-9", "run")
    foreign = tmp_path / "kept" / name
    if name.endswith("/"):
        foreign.mkdir(parents=True)
    else:
        foreign.parent.mkdir(parents=True, exist_ok=True)
        foreign.write_text("foreign")
    assert [kept.run_id for kept in store.in_order("media")] == ["run"]


def test_a_folder_that_cannot_be_written_is_named_with_the_variable(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file where a folder should be")
    with pytest.raises(ManifestStoreError, match="MASTOSYNC_MANIFESTS"):
        FolderManifests(tmp_path / "kept").write(manifest(tmp_path, 1), "media", "1-9", "run")
    full = tmp_path / "full/media/1-9"
    full.mkdir(parents=True)
    (full / ".run.parquet.unfinished").symlink_to("/dev/full")
    with pytest.raises(ManifestStoreError, match=r"No space left on device.*MASTOSYNC_MANIFESTS"):
        FolderManifests(tmp_path / "full").write(manifest(tmp_path, 1), "media", "1-9", "run")
    assert list(full.iterdir()) == []


def test_a_manifest_that_went_away_is_named(store: ManifestStore, tmp_path: Path) -> None:
    store.write(manifest(tmp_path, 1), "media", "1-9", "run")
    (kept,) = newest_of_each(store, "media")
    gone = StoredManifest("media", "1-9", kept.written, "gone")
    with pytest.raises(ManifestStoreError, match=r"gone\.parquet"):
        rows(store, gone)


def test_a_bucket_that_refuses_says_what_to_change(destination_bucket: Bucket, tmp_path: Path) -> None:
    refuse = Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.PUT, Kind.LIST}))
    with s3_proxy(destination_bucket.server.endpoint, refuse) as proxy:
        store = BucketManifests(storage(destination_bucket, "destination", endpoint=proxy.endpoint))
        with pytest.raises(StorageError, match="refuses to be written to"):
            store.write(manifest(tmp_path, 1), "media", "1-9", "run")
        with pytest.raises(StorageError, match="the right to list"):
            newest_of_each(store, "media")


@pytest.mark.parametrize(("permission", "acl"), [("public-read", "private"), (None, None)])
def test_manifests_are_private(
    destination_bucket: Bucket, tmp_path: Path, permission: str | None, acl: str | None
) -> None:
    with s3_proxy(destination_bucket.server.endpoint) as proxy:
        destination = storage(destination_bucket, "destination", endpoint=proxy.endpoint, permission=permission)
        BucketManifests(destination).write(manifest(tmp_path, 1), "media", "1-9", "run")
        assert [request.headers.get("x-amz-acl") for request in proxy.requests] == [acl]


def test_a_manifest_is_sent_with_its_md5(tmp_path: Path, destination_bucket: Bucket) -> None:
    with s3_proxy(destination_bucket.server.endpoint) as proxy:
        store = BucketManifests(storage(destination_bucket, "destination", endpoint=proxy.endpoint))
        file = manifest(tmp_path, 3)
        store.write(file, "media", "1-9", "run")
        (sent,) = [request for request in proxy.requests if request.method == "PUT"]
        md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).digest()
        assert sent.headers["content-md5"] == base64.b64encode(md5).decode()
