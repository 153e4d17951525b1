"""Installations in which accounts are suspended, and what is open in them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster_tests.support.private_media import (
    MEDIA,
    newest,
    nightly,
)

if TYPE_CHECKING:
    from mastosync_dagster.ranges.partitions import FileType
    from mastosync_dagster_tests.support.installation import Installation


SUSPEND = "UPDATE accounts SET suspended_at = now() WHERE id = %s"
UNSUSPEND = "UPDATE accounts SET suspended_at = NULL WHERE id = %s"


def details(world: Installation, table: FileType = MEDIA) -> list[str | None]:
    """Return the remarks of the last night about what it has not found as it must be, but for what is missing."""
    lines = [line for line in newest(world, "sync_changes") if line.group == table.value]
    return [line.detail for line in lines if line.outcome is not Outcome.MISSING]


def open_objects(world: Installation) -> dict[str, int]:
    """Return what ``mastosync status`` says of the media."""
    result = CliRunner().invoke(main, ["status", MEDIA.value, "--json"])
    assert result.exit_code == 0, result.output
    (recorded,) = json.loads(result.output)
    counts: dict[str, int] = recorded["objects_in_doubt"]
    assert recorded["objects_left"] >= counts["acl"] + counts["failed"]
    assert world.dagster is not None
    return counts


@pytest.fixture
def settled(synced_with_acls: Installation) -> Installation:
    """The media copied, and a night that has nothing to do."""
    assert nightly(synced_with_acls).success
    assert details(synced_with_acls) == []
    return synced_with_acls


@pytest.fixture
def skipping(world: Installation, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """The media copied to a destination without ACLs, what is private skipped, and a night after that."""
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "1000")
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "false")
    ((key,),) = world.register(MEDIA).values()
    assert world.run("sync_media_attachments", key).success
    assert nightly(world).success
    return world
