"""Nothing private is, or becomes, readable by everybody unnoticed, and no ACL damages an object, whatever is set."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from click.testing import CliRunner

from mastosync_dagster.addresses import Address, LookUpError
from mastosync_dagster.addresses import look_up as real_look_up
from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.findings import Finding
from mastosync_dagster.s3.probes import prove_private
from mastosync_dagster.s3.retry_policies import SINGLE
from mastosync_dagster.sync.copy_step import copy_planned
from mastosync_dagster_tests.support.acls import anonymous_status, let_everybody_read
from mastosync_dagster_tests.support.installation import failure_of
from mastosync_dagster_tests.support.private_media import MEDIA, answers, execute, expected_answers, media_of, nightly
from mastosync_dagster_tests.support.proxy import NO_PROBES, Answer, Kind, Page, Rule, TakenForBody
from mastosync_dagster_tests.support.suspensions import SUSPEND, open_objects
from mastosync_dagster_tests.support.verifying import unequal, verify

if TYPE_CHECKING:
    import dagster as dg

    from mastosync_dagster.sync.models import Copied
    from mastosync_dagster_tests.support.installation import Installation

pytestmark = pytest.mark.long


PROBES = "/mastosync-check/"
IGNORED = Rule(Page(200, ""), kinds=frozenset({Kind.OTHER}), method="PUT")
"""A server that accepts ACLs of objects that are there, and sets none."""


def sync(world: Installation, **config: object) -> dg.ExecuteInProcessResult:
    world.register(MEDIA)
    (key,) = world.dagster.get_dynamic_partitions(MEDIA.partitions_name)
    return world.run("sync_media_attachments", key, {"ops": {MEDIA.value: {"ops": {"plan": {"config": config}}}}})


def exposed(world: Installation) -> set[str]:
    """Return the private objects that everybody can read."""
    private = {each.key for each in world.instance.objects_of(MEDIA) if each.private}
    assert private
    return {key for key in private if anonymous_status(world.destination.server, world.destination.name, key) == 200}


def there(world: Installation) -> frozenset[str]:
    return list_keys(world.destination.server, world.destination.name)


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("permission", ["public-read", "private", ""])
def test_a_run_ends_before_it_writes_something_private_into_a_public_bucket(
    everybody_reads: Installation, monkeypatch: pytest.MonkeyPatch, permission: str
) -> None:
    world = everybody_reads
    message = failure_of(sync(world))
    assert "policy" in message
    assert ("DESTINATION_S3_PERMISSION" if permission == "public-read" else "MASTOSYNC_COPY_PRIVATE=true") in message
    assert exposed(world) == set()
    assert there(world) == frozenset()

    # Whoever says that all may be public is believed; so is who leaves out what is private.
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "")
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "false")
    assert sync(world).success
    assert exposed(world) == set()
    assert there(world)
    assert sync(world, privacy="none").success


@pytest.mark.long(cases=0)
def test_a_destination_that_asks_for_fewer_requests_while_it_is_probed_is_waited_for(
    world_with_acls: Installation,
) -> None:
    world = world_with_acls
    busy = Rule(Answer(503, "SlowDown"), kinds=frozenset({Kind.PUT}), key=PROBES, times=SINGLE.attempts)
    world.destination_proxy.set_rules(busy)
    assert sync(world).success
    assert world.destination_proxy.used[busy] == SINGLE.attempts
    assert answers(world) == expected_answers(world)


@pytest.mark.long(cases=0)
def test_so_is_one_whose_name_is_not_known_for_some_seconds(
    world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_with_acls
    monkeypatch.setenv("DESTINATION_S3_ENDPOINT", world.destination_proxy.endpoint.replace("127.0.0.1", "localhost"))
    unknown_until = 0.0

    def look_up(host: str, port: int, seconds: float) -> list[Address]:
        if time.monotonic() < unknown_until:
            raise LookUpError(host, "no name server answers", unanswered=True)
        return real_look_up(host, port, seconds)

    def probe(*arguments: Any, **named: Any) -> None:
        nonlocal unknown_until
        unknown_until = time.monotonic() + 7
        prove_private(*arguments, **named)

    monkeypatch.setattr("mastosync_dagster.s3.http.look_up", look_up)
    monkeypatch.setattr("mastosync_dagster.sync.copy_step.prove_private", probe)
    assert sync(world).success
    assert unknown_until
    assert answers(world) == expected_answers(world)


@pytest.mark.long(cases=0)
@pytest.mark.parametrize("permission", ["private", "authenticated-read", "bucket-owner-read", "aws-exec-read"])
def test_with_a_permission_that_is_not_public_private_objects_wait_for_a_decision(
    world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch, permission: str
) -> None:
    world = world_with_acls
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", permission)
    private = {each.key for each in world.instance.objects_of(MEDIA) if each.private}
    assert "private_not_copied" in failure_of(sync(world))
    assert not private & there(world)
    sent = {
        request.headers.get("x-amz-acl")
        for request in world.destination_proxy.requests
        if request.kind is Kind.PUT and request.key
    }
    assert sent == {permission}
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "true")
    assert sync(world).success
    assert private <= there(world)
    assert exposed(world) == set()


def suspend_somebody(world: Installation) -> None:
    with contextlib.closing(psycopg2.connect(world.database.url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE accounts SET suspended_at = now() WHERE suspended_at IS NULL"
            " AND id IN (SELECT account_id FROM media_attachments)"
        )
        assert cursor.rowcount
        connection.commit()


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("key", ["", NO_PROBES])
def test_an_acl_that_empties_objects_ends_the_run_and_what_was_emptied_is_copied_again(
    synced_with_acls: Installation, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """The probe shows it; where the server spares the probe, the first object does."""
    world = synced_with_acls
    suspend_somebody(world)
    world.destination_proxy.set_rules(Rule(TakenForBody(), kinds=frozenset({Kind.OTHER}), key=key))
    message = failure_of(sync(world))
    assert "DESTINATION_S3_PERMISSION" in message
    assert "empty text" in message
    assert len(world.compare(MEDIA).differences) == bool(key)
    world.destination_proxy.set_rules()

    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "")
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "true")
    assert sync(world).success
    assert world.compare(MEDIA).differences == ()


@pytest.mark.long(cases=1)
@pytest.mark.parametrize(("permission", "style"), [("", ""), ("private", "*/original/")])
def test_without_acls_a_bucket_that_becomes_public_later_ends_every_run(
    world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch, permission: str, style: str
) -> None:
    world = world_with_acls
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", permission)
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "true")
    assert sync(world).success
    assert nightly(world).success
    assert verify(world, acls="all").success
    let_everybody_read(world.destination, style)
    public = exposed(world)
    assert public

    for run in (sync(world), nightly(world)):
        assert "MASTOSYNC_COPY_PRIVATE=true is for a bucket that is not public" in failure_of(run)
    assert not verify(world, acls="all").success
    assert unequal(world) == dict.fromkeys(public, Finding.ACL_DIFFERS)
    verify(world)
    assert set(unequal(world)) <= public
    if not style:
        assert unequal(world)

    world.destination.client.delete_bucket_policy(Bucket=world.destination.name)
    for good in (sync(world), nightly(world), verify(world, acls="all")):
        assert good.success


def test_an_acl_that_is_accepted_and_ignored_ends_the_run_and_is_not_recorded(settled: Installation) -> None:
    world = settled
    account, hidden = media_of(world, suspended=False)
    execute(world, SUSPEND, account)
    world.destination_proxy.set_rules(IGNORED)
    for run in (nightly(world), nightly(world), sync(world)):
        assert "DESTINATION_S3_PERMISSION to an empty text" in failure_of(run)
    now = answers(world)
    assert sum(now[key] != status for key, status in expected_answers(world).items()) == hidden
    checked = CliRunner().invoke(main, ["check"])
    assert checked.exit_code == 1
    assert "sets none" in checked.output

    # Where the server spares the probes, the first object shows it.
    world.destination_proxy.set_rules(Rule(IGNORED.fault, IGNORED.kinds, NO_PROBES, IGNORED.method))
    assert "DESTINATION_S3_PERMISSION to an empty text" in failure_of(nightly(world))

    world.destination_proxy.set_rules()
    assert nightly(world).success
    assert answers(world) == expected_answers(world)


SMALL = "*/small/"
"""The beginning of a policy for one style."""


def expected_under_policy(world: Installation) -> dict[str, int]:
    """Return what is answered where ACLs hide what is private, and a policy shows one style of it."""
    return {key: 200 if "/small/" in key else status for key, status in expected_answers(world).items()}


def sync_while_all_becomes_private(
    world: Installation, monkeypatch: pytest.MonkeyPatch, policy: str
) -> dg.ExecuteInProcessResult:
    """Copy media to a bucket with a policy; all of it becomes private between plan and copy."""
    execute(world, "UPDATE accounts SET suspended_at = NULL")
    execute(world, "UPDATE statuses SET deleted_at = NULL")
    let_everybody_read(world.destination, policy)
    world.register(MEDIA)

    def copy_later(*arguments: Any) -> Copied:
        suspend_somebody(world)
        return copy_planned(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("mastosync_dagster.sync.steps.copy_planned", copy_later)
        return sync(world)


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("policy", ["", SMALL], ids=["for everything", "for a style"])
def test_what_becomes_private_while_a_run_copies_it_into_a_public_bucket_ends_the_run(
    world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    world = world_with_acls
    run = sync_while_all_becomes_private(world, monkeypatch, policy)
    assert "everybody can read what is private" in failure_of(run)
    messages = [entry.user_message for entry in world.dagster.all_logs(run.run_id)]
    assert not [text for text in messages if "were made private" in text]
    if policy:
        assert answers(world) == expected_under_policy(world) != expected_answers(world)

    world.destination.client.delete_bucket_policy(Bucket=world.destination.name)
    # An ACL hides it at once, before a further run.
    assert answers(world) == expected_answers(world)
    assert sync(world).success
    assert answers(world) == expected_answers(world)


@pytest.mark.long(cases=0)
def test_it_ends_the_run_too_where_no_acl_can_be_set_then(
    world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_with_acls
    world.destination_proxy.set_rules(
        Rule(Answer(503, "SlowDown"), kinds=frozenset({Kind.OTHER}), key=NO_PROBES, method="PUT")
    )
    run = sync_while_all_becomes_private(world, monkeypatch, SMALL)
    assert "everybody can read what is private" in failure_of(run)

    world.destination_proxy.set_rules()
    world.destination.client.delete_bucket_policy(Bucket=world.destination.name)
    assert sync(world).success
    assert answers(world) == expected_answers(world)


@pytest.mark.long(cases=0)
def test_a_policy_for_a_style_does_not_keep_a_night_from_making_private_what_it_does_not_show(
    settled: Installation,
) -> None:
    world = settled
    account, _ = media_of(world, suspended=False)
    execute(world, SUSPEND, account)
    let_everybody_read(world.destination, SMALL)
    for _ in range(2):
        assert "everybody can read what is private" in failure_of(nightly(world))
        assert answers(world) == expected_under_policy(world) != expected_answers(world)

    world.destination.client.delete_bucket_policy(Bucket=world.destination.name)
    assert answers(world) == expected_answers(world)
    assert nightly(world).success
    assert open_objects(world)["acl"] == 0


@pytest.mark.long(cases=0)
def test_where_acls_empty_objects_a_policy_does_not_let_them_be_set(settled: Installation) -> None:
    world = settled
    account, _ = media_of(world, suspended=False)
    execute(world, SUSPEND, account)
    let_everybody_read(world.destination)
    world.destination_proxy.set_rules(Rule(TakenForBody(), kinds=frozenset({Kind.OTHER})))
    assert "for a new body" in failure_of(nightly(world))
    assert world.compare(MEDIA, FileType.BACKUPS).differences == ()
