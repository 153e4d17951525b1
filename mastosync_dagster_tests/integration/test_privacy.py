"""What is private in Mastodon is private at the destination, from the first copy on, and follows the rows both ways."""

from __future__ import annotations

import os
import signal
from collections import Counter
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.copy.acl_changes import MADE_PRIVATE, MADE_PUBLIC
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.watermarks import watermark
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.acls import anonymous_status
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.installation import failure_of
from mastosync_dagster_tests.support.private_media import (
    MEDIA,
    answers,
    execute,
    expected_answers,
    media_of,
    newest,
    nightly,
    private_rows,
    sync_in_a_process,
)
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule

if TYPE_CHECKING:
    from pathlib import Path

    import dagster as dg

    from mastosync_dagster_tests.support.installation import Installation


def incremental(world: Installation) -> Counter[str]:
    """Run the incremental sync; return the outcomes and remarks of its manifest, but for what the source has lost."""
    config = {"file_types": [MEDIA.value], "changed_since": datetime.now(timezone.utc).isoformat()}
    result = world.run("sync_changes", config={"ops": {"plan_changes": {"config": config}}})
    assert result.success
    lines = [line for line in newest(world, "sync_changes") if line.outcome is not Outcome.MISSING]
    return Counter(f"{line.outcome.value} {line.detail or ''}".strip() for line in lines)


@pytest.mark.long
def test_private_objects_are_refused_to_everybody_and_follow_the_rows_both_ways(synced_with_acls: Installation) -> None:
    world = synced_with_acls
    before = expected_answers(world)
    assert {key for key, status in before.items() if status == 403} == {
        each.key for each in world.instance.objects_of(MEDIA) if each.private
    }
    assert answers(world) == before

    suspended, hidden = media_of(world, suspended=False)
    active, shown = media_of(world, suspended=True)
    # Not even the time of the suspension need be later than the last run, nor does any column of the media change.
    execute(world, "UPDATE accounts SET suspended_at = '2019-01-01' WHERE id = %s", suspended)
    execute(world, "UPDATE accounts SET suspended_at = NULL WHERE id = %s", active)
    after = expected_answers(world)
    assert hidden
    assert shown
    assert Counter(after.values()) != Counter(before.values())
    world.destination_proxy.forget()

    assert incremental(world) == {f"present {MADE_PRIVATE}": hidden, f"present {MADE_PUBLIC}": shown}
    assert answers(world) == after
    # But for the probe.
    assert world.destination_proxy.count(Kind.PUT, Kind.CREATE_UPLOAD) == 0

    # Whatever is done is known: the next runs set nothing.
    assert incremental(world) == {}
    assert world.run("sync_media_attachments", world.dagster.get_dynamic_partitions(MEDIA.partitions_name)[0]).success
    assert {line.detail for line in newest(world, MEDIA.value)} & {MADE_PRIVATE, MADE_PUBLIC} == set()

    removed = execute(
        world,
        "UPDATE statuses SET deleted_at = now() WHERE deleted_at IS NULL AND id IN (SELECT status_id FROM"
        " media_attachments m JOIN accounts a ON a.id = m.account_id AND a.suspended_at IS NULL) RETURNING id",
    )
    restored = execute(
        world, "UPDATE statuses SET deleted_at = NULL WHERE deleted_at = '2025-02-03 04:05:06' RETURNING id"
    )
    assert removed
    assert restored
    assert set(incremental(world)) == {f"present {MADE_PRIVATE}", f"present {MADE_PUBLIC}"}
    assert answers(world) == expected_answers(world)


