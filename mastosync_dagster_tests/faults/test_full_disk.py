"""No room for the plan or the manifest: one message, and nothing half-written."""

from __future__ import annotations

import contextlib
import resource
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.failures import plain_failures
from mastosync_dagster.transfer.manifest import ManifestLine, ManifestWriter
from mastosync_dagster.transfer.outcomes import Outcome
from mastosync_dagster.transfer.planfile import PlanWriter
from mastosync_dagster_tests.support.transfers import line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROOM = 8_192


@contextlib.contextmanager
def little_room() -> Iterator[None]:
    """Let no file grow beyond a few kilobytes: to whoever writes it is like a full disk, and needs no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_ROOM, before[1]))
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
