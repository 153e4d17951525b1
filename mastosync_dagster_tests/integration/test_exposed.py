"""Nothing private is written where everybody could read it, and no ACL damages an object, whatever the settings say."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg2
import pytest

from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.acls import anonymous_status, let_everybody_read
from mastosync_dagster_tests.support.installation import failure_of
from mastosync_dagster_tests.support.proxy import Kind, Rule, TakenForBody

if TYPE_CHECKING:
    import dagster as dg

    from mastosync_dagster_tests.support.installation import Installation

pytestmark = pytest.mark.long

MEDIA = FileType.MEDIA_ATTACHMENTS


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


@pytest.mark.parametrize("permission", ["public-read", "private", ""])
def test_a_run_ends_before_it_writes_something_private_into_a_public_bucket(
    world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch, permission: str
) -> None:
    world = world_with_acls
    let_everybody_read(world.destination)
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", permission)
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "true")
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


@pytest.mark.parametrize("key", ["", r"\.(png|jpe?g|gif|mp4|webp|webm|mp3)$"])
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
