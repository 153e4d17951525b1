"""``mastosync check`` on what would damage, expose or miss objects: status 1, and what to change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli import main
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster_tests.support.acls import let_everybody_read

if TYPE_CHECKING:
    from mastosync_dagster_tests.integration.conftest import World

PRIVATE = "destination private"


def failed() -> dict[str, str]:
    """Check, and return the texts of what failed by their names."""
    outcome = CliRunner().invoke(main, ["check", "--json"])
    lines = {line["name"]: line for line in json.loads(outcome.output)}
    found = {name: line["text"] for name, line in lines.items() if line["verdict"] == "failed"}
    assert outcome.exit_code == bool(found)
    return found


def left_behind(world: World) -> frozenset[str]:
    return list_keys(world.destination.server, world.destination.name)


def test_a_destination_that_keeps_what_is_private_passes_and_nothing_stays_behind(world_with_acls: World) -> None:
    assert failed() == {}
    assert left_behind(world_with_acls) == frozenset()


@pytest.mark.parametrize("folder", ["", "media_attachments/files/", "cache/", "backups/"])
def test_a_policy_that_lets_everybody_read_what_is_private_fails(world_with_acls: World, folder: str) -> None:
    let_everybody_read(world_with_acls.destination, folder)
    found = failed()
    assert found.keys() == {PRIVATE}
    assert "DESTINATION_S3_PERMISSION" in found[PRIVATE]
    assert "policy" in found[PRIVATE]
    assert left_behind(world_with_acls) == frozenset()


@pytest.mark.parametrize("permission", ["private", "authenticated-read", "bucket-owner-full-control"])
def test_a_permission_that_is_not_public_waits_for_a_decision_about_what_is_private(
    world_with_acls: World, monkeypatch: pytest.MonkeyPatch, permission: str
) -> None:
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", permission)
    found = failed()
    assert found.keys() == {PRIVATE}
    assert "DESTINATION_S3_PERMISSION" in found[PRIVATE]
    assert "MASTOSYNC_COPY_PRIVATE" in found[PRIVATE]
    for decision in ("true", "false"):
        monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", decision)
        assert failed() == {}
    assert left_behind(world_with_acls) == frozenset()


@pytest.mark.parametrize("permission", ["", "private"])
def test_a_bucket_that_is_said_not_to_be_public_and_is_fails(
    world_with_acls: World, monkeypatch: pytest.MonkeyPatch, permission: str
) -> None:
    let_everybody_read(world_with_acls.destination)
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", permission)
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "true")
    found = failed()
    assert found.keys() == {PRIVATE}
    assert "MASTOSYNC_COPY_PRIVATE" in found[PRIVATE]
    # Without the claim it is what such a bucket is for.
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "false")
    assert failed() == {}
