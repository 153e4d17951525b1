"""Deletions follow once a month: all ranges in one run, each under its own guards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.private_media import execute

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.installation import Installation

EMOJIS, CARDS = FileType.CUSTOM_EMOJIS, FileType.PREVIEW_CARDS
DELETE = {"ops": {"prune_all": {"config": {"delete": True, "file_types": [EMOJIS.value, CARDS.value]}}}}
ORPHAN = "custom_emojis/images/000/000/001/original/0123456789abcdef.png"


def put(world: Installation, key: str) -> None:
    world.destination.client.put_object(
        Bucket=world.destination.name, Key=key, Body=b"extra", Metadata={"mtime": "1500000000"}
    )


def there(world: Installation) -> set[str]:
    return set(list_keys(world.destination.server, world.destination.name))


def test_the_schedule_is_off_until_somebody_switches_it_on_and_deletes_then() -> None:
    schedule = build_definitions().resolve_schedule_def("monthly_prune")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    with dg.build_schedule_context() as context:
        (request,) = schedule.evaluate_tick(context).run_requests or ()
    assert request.run_config == {"ops": {"prune_all": {"config": {"delete": True}}}}


def delete_an_emoji(world: Installation) -> set[str]:
    """Delete an emoji's row; return its objects, which are old, and have been copied."""
    found = sorted(key for key in there(world) if key.startswith("custom_emojis/"))
    folder = found[0].rsplit("/", 2)[0]
    execute(world, "DELETE FROM custom_emojis WHERE id = %s", int(folder.rsplit("/", 1)[1]))
    keys = {key for key in found if key.startswith(f"{folder}/")}
    for key in keys:
        put(world, key)
    return keys


@pytest.mark.long
def test_what_no_run_has_copied_stays_unless_the_admin_says_how_many_may_go(world: Installation) -> None:
    """A few objects of another instance in each of many ranges are no share and no number that shows."""
    for key in world.register(EMOJIS)[EMOJIS]:
        assert world.run("sync_custom_emojis", key).success
    nightly = {"file_types": [EMOJIS.value], "changed_since": "last"}
    assert world.run("sync_changes", config={"ops": {"plan_changes": {"config": nightly}}}).success
    own = delete_an_emoji(world)
    before = there(world)
    assert own
    put(world, ORPHAN)
    assert world.run("prune_every_range", config=DELETE).success
    assert there(world) == before - own | {ORPHAN}
    config = {**DELETE["ops"]["prune_all"]["config"], "max_delete": 1}
    assert world.run("prune_every_range", config={"ops": {"prune_all": {"config": config}}}).success
    assert there(world) == before - own


@pytest.mark.long
def test_all_ranges_are_pruned_and_one_that_is_refused_stops_no_other(world: Installation) -> None:
    keys = world.register(EMOJIS, CARDS)
    for key in keys[EMOJIS]:
        assert world.run("sync_custom_emojis", key).success
    before = there(world) - delete_an_emoji(world)
    # Nothing expected is there: this looks like another instance's bucket. Without an orphan that refuses nothing.
    assert world.run("prune_every_range", config=DELETE).success
    assert there(world) == before

    (card, *_) = world.instance.objects_of(CARDS.value)
    another = f"{card.key.rpartition('/')[0]}/0123456789abcdef.png"
    before -= delete_an_emoji(world)
    put(world, another)
    result = world.run("prune_every_range", config=DELETE)
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data.user_failure_data
    assert data is not None
    assert "1 of" in (data.description or "")
    assert f"preview_cards {keys[CARDS][0]}" in (data.description or "")
    assert there(world) == before | {another}


@pytest.mark.long(cases=0)
def test_status_shows_how_many_orphans_a_verification_has_found(world: Installation) -> None:
    keys = world.register(EMOJIS)[EMOJIS]
    for key in keys:
        assert world.run("sync_custom_emojis", key).success

    def status() -> dict[str, object]:
        (found,) = json.loads(CliRunner().invoke(main, ["status", EMOJIS.value, "--json"]).output)
        return dict(found)

    assert status()["orphans"] is None
    assert "orphans" not in CliRunner().invoke(main, ["status", EMOJIS.value]).output
    assert CliRunner().invoke(main, ["status", EMOJIS.value]).exit_code == 0
    put(world, ORPHAN)
    for key in keys:
        assert world.run("verify_custom_emojis", key).success
    assert status()["orphans"] == 1
    assert "1 seen by the last verifications" in CliRunner().invoke(main, ["status", EMOJIS.value]).output
