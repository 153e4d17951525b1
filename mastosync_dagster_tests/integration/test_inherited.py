"""What another tool has put at the destination is not taken for a copy without a look, and the way out works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.partitions import FileType
from mastosync_dagster_tests.integration.conftest import metadata_of
from mastosync_dagster_tests.support.acls import anonymous_status

if TYPE_CHECKING:
    import dagster as dg

    from mastosync_dagster_tests.integration.conftest import World

EMOJIS = FileType.CUSTOM_EMOJIS
SAYS = "another tool has put them there"


def copy_badly(world: World, **arguments: str) -> list[str]:
    """Copy the emojis as a general tool does: no Cache-Control, octet-stream, and whoever may read it."""
    expected = {each.key for each in world.instance.objects_of(EMOJIS)}
    keys = sorted(expected & list_keys(world.source.server, world.source.name))
    for key in keys:
        body = world.source.client.get_object(Bucket=world.source.name, Key=key)["Body"].read()
        world.destination.client.put_object(Bucket=world.destination.name, Key=key, Body=body, **arguments)  # type: ignore[arg-type]  # boto3's own words
    return keys


def sync(world: World, key: str) -> tuple[dg.ExecuteInProcessResult, str, bool]:
    """Sync a range of the emojis. Returns what was said of what had been there, and whether the asset check passed."""
    result = world.run("sync_custom_emojis", key)
    assert result.success
    (check,) = result.get_asset_check_evaluations()
    said = str(metadata_of(result, EMOJIS.value).get("already there", ""))
    assert (SAYS in str(check.description)) == (SAYS in said)
    if said:
        assert check.severity.value == "WARN"
    return result, said, check.passed


def test_the_first_run_of_a_range_looks_at_what_was_there_and_verifying_and_syncing_repairs_it(
    world_with_acls: World,
) -> None:
    world = world_with_acls
    keys = copy_badly(world)
    ((key,),) = world.register(EMOJIS).values()
    _, said, passed = sync(world, key)
    assert not passed
    assert "headers: all" in said

    look = {"ops": {"custom_emojis_verification": {"config": {"headers": "all", "acls": "all"}}}}
    assert not world.run("verify_custom_emojis", key, look).success
    # It looks once: what is to be done is said by the verification from now on.
    _, said, _ = sync(world, key)
    assert said == ""
    assert world.run("verify_custom_emojis", key, look).success
    statuses = {anonymous_status(world.destination.server, world.destination.name, each) for each in keys}
    assert statuses == {200}
    assert world.compare(EMOJIS).differences == ()


@pytest.mark.parametrize("acl", ["private", "public-read"])
def test_headers_alone_and_the_acl_alone_are_enough(world_with_acls: World, acl: str) -> None:
    copy_badly(world_with_acls, ACL=acl)
    ((key,),) = world_with_acls.register(EMOJIS).values()
    _, said, passed = sync(world_with_acls, key)
    assert (SAYS in said, passed) == (True, False)


def test_what_a_trial_has_copied_is_nobody_elses(world_with_acls: World) -> None:
    world = world_with_acls
    config = {"ops": {"plan_changes": {"config": {"file_types": ["custom_emojis"], "limit": 20}}}}
    assert world.run("sync_changes", config=config).success
    ((key,),) = world.register(EMOJIS).values()
    _, said, _ = sync(world, key)
    assert said == ""


def test_a_run_without_ranges_looks_too(world_with_acls: World) -> None:
    copy_badly(world_with_acls)
    config = {"ops": {"plan_changes": {"config": {"file_types": ["custom_emojis"]}}}}
    for says in (True, False):
        result = world_with_acls.run("sync_changes", config=config)
        assert result.success
        outputs = [event for event in result.all_events if event.is_successful_output]
        assert ("already there" in outputs[-1].step_output_data.metadata) == says
