"""No room for the plan or the manifest: one message, and nothing half-written."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.demo.comparison import compare, list_keys
from mastosync_dagster.records.manifest import NOT_WRITTEN_DOWN, ManifestLine, ManifestWriter, merge, read_manifest
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.plan import COPIED, PlanWriter
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.failures import plain_failures
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.units import MIB
from mastosync_dagster_tests.faults.copy_process import copy_command
from mastosync_dagster_tests.support.mounts import little_room, mounting, run_with_mounts
from mastosync_dagster_tests.support.transfers import Transfer, line
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from mastosync_dagster_tests.faults.world import FaultyInstallation, Original
    from mastosync_dagster_tests.support.corners import Bucket

STANDS_STILL_SECONDS = 2.0
"""A run that copies would have sent 80 requests."""
WORK = "storage/mastosync-runs"
"""Where a run's folder lies in Dagster's home."""


def _write_manifest(folder: Path) -> None:
    with ManifestWriter(folder / "copied.parquet") as writer:
        for number in range(20_000):
            key = f"a/{number * 7919 % 20_011}"
            writer.write(
                ManifestLine("a", number, "b", key, key, Outcome.COPIED, None, None, number, None, False, None)
            )


def _write_plan(folder: Path) -> None:
    with PlanWriter(folder) as writer:
        for number in range(20_000):
            writer.write(line(f"a/{number * 7919 % 20_011}", str(number).encode()))


@pytest.mark.parametrize("write", [_write_manifest, _write_plan])
def test_a_full_disk_is_one_message_and_leaves_no_file_that_looks_whole(tmp_path: Path, write: object) -> None:
    assert callable(write)
    with little_room(), pytest.raises(dg.Failure) as raised, plain_failures():
        write(tmp_path)
    assert "Is the disk full" in str(raised.value.description)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_full_disk_under_the_copy_leaves_a_line_for_each_object(
    tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket
) -> None:
    transfer = Transfer(tmp_path, source_bucket, destination_bucket)
    transfer.plan(transfer.put(f"a/{number:03}", str(number).encode()) for number in range(400))
    command = copy_command(tmp_path, source_bucket, destination_bucket)
    with little_room(4_096):
        # The limit is inherited.
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=60)
    assert b"copied.parquet" in errors
    assert not (tmp_path / COPIED).exists()
    lines = [one for batch in read_manifest(merge(tmp_path)) for one in batch]
    assert {one.key for one in lines} == {f"a/{number:03}" for number in range(400)}
    assert len(lines) == 400
    assert {(one.reason, one.detail) for one in lines} == {(Reason.NOT_ATTEMPTED, NOT_WRITTEN_DOWN)}
    # Some of them have arrived: nobody says that they have not.
    assert len(transfer.keys()) > 0


SMALL_FOLDER = 'folder=$1 size=$2; shift 2; mount -t tmpfs -o "size=$size" none "$folder" && exec "$@"'
"""Runs a command that finds a folder on a small file system of its own, which nobody else sees."""


@pytest.mark.faults
@pytest.mark.parametrize(("folder", "room"), [("manifests", "4k"), (WORK, "4k"), (WORK, "32k"), (WORK, "128k")])
def test_a_whole_run_on_a_full_disk_says_so_and_is_finished_once_there_is_room(
    some: Original,
    make_world: Callable[[Original], FaultyInstallation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    room: str,
) -> None:
    world = make_world(some)
    # rclone's server keeps no ACLs: what a run without a manifest has left private or not cannot be set right there.
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "")
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "true")
    small = tmp_path / folder
    small.mkdir(parents=True)
    run = [str(Path(sys.executable).with_name("dagster")), "job", "execute", "-m", "mastosync_dagster"]
    run += ["-j", "sync_changes"]
    ended = run_with_mounts(SMALL_FOLDER, str(small), room, *run)
    assert len(world.dagster.get_runs()) == 1, ended.stderr[-3000:]
    (failed,) = world.dagster.get_runs()
    assert (ended.returncode != 0, failed.status) == (True, dg.DagsterRunStatus.FAILURE), ended.stderr[-3000:]
    assert "No space left on device" in ended.stderr
    assert "DAGSTER_HOME" in ended.stderr or "MASTOSYNC_MANIFESTS" in ended.stderr

    assert world.run().success
    assert compare(world.destination.server, world.destination.name, world.original.expected).differences == ()
    assert world.open_uploads() == []
    store = manifest_store(world.dagster, S3Bucket.destination())
    if folder == "manifests":
        # Nobody has lost what the first run had to say.
        (kept,) = (kept for kept in store.in_order("late-sync_changes") if kept.run_id == failed.run_id)
        assert {one.key for batch in store.read(kept) for one in batch} >= {each.key for each in some.expected}


@pytest.mark.long
def test_a_run_waits_while_the_disk_is_nearly_full_and_goes_on_by_itself(
    some: Original,
    make_world: Callable[[Original], FaultyInstallation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = make_world(some)
    monkeypatch.setenv("MASTOSYNC_DESTINATION_REQUESTS_PER_SECOND", "40")
    small = tmp_path / "storage"
    small.mkdir(exist_ok=True)
    run = [str(Path(sys.executable).with_name("mastosync")), "sync"]
    said = tmp_path / "said"
    with (
        said.open("wb") as log,
        mounting(SMALL_FOLDER, str(small), "60m", *run, log=log) as process,
    ):
        # Nobody else sees its disk.
        filler = Path(f"/proc/{process.pid}/root{small}/filler")

        def copied() -> int:
            assert process.poll() is None, said.read_text()[-3000:]
            return len(list_keys(world.destination.server, world.destination.name))

        wait_until(lambda: copied() > 20, 60)
        filler.write_bytes(bytes(50 * MIB))

        def stands_still() -> bool:
            before = copied()
            time.sleep(STANDS_STILL_SECONDS)
            return copied() == before

        wait_until(lambda: "Waiting. The disk of DAGSTER_HOME/storage" in said.read_text())
        # What was in flight when the disk filled still arrives, at the rate that was set.
        wait_until(stands_still)
        assert copied() < len(some.expected)
        filler.unlink()
        assert process.wait(120) == 0, said.read_text()[-3000:]
    assert compare(world.destination.server, world.destination.name, some.expected).differences == ()
