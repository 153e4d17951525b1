"""Folds of the manifests of many runs: nothing is lost, whenever the process ends."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from mastosync_dagster.cli.latest_outcomes import Inventory
from mastosync_dagster.expected.records import Records
from mastosync_dagster.plan.differing import Differing
from mastosync_dagster.plan.items import ExpectedObject
from mastosync_dagster.ranges.file_types import FileType
from mastosync_dagster.records.folding import ARCHIVE, fold_manifests
from mastosync_dagster.records.manifest import FORMAT, ManifestLine
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.parquet import LineWriter
from mastosync_dagster.records.store import BucketManifests, FolderManifests, ManifestStore
from mastosync_dagster.runs.manifests import Damaged, ManifestOrigin, Passed, RunTimes, passed
from mastosync_dagster.runs.watermarks import SYNC_CHANGES
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.manifests import manifest_line
from mastosync_dagster_tests.support.proxy import Answer, Rule, s3_proxy
from mastosync_dagster_tests.support.transfers import storage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mastosync_dagster.records.store import StoredManifest
    from mastosync_dagster_tests.support.corners import Bucket

ORIGINS = [ManifestOrigin(name, acls=True) for name in ("one/", "other/")]
ROWS = range(30)
BEGINNING = datetime(2026, 1, 1, tzinfo=timezone.utc)


def publish(
    store: ManifestStore, folder: Path, group: str, partition: str, run: int, lines: Sequence[ManifestLine]
) -> None:
    """Publish a run's manifest; two runs each in the same second, as S3 tells times."""
    at = BEGINNING + timedelta(hours=run // 2)
    times = RunTimes(begun=at, read_at=at + timedelta(minutes=run), read_until=at + timedelta(hours=1))
    origin = {**ORIGINS[run % 3 == 0].metadata(), **times.metadata()}
    origin |= Passed(changed=frozenset({"accounts"})).metadata()
    file = folder / "manifest.parquet"
    with LineWriter[ManifestLine](file, FORMAT.schema(origin)) as writer:
        for line in lines:
            writer.write(line)
    where = store.write(file, group, partition, f"run-{run}")
    if isinstance(store, FolderManifests):
        os.utime(where, (at.timestamp(), at.timestamp()))


def some_lines(chance: random.Random) -> list[ManifestLine]:
    """Return lines of some attachments, with an object or two each; some under new keys, some that failed."""
    lines = []
    for row in chance.sample(ROWS, 8):
        attachment, version = chance.choice(["avatar", "header"]), chance.randrange(2)
        for style in ("original", "static")[: chance.randint(1, 2)]:
            outcome = chance.choice([Outcome.COPIED, Outcome.PRESENT, Outcome.MISSING, Outcome.FAILED])
            key = f"{attachment}/{row}/{version}/{style}"
            lines.append(
                manifest_line(
                    row,
                    group="accounts",
                    part=f"{attachment}/{style}",
                    key=key,
                    source_key=None if chance.random() < 0.2 else key,
                    outcome=outcome,
                    reason=Reason.TIMEOUT if outcome is Outcome.FAILED else None,
                    size=chance.randint(1, 10**6),
                )
            )
    return lines


def fill(store: ManifestStore, folder: Path, seed: int, runs: int = 24) -> None:
    """Publish the manifests of incremental runs, and in their midst the one of an ID range."""
    chance = random.Random(seed)
    for run in range(runs):
        if run == runs // 2:
            publish(store, folder, "accounts", "0-14", run, [each for each in some_lines(chance) if each.row_id < 15])
        else:
            publish(store, folder, SYNC_CHANGES, "changes", run, some_lines(chance))


def statements(store: ManifestStore) -> tuple[object, ...]:
    """Return all that is read of manifests: the report's lines and counts, and the records, of each destination."""
    reports = []
    for origin in ORIGINS:
        inventory = Inventory(store, origin, FileType.ACCOUNTS, Damaged(pytest.fail))
        lines = sorted(str(line) for lines in inventory.lines(list(Outcome)) for line in lines)
        assert lines
        reports.append((lines, inventory.totals))
    keys = [
        (row, f"{attachment}/{row}/{version}/{style}")
        for row in ROWS
        for attachment in ("avatar", "header")
        for version in range(2)
        for style in ("original", "static")
    ]
    unasked: Any = None  # neither the database nor what the storages have is asked for
    objects = [Differing(ExpectedObject(key, row_id=row), key, unasked, unasked) for row, key in keys]
    records = [Records(unasked, store, origin, "", pytest.fail)._records("accounts", objects) for origin in ORIGINS]
    assert all(map(len, records))
    return reports, records


def fold(store: ManifestStore) -> None:
    fold_manifests(store, SYNC_CHANGES, "changes", pytest.fail)


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ManifestStore:
    """Each kind of store in turn, empty."""
    if request.param == "folder":
        return FolderManifests(tmp_path / "kept")
    bucket: Bucket = request.getfixturevalue("moto_bucket")
    return BucketManifests(storage(bucket, "destination", prefix="manifests/"))


@pytest.mark.long(cases=2)
@pytest.mark.parametrize("seed", range(2))
def test_a_fold_says_all_that_its_manifests_say(store: ManifestStore, tmp_path: Path, seed: int) -> None:
    fill(store, tmp_path, seed)
    before, runs = statements(store), store.runs(SYNC_CHANGES)
    fold(store)
    files = list(store.files(SYNC_CHANGES))
    assert len(files) == 11
    assert statements(store) == before
    archive = store.runs(ARCHIVE.format(group=SYNC_CHANGES))
    assert len(archive) == 13
    assert archive | store.runs(SYNC_CHANGES) >= runs
    (folded,) = [file for file in files if file.run_id not in runs]
    assert [passed(store.file, folded, origin).changed for origin in ORIGINS] == [{"accounts"}, {"accounts"}]
    fold(store)
    assert {file.run_id for file in store.files(SYNC_CHANGES)} == {file.run_id for file in files}


def killed_at(step: int, store: FolderManifests, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Fold in a process that is killed before a step that changes the store; return whether it came to that."""
    child = os.fork()
    if child == 0:
        left, status = [step], 1

        def counted(change: Callable[..., Any]) -> Callable[..., Any]:
            def change_or_die(*args: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return change(*args)

            return change_or_die

        try:
            for name in ("write", "remove"):
                monkeypatch.setattr(store, name, counted(getattr(store, name)))
            fold(store)
            status = 0
        finally:
            os._exit(status)
    ended = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(ended) or os.waitstatus_to_exitcode(ended) == 0
    return os.WIFSIGNALED(ended)


@pytest.mark.parametrize("step", [0, 1, 2, 3, 20, 21])
def test_killed_between_any_two_steps_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The fold is published, then each of ten manifests is copied to the archive, and removed."""
    store = FolderManifests(tmp_path / "kept")
    fill(store, tmp_path, seed=9, runs=21)
    before = statements(store)
    shutil.copytree(tmp_path / "kept", tmp_path / "copy")
    assert killed_at(step, store, monkeypatch) is (step < 1 + 10 * 2)
    assert statements(store) == before
    # What the killed one has left is folded with the next ones, and stands in two folds.
    shutil.copytree(tmp_path / "copy", tmp_path / "kept", dirs_exist_ok=True)
    fold(store)
    assert statements(store) == before


@pytest.mark.long
def test_after_a_thousand_nights_there_are_some_thirty_files_and_a_report_reads_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderManifests(tmp_path / "kept")
    publish(store, tmp_path, SYNC_CHANGES, "changes", 0, some_lines(random.Random(1)))
    (first,) = store.files(SYNC_CHANGES)
    with store.file(first) as file:
        for night in range(1, 1_000):
            copy = file.with_name(f"night-{night}.parquet")
            os.link(file, copy)
            if night % 25 == 0:
                fold(store)
                assert len(list(store.files(SYNC_CHANGES))) <= 45
    assert len(store.runs(ARCHIVE.format(group=SYNC_CHANGES))) == 966

    fold(store)
    read, file_of = Counter[str](), FolderManifests.file

    def counted(store: FolderManifests, manifest: StoredManifest) -> AbstractContextManager[Path]:
        read[manifest.name] += 1
        return file_of(store, manifest)

    monkeypatch.setattr(FolderManifests, "file", counted)
    # A bucket's manifest is a GET, so time and requests grow with the number of files alone.
    assert list(Inventory(store, ORIGINS[1], FileType.ACCOUNTS, Damaged(pytest.fail)).lines(list(Outcome)))
    assert read == {manifest.name: 1 for manifest in store.files(SYNC_CHANGES)}
    assert read.total() <= 45


def test_where_nothing_may_be_deleted_nothing_is_folded_again_and_again(moto_bucket: Bucket, tmp_path: Path) -> None:
    with s3_proxy(moto_bucket.server.endpoint) as proxy:
        store = BucketManifests(storage(moto_bucket, "destination", endpoint=proxy.endpoint, prefix="manifests/"))
        fill(store, tmp_path, seed=3, runs=21)
        before = sorted(store.files(SYNC_CHANGES))
        proxy.set_rules(Rule(Answer(403, "AccessDenied"), method="DELETE"))
        for _ in range(2):
            with pytest.raises(StorageError, match="AccessDenied"):
                fold(store)
        assert sorted(store.files(SYNC_CHANGES)) == before
        proxy.set_rules()
        fold(store)
        assert len(list(store.files(SYNC_CHANGES))) == 11


def test_what_cannot_be_read_stays_and_keeps_nothing_from_being_folded(tmp_path: Path) -> None:
    store = FolderManifests(tmp_path / "kept")
    fill(store, tmp_path, seed=5)
    damaged = tmp_path / "kept" / SYNC_CHANGES / "changes" / "run-1.parquet"
    damaged.write_bytes(b"damaged")
    os.utime(damaged, (0, 0))
    warnings: list[str] = []
    fold_manifests(store, SYNC_CHANGES, "changes", warnings.append)
    assert len(warnings) == 1
    assert "run-1.parquet is not folded" in warnings[0]
    assert damaged.read_bytes() == b"damaged"
    assert len(list(store.files(SYNC_CHANGES))) == 12


def test_a_report_reads_again_what_is_folded_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderManifests(tmp_path / "kept")
    fill(store, tmp_path, seed=3)
    before, listed = statements(store), store.files
    folded: list[bool] = []

    def list_then_fold(group: str, partition: str | None = None) -> list[Any]:
        found = list(listed(group, partition))
        if group == SYNC_CHANGES and not folded:
            folded.append(True)
            fold(FolderManifests(tmp_path / "kept"))
        return found

    monkeypatch.setattr(store, "files", list_then_fold)
    assert statements(store) == before
    assert folded
