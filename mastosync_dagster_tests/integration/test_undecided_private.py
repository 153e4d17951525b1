"""Private objects that wait for a decision are neither done nor forgotten: each command that counts says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.records.doubts import Doubt
from mastosync_dagster_tests.support.private_media import MEDIA
from mastosync_dagster_tests.support.reporting import status

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.installation import Installation

pytestmark = pytest.mark.long

SYNC = ("sync", MEDIA.value)
CHECK = ("cutover", "check", "--quick")


def says(*arguments: str, ends_with: int = 0) -> str:
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == ends_with, outcome.output
    return outcome.stdout


def line_of(text: str, name: str) -> str:
    (line,) = (each for each in text.splitlines() if name in each)
    return line


@pytest.fixture
def undecided(world: Installation, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """A destination without ACLs, and nobody has said what is to become of private objects."""
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "1000")
    monkeypatch.delenv("MASTOSYNC_COPY_PRIVATE")
    return world


def test_what_waits_for_a_decision_is_left_and_its_range_has_failed(
    undecided: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = undecided
    private = sum(each.private for each in world.instance.objects_of(MEDIA))
    there = len(world.instance.objects_of(MEDIA)) - private
    assert private
    says(*SYNC, ends_with=1)
    for _ in range(2):
        found = status(MEDIA.value)
        assert (found["materialized"], found["failed"], found["not_run"]) == (0, 1, 0)
        assert (found["objects_done"], found["objects_left"]) == (there, private)
        assert found["objects_in_doubt"][Doubt.SKIPPED.value] == private  # type: ignore[index]  # it is an object
        assert f"{private} are private and were not copied" in line_of(says("status", MEDIA.value), "in doubt")
        screen = says("status")
        assert "[####################] 100 %" not in line_of(screen, f"{MEDIA.value}  [")
        assert f"{private} private objects are not copied: decide with MASTOSYNC_COPY_PRIVATE" in screen
        assert f"{private} are private and were not copied" in line_of(says("report", MEDIA.value), "in doubt")
        assert line_of(says(*CHECK, ends_with=1), "failed objects:").startswith("no")
        # The night after it fails as well, and changes nothing of that.
        says(*SYNC, "--changed-since", "last", ends_with=1)

    # As soon as it is decided they are left out, and none of them is left.
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "false")
    found = status(MEDIA.value)
    assert (found["materialized"], found["failed"]) == (1, 0)
    assert (found["objects_done"], found["objects_left"]) == (there, 0)
    assert "MASTOSYNC_COPY_PRIVATE" not in says("status")
    assert line_of(says(*CHECK, ends_with=1), "failed objects:") == "ok    failed objects: none"

    # Decided the other way they are still to be copied, which the next run does.
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "true")
    assert status(MEDIA.value)["objects_left"] == private
    says(*SYNC, "--changed-since", "last")
    found = status(MEDIA.value)
    assert (found["materialized"], found["failed"]) == (1, 0)
    assert (found["objects_done"], found["objects_left"]) == (there + private, 0)


def test_what_a_materialized_range_has_skipped_waits_when_the_decision_is_taken_back(
    skipping: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = status(MEDIA.value)
    assert done["objects_left"] == 0
    monkeypatch.delenv("MASTOSYNC_COPY_PRIVATE")
    found = status(MEDIA.value)
    private = sum(each.private for each in skipping.instance.objects_of(MEDIA))
    assert (found["objects_done"], found["objects_left"]) == (done["objects_done"], private)


def test_what_the_policy_leaves_out_waits_for_no_decision(
    undecided: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(*SYNC, ends_with=1)
    assert undecided.dagster
    before = status(MEDIA.value)["objects_left"]
    monkeypatch.setenv("MASTOSYNC_LOCAL_ONLY", "true")
    found = status(MEDIA.value)
    of_remote = sum(each.private and each.key.startswith("cache/") for each in undecided.instance.objects_of(MEDIA))
    assert found["objects_left"] == before - of_remote  # type: ignore[operator]  # it is a number
