"""What another tool has put at the destination is not taken for a copy without a check, and the way out works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.acls import anonymous_status
from mastosync_dagster_tests.support.installation import metadata_of
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule

if TYPE_CHECKING:
    import dagster as dg

    from mastosync_dagster_tests.support.installation import Installation

EMOJIS = FileType.CUSTOM_EMOJIS
SAYS = "another tool has put them there"


def copy_badly(world: Installation, **arguments: str) -> list[str]:
    """Copy the emojis as a general tool does: no Cache-Control, octet-stream, and whoever may read it."""
    expected = {each.key for each in world.instance.objects_of(EMOJIS)}
    keys = sorted(expected & list_keys(world.source.server, world.source.name))
    for key in keys:
        body = world.source.client.get_object(Bucket=world.source.name, Key=key)["Body"].read()
        world.destination.client.put_object(Bucket=world.destination.name, Key=key, Body=body, **arguments)  # type: ignore[arg-type]  # boto3's own words
    return keys


def sync(world: Installation, key: str) -> tuple[dg.ExecuteInProcessResult, str, bool]:
    """Sync a range of the emojis. Returns what was said of what had been there, and whether the asset check passed."""
    result = world.run("sync_custom_emojis", key)
    assert result.success
    (check,) = result.get_asset_check_evaluations()
    said = str(metadata_of(result, EMOJIS.value).get("already there", ""))
    assert (SAYS in str(check.description)) == (SAYS in said)
    if said:
        assert check.severity.value == "WARN"
    return result, said, check.passed


@pytest.mark.long
def test_the_first_run_of_a_range_looks_at_what_was_there_and_verifying_and_syncing_repairs_it(
    world_with_acls: Installation,
) -> None:
    world = world_with_acls
    keys = copy_badly(world)
    ((key,),) = world.register(EMOJIS).values()
    _, said, passed = sync(world, key)
    assert not passed
    assert "headers: all" in said

    config = {"ops": {"custom_emojis_verification": {"config": {"headers": "all", "acls": "all"}}}}
    assert not world.run("verify_custom_emojis", key, config).success
    # It checks once: what is to be done is said by the verification from now on.
    _, said, _ = sync(world, key)
    assert said == ""
    assert world.run("verify_custom_emojis", key, config).success
    statuses = {anonymous_status(world.destination.server, world.destination.name, each) for each in keys}
    assert statuses == {200}
    assert world.compare(EMOJIS).differences == ()


@pytest.mark.long(cases=0)
@pytest.mark.parametrize("acl", ["private", "public-read"])
def test_headers_alone_and_the_acl_alone_are_enough(world_with_acls: Installation, acl: str) -> None:
    copy_badly(world_with_acls, ACL=acl)
    ((key,),) = world_with_acls.register(EMOJIS).values()
    _, said, passed = sync(world_with_acls, key)
    assert (SAYS in said, passed) == (True, False)


@pytest.mark.long(cases=0)
def test_what_a_trial_has_copied_is_nobody_elses(world_with_acls: Installation) -> None:
    world = world_with_acls
    config = {"ops": {"plan_changes": {"config": {"file_types": ["custom_emojis"], "limit": 20}}}}
    assert world.run("sync_changes", config=config).success
    ((key,),) = world.register(EMOJIS).values()
    _, said, _ = sync(world, key)
    assert said == ""


@pytest.mark.long
def test_a_run_without_ranges_checks_too(world_with_acls: Installation) -> None:
    copy_badly(world_with_acls)
    for says in (True, False):
        assert reports_differences(world_with_acls, file_types=["custom_emojis"]) == says


@pytest.mark.long(cases=0)
@pytest.mark.parametrize(
    "before", [{"file_types": ["site_uploads"]}, {"file_types": ["custom_emojis"], "limit": 1}], ids=str
)
def test_neither_a_run_over_other_tables_nor_a_trial_has_checked(
    world_with_acls: Installation, before: dict[str, object]
) -> None:
    assert world_with_acls.run("sync_changes", config={"ops": {"plan_changes": {"config": before}}}).success
    copy_badly(world_with_acls)
    assert reports_differences(world_with_acls, file_types=["custom_emojis"])
    assert not reports_differences(world_with_acls, file_types=["custom_emojis"])


@pytest.mark.long(cases=0)
def test_a_run_that_was_ended_has_checked_nothing(world_with_acls: Installation) -> None:
    world = world_with_acls
    config = {"ops": {"plan_changes": {"config": {"file_types": ["custom_emojis"]}}}}
    world.destination_proxy.set_rules(Rule(Answer(403, "InvalidAccessKeyId"), kinds=frozenset({Kind.PUT})))
    assert not world.run("sync_changes", config=config).success
    world.destination_proxy.set_rules()
    copy_badly(world)
    assert reports_differences(world, file_types=["custom_emojis"])


@pytest.mark.long(cases=0)
def test_a_night_has_checked_what_had_changed_alone(world_with_acls: Installation) -> None:
    since = {"file_types": ["custom_emojis"], "changed_since": "2026-01-01T00:00:00Z"}
    assert world_with_acls.run("sync_changes", config={"ops": {"plan_changes": {"config": since}}}).success
    copy_badly(world_with_acls)
    assert reports_differences(world_with_acls, file_types=["custom_emojis"])


def reports_differences(world: Installation, **config: object) -> bool:
    """Run over changes; return whether something was said of what had been at the destination before."""
    result = world.run("sync_changes", config={"ops": {"plan_changes": {"config": config}}})
    assert result.success
    outputs = [event for event in result.all_events if event.is_successful_output]
    return "already there" in outputs[-1].step_output_data.metadata