@pytest.mark.long
def test_what_a_killed_run_has_made_public_without_a_manifest_is_private_again_after_the_next_night(
    world_with_acls: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_with_acls
    monkeypatch.setenv("MASTOSYNC_MANIFESTS", f"s3://{create_bucket(world.destination.server).name}/manifests")
    ((key,),) = world.register(MEDIA).values()
    assert world.run("sync_media_attachments", key).success
    account, hidden = media_of(world, suspended=False)
    suspend = "UPDATE accounts SET suspended_at = now() WHERE id = %s"
    execute(world, suspend, account)
    assert incremental(world)[f"present {MADE_PRIVATE}"] == hidden

    execute(world, "UPDATE accounts SET suspended_at = NULL WHERE id = %s", account)
    world.forget()
    with sync_in_a_process(world, key, tmp_path / "killed.log") as pid:
        os.kill(pid, signal.SIGKILL)
    public = answers(world)
    assert public == expected_answers(world)

    execute(world, suspend, account)
    assert expected_answers(world) != public
    # Every manifest that is there calls them private.
    assert incremental(world)[f"present {MADE_PRIVATE}"] == hidden
    assert answers(world) == expected_answers(world)
    assert incremental(world) == {}


def sync_media(world: Installation, **config: object) -> dg.ExecuteInProcessResult:
    """Sync the last range of the media, in which every case of privacy occurs."""
    key = world.dagster.get_dynamic_partitions(MEDIA.partitions_name)[-1]
    return world.run("sync_media_attachments", key, {"ops": {MEDIA.value: {"ops": {"plan": {"config": config}}}}})


def acls(world: Installation) -> dict[str, str | None]:
    """Return the ACL header with which each object was written."""
    return {
        request.key: request.headers.get("x-amz-acl")
        for request in world.destination_proxy.requests
        if request.kind is Kind.PUT
    }


@pytest.fixture
def one_range(world: Installation, monkeypatch: pytest.MonkeyPatch) -> Installation:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "1000")
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "public-read")
    monkeypatch.delenv("MASTOSYNC_COPY_PRIVATE")
    world.register(MEDIA)
    return world


@pytest.mark.parametrize("answer", [Answer(400, "AccessControlListNotSupported"), Answer(501, "NotImplemented")])
def test_a_destination_without_acls_is_noticed_at_the_first_refusal(one_range: Installation, answer: Answer) -> None:
    one_range.destination_proxy.set_rules(Rule(answer, kinds=frozenset({Kind.PUT, Kind.CREATE_UPLOAD})))
    message = failure_of(sync_media(one_range))
    assert "DESTINATION_S3_PERMISSION" in message
    assert "acl" in message.lower()
    # Nobody goes on asking.
    assert one_range.destination_proxy.count(Kind.PUT) <= 2 * 64


@pytest.mark.long(cases=0)
def test_an_acl_that_cannot_be_set_leaves_everything_to_a_further_run(one_range: Installation) -> None:
    assert sync_media(one_range).success
    account, _ = media_of(one_range, suspended=False)
    execute(one_range, "UPDATE accounts SET suspended_at = now() WHERE id = %s", account)
    one_range.destination_proxy.set_rules(Rule(Answer(501, "NotImplemented"), kinds=frozenset({Kind.OTHER})))
    assert "DESTINATION_S3_PERMISSION" in failure_of(sync_media(one_range))
    lines = newest(one_range, MEDIA.value)
    assert {line.reason for line in lines if line.outcome is Outcome.FAILED} <= {
        Reason.ACL_REFUSED,
        Reason.NOT_ATTEMPTED,
    }
    assert len(lines) == len({line.key for line in lines})


@pytest.mark.long(cases=0)
def test_private_objects_are_left_out_where_there_are_no_acls_unless_the_admin_says_so(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "")
    private = {each.key for each in one_range.instance.objects_of(MEDIA) if each.private}
    assert f"{Reason.PRIVATE_NOT_COPIED.value}" in failure_of(sync_media(one_range))
    assert set(acls(one_range).values()) == {None}
    assert not private & acls(one_range).keys()
    left_out = {line.key for line in newest(one_range, MEDIA.value) if line.reason is Reason.PRIVATE_NOT_COPIED}
    assert left_out == private

    assert sync_media(one_range, copy_private=True).success
    assert private <= acls(one_range).keys()


