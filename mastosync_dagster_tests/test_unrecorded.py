"""Which manifests still describe objects: none whose private rows a run without one may have made public."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType

from mastosync_dagster.history import read_until_tag
from mastosync_dagster.manifests import About, Damaged
from mastosync_dagster.outbox import Outbox
from mastosync_dagster.partitions import FileType
from mastosync_dagster.privacy import private_rows
from mastosync_dagster.run_lock import hold
from mastosync_dagster.transfer.manifest import NOT_WRITTEN_DOWN, ManifestLine, ManifestWriter, merge
from mastosync_dagster.transfer.manifest_store import FolderManifests, ManifestStoreError
from mastosync_dagster.transfer.outcomes import Outcome, Reason
from mastosync_dagster.transfer.planfile import COPIED
from mastosync_dagster.unrecorded import trust

if TYPE_CHECKING:
    from collections.abc import Iterator

MEDIA = FileType.MEDIA_ATTACHMENTS
TAG = read_until_tag(MEDIA)
ABOUT = About(place="somewhere", acls=True)
ROW = 5


@dg.op
def end_badly() -> None:
    raise dg.Failure(description="that is what it is for", allow_retries=False)


@dg.job
def failing() -> None:
    end_badly()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> FolderManifests:
    return FolderManifests(tmp_path / "manifests")


def line(*, private: bool, outcome: Outcome = Outcome.COPIED, reason: Reason | None = None) -> ManifestLine:
    detail = None if reason is None else NOT_WRITTEN_DOWN
    return ManifestLine(MEDIA.value, ROW, "file/original", "a", "a", outcome, reason, detail, 1, None, private, None)


def manifest(folder: Path, *lines: ManifestLine) -> Path:
    """Write a manifest as a run does."""
    folder.mkdir()
    with ManifestWriter(folder / COPIED) as writer:
        for one in lines:
            writer.write(one)
    return merge(folder, ABOUT.metadata())


def failed_run(instance: dg.DagsterInstance, reader: str | None = None) -> str:
    """Let a run fail that has read the rows; the tag names it, or the run that it repeats."""
    run_id = failing.execute_in_process(instance=instance, raise_on_error=False).run_id
    instance.add_run_tags(run_id, {TAG: f"2026-01-01T00:00:00.000000+00:00|{reader or run_id}"})
    return run_id


def running_run(instance: dg.DagsterInstance, *, here: bool) -> None:
    """Have a run in progress; of one that is here the lock is held."""
    run = instance.create_run_for_job(failing)
    event = DagsterEvent(event_type_value=DagsterEventType.RUN_START.value, job_name=run.job_name)
    instance.report_dagster_event(event, run.run_id)
    if here:
        hold(instance, run.run_id)
    instance.add_run_tags(run.run_id, {TAG: f"2026-01-01T00:00:00.000000+00:00|{run.run_id}"})


def known(store: FolderManifests, instance: dg.DagsterInstance) -> set[int]:
    damaged = Damaged(lambda _: None)
    return private_rows(store, ABOUT, MEDIA.value, damaged, trusted=trust(instance, store, MEDIA))


def publish(store: FolderManifests, folder: Path, run_id: str, *lines: ManifestLine, at: float) -> Path:
    """Publish a manifest of some range at a moment."""
    path = Path(store.write(manifest(folder, *lines), MEDIA.value, f"range-{folder.name}", run_id))
    os.utime(path, (at, at))
    return path


def test_a_run_without_a_manifest_takes_the_trust_from_those_that_began_before_its_end(
    instance: dg.DagsterInstance, store: FolderManifests, tmp_path: Path
) -> None:
    before = failed_run(instance)
    publish(store, tmp_path / "1", before, line(private=True), at=1)
    assert trust(instance, store, MEDIA).since is None
    assert known(store, instance) == {ROW}
    failed_run(instance)
    assert known(store, instance) == set()
    after = failed_run(instance)
    publish(store, tmp_path / "2", after, line(private=True), at=2)
    assert known(store, instance) == {ROW}


def test_nor_is_a_manifest_trusted_whose_run_nobody_knows_any_more(
    instance: dg.DagsterInstance, store: FolderManifests, tmp_path: Path
) -> None:
    publish(store, tmp_path / "1", "deleted", line(private=True), at=1)
    assert known(store, instance) == {ROW}
    failed_run(instance)
    assert known(store, instance) == set()


def test_a_repetition_that_has_read_nothing_yet_has_copied_nothing(
    instance: dg.DagsterInstance, store: FolderManifests
) -> None:
    failed_run(instance, reader="the first one")
    assert trust(instance, store, MEDIA).since is None


def test_a_run_in_progress_takes_the_trust_unless_its_process_is_there(
    instance: dg.DagsterInstance, store: FolderManifests
) -> None:
    running_run(instance, here=True)
    assert trust(instance, store, MEDIA).since is None
    running_run(instance, here=False)
    assert trust(instance, store, MEDIA).since is not None


@pytest.mark.parametrize(
    "later",
    [
        line(private=False),
        line(private=False, outcome=Outcome.FAILED, reason=Reason.NOT_ATTEMPTED),
        line(private=False, outcome=Outcome.FAILED, reason=Reason.TIMEOUT),
    ],
)
def test_what_a_later_run_may_have_written_public_is_not_known_to_be_private(
    instance: dg.DagsterInstance, store: FolderManifests, tmp_path: Path, later: ManifestLine
) -> None:
    publish(store, tmp_path / "1", "one", line(private=True), at=1)
    publish(store, tmp_path / "2", "two", later, at=2)
    assert known(store, instance) == set()


def test_nor_is_anything_that_a_manifest_before_a_damaged_one_calls_private(
    instance: dg.DagsterInstance, store: FolderManifests, tmp_path: Path
) -> None:
    publish(store, tmp_path / "1", "one", line(private=True), at=1)
    publish(store, tmp_path / "2", "two", line(private=False), at=2).write_bytes(b"")
    os.utime(tmp_path / "manifests" / MEDIA.value / "range-2" / "two.parquet", (2, 2))
    assert known(store, instance) == set()


def wait_in_the_outbox(instance: dg.DagsterInstance, file: Path, partition: str, run_id: str) -> None:
    """Have a manifest wait: there is a file where its folder would be."""
    nowhere = file.parent / "nowhere"
    nowhere.write_text("")
    with pytest.raises(ManifestStoreError, match="MASTOSYNC_MANIFESTS"):
        Outbox(instance).publish(FolderManifests(nowhere), file, MEDIA.value, partition, run_id)


def late(store: FolderManifests) -> set[str]:
    return store.runs(f"late-{MEDIA.value}")


def test_manifests_that_waited_are_published_apart_and_say_nothing_of_what_is_private(
    instance: dg.DagsterInstance, store: FolderManifests, tmp_path: Path
) -> None:
    before = failed_run(instance)
    publish(store, tmp_path / "before", before, line(private=True), at=1)
    runs = {failed_run(instance), failed_run(instance)}
    for number, run_id in enumerate(runs):
        file = manifest(tmp_path / str(number), line(private=bool(number)))
        wait_in_the_outbox(instance, file, str(number), run_id)
    Outbox(instance).publish_waiting(store, pytest.fail)
    assert late(store) == runs
    assert store.runs(MEDIA.value) == {before}
    assert known(store, instance) == set()
    Outbox(instance).publish_waiting(FolderManifests(tmp_path / "another"), pytest.fail)
    assert not (tmp_path / "another").exists()


def test_what_waits_for_a_run_that_the_history_has_lost_is_published_and_one_in_progress_is_left_alone(
    instance: dg.DagsterInstance, store: FolderManifests, tmp_path: Path
) -> None:
    running_run(instance, here=True)
    (running,) = instance.get_runs()
    for number, run_id in enumerate(("lost", running.run_id)):
        wait_in_the_outbox(instance, manifest(tmp_path / str(number), line(private=True)), str(number), run_id)
    Outbox(instance).publish_waiting(store, pytest.fail)
    assert late(store) == {"lost"}


def test_what_still_cannot_be_published_waits_on_with_a_warning(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run_id = failed_run(instance)
    wait_in_the_outbox(instance, manifest(tmp_path / "1", line(private=True)), "1", run_id)
    told: list[str] = []
    Outbox(instance).publish_waiting(FolderManifests(tmp_path / "1" / "nowhere"), told.append)
    assert len(told) == 1
    assert run_id in told[0]
    assert "MASTOSYNC_MANIFESTS" in told[0]
