"""``mastosync check`` on settings that would damage, expose or miss objects: status 1, and what to change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.acls import let_everybody_read
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.installation import failure_of, old_copy, without_cache
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule, TakenForBody, s3_proxy

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.installation import Installation

PRIVATE, ORIGINALS = "destination private", "originals"


def failed() -> dict[str, str]:
    """Check, and return the texts of what failed by their names."""
    outcome = CliRunner().invoke(main, ["check", "--json"])
    lines = {line["name"]: line for line in json.loads(outcome.output)}
    found = {name: line["text"] for name, line in lines.items() if line["verdict"] == "failed"}
    assert outcome.exit_code == bool(found)
    return found


def left_behind(world: Installation) -> frozenset[str]:
    return list_keys(world.destination.server, world.destination.name)


@pytest.mark.long
def test_a_destination_that_keeps_what_is_private_passes_and_nothing_stays_behind(
    world_with_acls: Installation,
) -> None:
    assert failed() == {}
    assert left_behind(world_with_acls) == frozenset()


@pytest.mark.long(cases=2)
@pytest.mark.parametrize(
    "folder",
    ["", "media_attachments/files/", "cache/", "cache/media_attachments/files/", "media_attachments/thumb", "backups/"],
)
def test_a_policy_that_lets_everybody_read_what_is_private_fails(world_with_acls: Installation, folder: str) -> None:
    let_everybody_read(world_with_acls.destination, folder)
    found = failed()
    assert found.keys() == {PRIVATE}
    assert "DESTINATION_S3_PERMISSION" in found[PRIVATE]
    assert "policy" in found[PRIVATE]
    assert left_behind(world_with_acls) == frozenset()


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("permission", ["private", "authenticated-read", "bucket-owner-full-control"])
def test_a_permission_that_is_not_public_waits_for_a_decision_about_what_is_private(
    world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch, permission: str
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


@pytest.mark.long
@pytest.mark.parametrize("permission", ["", "private"])
def test_a_bucket_that_is_said_not_to_be_public_and_is_fails(
    world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch, permission: str
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


def test_a_server_that_takes_an_acl_for_a_body_fails(world_with_acls: Installation) -> None:
    rule = Rule(TakenForBody(), kinds=frozenset({Kind.OTHER}))
    world_with_acls.destination_proxy.set_rules(rule)
    found = failed()
    assert found.keys() == {PRIVATE}
    assert "DESTINATION_S3_PERMISSION" in found[PRIVATE]
    assert "empty text" in found[PRIVATE]
    assert left_behind(world_with_acls) == frozenset()


def test_a_misspelt_variable_is_warned_of_before_anything_else(
    world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVAT", "true")
    monkeypatch.delenv("DESTINATION_S3_BUCKET")
    monkeypatch.setenv("DESTINATION_S3_BUKET", world_with_acls.destination.name)
    outcome = CliRunner().invoke(main, ["check", "--json"])
    first, *others = json.loads(outcome.output)
    assert (first["name"], first["verdict"]) == ("settings", "warned")
    assert "MASTOSYNC_COPY_PRIVATE is probably meant" in first["text"]
    assert "DESTINATION_S3_BUKET is set: DESTINATION_S3_BUCKET is probably meant" in str(others)


# --- originals of some rows, looked for at both storages -------------------------------------------------------


def swap(world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("S3_BUCKET", "S3_ENDPOINT", "S3_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, world.environment[f"DESTINATION_{name}"])
        monkeypatch.setenv(f"DESTINATION_{name}", world.environment[name])


@pytest.mark.long
def test_the_right_source_passes_and_the_destination_may_be_empty_or_full(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "")
    assert failed() == {}
    assert world.run("sync_changes", config={"ops": {"plan_changes": {"config": {"copy_private": True}}}}).success
    assert failed() == {}


@pytest.mark.long
def test_one_bucket_under_two_addresses_is_refused_by_check_and_run(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a provider had two names for it: the copy would find every object there already."""
    with s3_proxy(world.source.server.endpoint) as other_name:
        for name in ("S3_BUCKET", "S3_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(f"DESTINATION_{name}", world.environment[name])
        monkeypatch.setenv("DESTINATION_S3_ENDPOINT", other_name.endpoint)
        said = "Source and destination are the same place under two names"
        found = failed()
        assert said in found["destination address"]
        assert "DESTINATION_S3_ENDPOINT" in found["destination address"]
        for arguments in (["sync", "custom_emojis"], ["sync", "custom_emojis", "--changed-since", "last"]):
            outcome = CliRunner().invoke(main, arguments)
            assert outcome.exit_code == 1
            assert said in " ".join(outcome.output.split())
        ((key,),) = world.register(FileType.SITE_UPLOADS).values()
        assert said in failure_of(world.run("sync_site_uploads", key))
        assert said in failure_of(world.run("verify_site_uploads", key))
        assert not [each for each in list_keys(world.source.server, world.source.name) if "mastosync-check" in each]
        # Another prefix in the same bucket is another place.
        monkeypatch.setenv("DESTINATION_S3_KEY_PREFIX", "copy/")
        assert "destination address" not in failed()


@pytest.mark.long
def test_an_empty_source_fails(world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "")
    monkeypatch.setenv("S3_BUCKET", create_bucket(world.source.server).name)
    found = failed()
    assert found.keys() == {ORIGINALS}
    assert "S3_BUCKET" in found[ORIGINALS]
    assert "DATABASE_URL" in found[ORIGINALS]


@pytest.mark.parametrize("prefix", ["elsewhere", "media_attachments/"])
def test_a_wrong_prefix_fails(world: Installation, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "")
    assert world
    monkeypatch.setenv("S3_KEY_PREFIX", prefix)
    found = failed()
    assert found.keys() == {ORIGINALS}, found
    assert "S3_KEY_PREFIX" in found[ORIGINALS]


def test_swapped_storages_fail(world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "")
    swap(world, monkeypatch)
    found = failed()
    assert found.keys() == {ORIGINALS}
    assert "swapped" in found[ORIGINALS]
    assert "DESTINATION_S3_BUCKET" in found[ORIGINALS]


@pytest.mark.long(cases=0)
def test_a_source_that_has_lost_its_remote_cache_passes(world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "")
    monkeypatch.setenv("S3_BUCKET", without_cache(world).name)
    assert failed() == {}


def test_originals_are_not_looked_for_without_a_storage(world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    assert world
    monkeypatch.setenv("S3_BUCKET", "absent")
    assert ORIGINALS not in failed()


def test_a_source_with_old_files_alone_fails_though_the_oldest_originals_are_there(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_BUCKET", old_copy(world, accounts=12).name)
    found = failed()
    assert found.keys() == {ORIGINALS}
    assert "old copy" in found[ORIGINALS]
    assert "S3_BUCKET" in found[ORIGINALS]


@pytest.mark.long
def test_a_source_without_some_of_the_originals_is_warned_of(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = without_cache(world)
    for number, key in enumerate(sorted(list_keys(bucket.server, bucket.name))):
        if number % 3 == 0:
            bucket.client.delete_object(Bucket=bucket.name, Key=key)
    monkeypatch.setenv("S3_BUCKET", bucket.name)
    outcome = CliRunner().invoke(main, ["check", "--json"])
    (line,) = (line for line in json.loads(outcome.output) if line["name"] == ORIGINALS)
    assert (line["verdict"], outcome.exit_code) == ("warned", 0)
    assert "S3_BUCKET" in line["text"]


@pytest.mark.long(cases=0)
def test_after_the_switch_the_destination_may_have_the_newest_originals_alone(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.run("sync_changes", config={"ops": {"plan_changes": {"config": {"copy_private": True}}}}).success
    monkeypatch.setenv("S3_BUCKET", old_copy(world, accounts=12).name)
    assert failed() == {}


def test_a_destination_that_may_not_be_listed_shows_the_time_all_the_same(world: Installation) -> None:
    kinds = frozenset({Kind.LIST})
    world.destination_proxy.set_rules(Rule(Answer(403, "AccessDenied"), kinds=kinds))
    world.source_proxy.set_rules(Rule(Answer(403, "AccessDenied"), kinds=kinds))
    assert failed() == {}
