"""A part of the instance: what is left out is counted, asked for nowhere, and copied when it is wanted."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.mastodon import is_remote, stored_objects
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.summaries import with_counters
from mastosync_dagster_tests.support.installation import metadata_of
from mastosync_dagster_tests.support.private_media import (
    answers,
    execute,
    expected_answers,
    media_of,
    nightly,
)
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule
from mastosync_dagster_tests.support.reporting import status
from mastosync_dagster_tests.support.suspensions import SUSPEND, open_objects

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mastosync_dagster_tests.support.installation import Installation
    from mastosync_dagster_tests.support.life import Life

MEDIA, CARDS = FileType.MEDIA_ATTACHMENTS.value, FileType.PREVIEW_CARDS.value
LOCAL_ONLY: Mapping[str, object] = {"ops": {MEDIA: {"ops": {"plan": {"config": {"local_only": True}}}}}}
BIG = "100000"


def there(world: Installation) -> set[str]:
    return set(list_keys(world.destination.server, world.destination.name))


def keys_of(world: Installation, table: str, *, remote: bool) -> set[str]:
    """Return all keys that objects of local or of remote rows can have."""
    return {
        key
        for row in world.instance.rows[table]
        if is_remote(table, row) is remote
        for stored in stored_objects(table, row)
        for key in (stored.key, *stored.candidates)
    }


def left_out(world: Installation, table: str) -> int:
    return sum(len(stored_objects(table, row)) for row in world.instance.rows[table] if is_remote(table, row))


def make_old_and_remote(world: Installation, account: int) -> None:
    """Have an account's media be another server's, and years old."""
    execute(
        world,
        # By its key, a file of before "tootctl upgrade storage-schema".
        "UPDATE media_attachments SET remote_url = 'https://far.example/a.png', file_storage_schema_version = NULL,"
        " thumbnail_storage_schema_version = NULL WHERE account_id = %s AND remote_url = ''",
        account,
    )
    execute(world, "UPDATE media_attachments SET created_at = '2020-01-01' WHERE account_id = %s", account)


@pytest.mark.long
def test_a_local_copy_asks_for_no_remote_key_and_counts_what_it_leaves_out(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", BIG)
    ((key,),) = world.register(FileType.MEDIA_ATTACHMENTS).values()
    world.forget()
    result = world.run("sync_media_attachments", key, LOCAL_ONLY)
    assert result.success

    remote, local = (keys_of(world, MEDIA, remote=each) for each in (True, False))
    expected = {each.key for each in world.instance.objects_of(MEDIA)}
    assert there(world) == {each for each in expected if each in local}
    for proxy in (world.source_proxy, world.destination_proxy):
        assert not [request for request in proxy.requests if request.key in remote - local]
        assert not [request for request in proxy.requests if request.prefix.startswith("cache")]
    metadata = metadata_of(result, MEDIA)
    assert metadata["left_out"] == left_out(world, MEDIA)
    assert metadata["remote_files"] == "never"
    assert metadata["rows"] == sum(
        bool(stored_objects(MEDIA, row)) and not is_remote(MEDIA, row) for row in world.instance.rows[MEDIA]
    )

    # By the same policy everything is done; for the whole instance, the range is not.
    found = status(MEDIA, "--local-only")
    assert (found["objects_left"], found["objects_left_out"]) == (0, left_out(world, MEDIA))
    assert (found["materialized"], found["missing"]) == (1, 0)
    found = status(MEDIA)
    assert (found["materialized"], found["missing"], found["ranges_run_with_less"]) == (0, 1, 1)
    assert found["objects_left_out"] == 0
    assert isinstance(found["objects_left"], int)
    assert found["objects_left"] > left_out(world, MEDIA)


@pytest.mark.long(cases=0)
def test_verify_and_prune_take_what_is_left_out_for_neither_missing_nor_an_orphan(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", BIG)
    monkeypatch.setenv("MASTOSYNC_LOCAL_ONLY", "true")
    monkeypatch.setenv("MASTOSYNC_REMOTE", "accounts=always")
    ((key,),) = world.register(FileType.MEDIA_ATTACHMENTS).values()
    assert world.run("sync_media_attachments", key).success
    (remote,) = sorted(keys_of(world, MEDIA, remote=True) & {each.key for each in world.instance.objects_of(MEDIA)})[:1]
    extra = "media_attachments/files/000/000/001/original/0123456789abcdef.png"
    # A copy of before that the policy leaves out by now, and an orphan.
    for each in (remote, extra):
        world.destination.client.put_object(
            Bucket=world.destination.name, Key=each, Body=b"old", Metadata={"mtime": "1500000000"}
        )
    verified = world.run("verify_media_attachments", key)
    (materialization,) = verified.asset_materializations_for_node("media_attachments_verification")
    metadata = with_counters({name: value.value for name, value in materialization.metadata.items()})
    assert (metadata["left_out"], metadata["extra"], metadata["absent"]) == (left_out(world, MEDIA), 1, 0)

    delete = {"ops": {"prune": {"config": {"delete": True, "max_delete": 1}}}}
    pruned = world.run("prune_media_attachments", key, delete)
    assert pruned.success
    assert remote in there(world)
    assert extra not in there(world)


@pytest.mark.long(cases=0)
def test_an_export_of_the_newest_days_takes_cards_that_were_renewed(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_REMOTE_DAYS", "30")
    world, living = life.world, life.living
    life.set_rows_per_partition(100_000)
    cards = [row for row in world.instance.rows[CARDS] if list(stored_objects(CARDS, row))]
    kept = [row for row in cards if stored_objects(CARDS, row)[0].key in living.expected]
    long_ago = (living.now - timedelta(days=400)).replace(tzinfo=None)
    for row in cards:
        living.update(CARDS, int(str(row["id"])), created_at=long_ago, updated_at=long_ago, image_updated_at=long_ago)
    ((key,),) = world.register(FileType.PREVIEW_CARDS).values()
    result = life.run("sync_preview_cards", key)
    assert result.success
    assert metadata_of(result, CARDS)["left_out"] == len(cards)
    assert not [each for each in there(world) if "preview_cards" in each]
    assert life.night().success

    renewed = int(str(kept[0]["id"]))
    living.update(CARDS, renewed, updated_at=living.now.replace(tzinfo=None))
    assert life.night().success
    assert [each for each in there(world) if "preview_cards" in each] == [stored_objects(CARDS, kept[0])[0].key]


@pytest.mark.long
def test_the_night_after_a_policy_was_widened_copies_what_it_had_left_out(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_LOCAL_ONLY", "true")
    world = life.world
    life.copy_everything()
    assert life.night().success
    assert life.night().success
    assert not [each for each in there(world) if each.startswith("cache/")]
    monkeypatch.setenv("MASTOSYNC_LOCAL_ONLY", "false")
    assert life.night().success
    assert life.differences() == []
    assert status(MEDIA)["objects_left"] == 0
    # A narrower run in between moves nothing for the nights of all.
    narrow = {"ops": {"plan_changes": {"config": {"changed_since": "last", "local_only": True}}}}
    assert life.run("sync_changes", config=narrow).success
    world.forget()
    assert life.night().success
    assert sum(world.requests().values()) == 0


@pytest.mark.long(cases=0)
@pytest.mark.parametrize("days", [None, "1"])
def test_what_is_private_and_left_out_by_now_is_made_private(
    settled: Installation, monkeypatch: pytest.MonkeyPatch, days: str | None
) -> None:
    account, hidden = media_of(settled, suspended=False)
    make_old_and_remote(settled, account)
    if days is None:
        monkeypatch.setenv("MASTOSYNC_LOCAL_ONLY", "true")
    else:
        monkeypatch.setenv("MASTOSYNC_REMOTE_DAYS", days)
    execute(settled, SUSPEND, account)
    before = there(settled)
    assert hidden
    assert nightly(settled).success
    assert answers(settled) == expected_answers(settled)
    assert there(settled) == before
    # And public again, when the account is.
    execute(settled, "UPDATE accounts SET suspended_at = NULL WHERE id = %s", account)
    assert nightly(settled).success
    assert answers(settled) == expected_answers(settled)


@pytest.mark.long(cases=0)
def test_what_a_verification_found_is_left_to_a_sync_that_wants_it(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", BIG)
    ((key,),) = world.register(FileType.MEDIA_ATTACHMENTS).values()
    assert world.run("sync_media_attachments", key).success
    remote = keys_of(world, MEDIA, remote=True) & {each.key for each in world.instance.objects_of(MEDIA)}
    damaged = min(remote)
    client, bucket = world.destination.client, world.destination.name
    body = client.get_object(Bucket=bucket, Key=damaged)["Body"].read()
    client.put_object(Bucket=bucket, Key=damaged, Body=body, ContentType="text/plain")
    depth = {"ops": {"media_attachments_verification": {"config": {"headers": "all"}}}}
    assert not world.run("verify_media_attachments", key, depth).success

    assert world.run("sync_media_attachments", key, LOCAL_ONLY).success
    assert client.head_object(Bucket=bucket, Key=damaged)["ContentType"] == "text/plain"
    assert world.run("sync_media_attachments", key).success
    assert client.head_object(Bucket=bucket, Key=damaged)["ContentType"] != "text/plain"


@pytest.mark.long
def test_a_run_over_every_row_makes_private_what_it_leaves_out(settled: Installation) -> None:
    account, hidden = media_of(settled, suspended=False)
    make_old_and_remote(settled, account)
    execute(settled, SUSPEND, account)
    before = there(settled)
    assert hidden
    every_row = {"file_types": [MEDIA], "remote_days": 30}
    assert settled.run("sync_changes", config={"ops": {"plan_changes": {"config": every_row}}}).success
    assert answers(settled) == expected_answers(settled)
    assert there(settled) == before


@pytest.mark.long(cases=0)
def test_what_has_failed_stays_on_the_list_through_a_night_that_leaves_it_out(settled: Installation) -> None:
    remote = keys_of(settled, MEDIA, remote=True)
    lost = next(each for each in settled.instance.objects_of(MEDIA) if each.key in remote and not each.private)
    execute(settled, "UPDATE media_attachments SET file_updated_at = now() WHERE id = %s", lost.row_id)
    settled.destination.client.delete_object(Bucket=settled.destination.name, Key=lost.key)
    settled.destination_proxy.set_rules(Rule(Answer(503, "SlowDown"), kinds=frozenset({Kind.PUT}), key=lost.key))
    plan = {"file_types": [MEDIA], "changed_since": "last"}
    once = {"copy": {"config": {"max_attempts": 1}}}
    failed = settled.run("sync_changes", config={"ops": {"plan_changes": {"config": plan}, **once}})
    assert not failed.success
    assert open_objects(settled)["failed"] == 1

    # By now its row is older than the watermark: nothing but the list names it.
    execute(settled, "UPDATE media_attachments SET file_updated_at = '2020-01-01' WHERE id = %s", lost.row_id)
    settled.destination_proxy.set_rules()
    narrow = {**plan, "local_only": True}
    assert settled.run("sync_changes", config={"ops": {"plan_changes": {"config": narrow}}}).success
    assert lost.key not in there(settled)
    assert nightly(settled).success
    assert lost.key in there(settled)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--local-only", "--remote-days", "3"], "contradict each other"),
        (["--remote", "accounts=7"], "accounts=always or accounts=never"),
        (["--remote", "site_uploads=never"], "file types with remote files are"),
        (["--remote", "accounts"], "FILE_TYPE=RULE"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_the_words_to_write(
    world: Installation, arguments: list[str], says: str
) -> None:
    assert world.dagster is not None
    for command in (["sync", "accounts"], ["status"], ["estimate"]):
        outcome = CliRunner().invoke(main, [*command, *arguments])
        assert outcome.exit_code != 0
        assert says in " ".join(outcome.output.split())
        assert "Traceback" not in outcome.output
