"""No room for the plan or the manifest: one message, and nothing half-written."""

from __future__ import annotations

import contextlib
import resource
import subprocess
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.failures import plain_failures
from mastosync_dagster.transfer.manifest import NOT_WRITTEN_DOWN, ManifestLine, ManifestWriter, merge, read_manifest
from mastosync_dagster.transfer.outcomes import Outcome, Reason
from mastosync_dagster.transfer.planfile import COPIED, PlanWriter
from mastosync_dagster_tests.faults.copy_process import copy_command
from mastosync_dagster_tests.support.transfers import Transfer, line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster_tests.conftest import Bucket

_ROOM = 8_192


@contextlib.contextmanager
def little_room(room: int = _ROOM) -> Iterator[None]:
    """Let no file grow beyond a few kilobytes: to whoever writes it is like a full disk, and needs no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
def test_a_full_disk_is_told_in_one_message_and_leaves_no_file_that_looks_whole(tmp_path: Path, write: object) -> None:
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