@pytest.mark.long(cases=0)
def test_without_a_policy_every_object_gets_the_permission(world_with_acls: Installation) -> None:
    world = world_with_acls
    world.register(MEDIA)
    assert sync_media(world, privacy="none").success
    assert set(acls(world).values()) == {"public-read"}
    assert not any(line.private for line in newest(world, MEDIA.value))
    # The policy taken back, what is private is made so.
    assert sync_media(world).success
    made_private = {line.row_id for line in newest(world, MEDIA.value) if line.detail == MADE_PRIVATE}
    assert made_private == {each.row_id for each in world.instance.objects_of(MEDIA) if each.private}
    assert answers(world) == expected_answers(world)


@pytest.mark.long
def test_on_a_server_that_takes_an_acl_for_a_new_body_no_object_is_made_private_nor_touched(
    one_range: Installation,
) -> None:
    assert sync_media(one_range, privacy="none").success
    assert "DESTINATION_S3_PERMISSION" in failure_of(sync_media(one_range))
    assert {line.reason for line in newest(one_range, MEDIA.value) if line.outcome is Outcome.FAILED} <= {
        Reason.ACL_REFUSED,
        Reason.NOT_ATTEMPTED,
    }
    assert one_range.compare(MEDIA).differences == ()


@pytest.mark.long(cases=0)
def test_of_all_objects_the_private_ones_alone_are_refused_to_everybody_archives_among_them(
    world_with_acls: Installation,
) -> None:
    world = world_with_acls
    assert world.run("sync_changes").success
    assert world.compare().differences == ()
    expected = {each.key: 403 if each.private else 200 for each in world.instance.objects}
    statuses = {key: anonymous_status(world.destination.server, world.destination.name, key) for key in expected}
    assert statuses == expected
    private = Counter(each.table for each in world.instance.objects if each.private)
    assert private.keys() == {"media_attachments", "backups"}
    assert private["backups"] == len(world.instance.objects_of("backups"))


def watermarks(world: Installation) -> list[bool]:
    place = S3Bucket.destination().settings().identity
    return [watermark(world.dagster, file_type, place) is not None for file_type in (MEDIA, FileType.BACKUPS)]


@pytest.mark.long
def test_without_acls_a_night_fails_until_somebody_decides_about_what_is_private(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASTOSYNC_COPY_PRIVATE")
    for _ in range(2):
        assert "MASTOSYNC_COPY_PRIVATE=true" in failure_of(nightly(world))
        # What waits for the decision is on the list, and holds up nothing else.
        assert watermarks(world) == [True, True]
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "perhaps")
    assert "MASTOSYNC_COPY_PRIVATE must be true or false" in failure_of(nightly(world))


@pytest.mark.long(cases=0)
def test_what_is_left_out_on_purpose_holds_up_nothing_and_is_copied_when_that_changes(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = one_range
    world.register(FileType.BACKUPS)
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "")
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "false")
    monkeypatch.setenv("MASTOSYNC_RETRY_NIGHTS", "0")
    private = {each.key for each in world.instance.objects_of(MEDIA, FileType.BACKUPS) if each.private}
    result = sync_media(world)
    assert result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.severity.value) == (False, "WARN")
    (key,) = world.dagster.get_dynamic_partitions(FileType.BACKUPS.partitions_name)
    assert world.run("sync_backups", key).success
    assert nightly(world).success
    assert watermarks(world) == [True, True]
    assert not private & acls(world).keys()

    # Nights later: nobody is asked again, and an account that is active again gets its media.
    world.forget()
    assert nightly(world).success
    # The backup that the source has lost was never skipped: it is looked for, since it must not be there either.
    assert world.requests() == {Kind.HEAD: 1}
    active, _ = media_of(world, suspended=True)
    before = private_rows(world)
    execute(world, "UPDATE accounts SET suspended_at = NULL WHERE id = %s", active)
    public = before - private_rows(world)
    expected = {each.key for each in world.instance.objects_of(MEDIA) if each.row_id in public}
    assert expected
    assert nightly(world).success
    assert private & acls(world).keys() == expected

    # The bucket is not public after all.
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "true")
    assert nightly(world).success
    assert world.compare(MEDIA.value, FileType.BACKUPS.value).differences == ()
    world.forget()
    assert nightly(world).success
    assert world.requests() == {}
