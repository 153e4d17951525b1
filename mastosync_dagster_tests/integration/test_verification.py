"""A copy that is damaged in every way: verify names each damage, sync repairs it. On a server that enforces ACLs."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from mastosync_dagster.prune import guards
from mastosync_dagster.records.findings import Finding
from mastosync_dagster_tests.support.installation import failure_of
from mastosync_dagster_tests.support.verifying import MEDIA, check, media_range, metadata, unequal, verify

if TYPE_CHECKING:
    from mastosync_dagster.demo.instance.book import GeneratedObject
    from mastosync_dagster_tests.support.installation import Installation


def damage(world: Installation) -> dict[str, Finding]:
    """Damage the copy in every way; return what a verification must find."""
    client, bucket = world.destination.client, world.destination.name
    public = [each for each in world.instance.objects_of(MEDIA) if each.size > 1 and not each.private]
    private = [each for each in world.instance.objects_of(MEDIA) if each.private]
    gone, truncated, other_bytes, other_type, other_metadata, hidden = public[::20][:6]
    exposed, both = private[:2]

    def put(each: GeneratedObject, body: bytes | None = None, **arguments: Any) -> None:
        found = client.get_object(Bucket=bucket, Key=each.key)
        kept: dict[str, Any] = {
            "ContentType": found["ContentType"],
            "CacheControl": found.get("CacheControl", ""),
            "Metadata": found["Metadata"],
            "ACL": "private" if each.private else "public-read",
        }
        body = found["Body"].read() if body is None else body
        client.put_object(Bucket=bucket, Key=each.key, Body=body, **{**kept, **arguments})

    client.delete_object(Bucket=bucket, Key=gone.key)
    put(truncated, b"x")
    put(other_bytes, b"\0" * other_bytes.size)
    put(other_type, ContentType="application/octet-stream")
    put(other_metadata, Metadata={"of": "somebody else"})
    client.put_object_acl(Bucket=bucket, Key=hidden.key, ACL="private")
    client.put_object_acl(Bucket=bucket, Key=exposed.key, ACL="public-read")
    put(both, ACL="public-read", ContentType="text/html")
    ids = {row["id"] for row in world.instance.rows[MEDIA]}
    no_row = next(number for number in range(1, 999) if number not in ids)
    orphans = {
        f"{public[0].key.rpartition('/')[0]}/0123456789abcdef.png": Finding.EXTRA,
        f"cache/media_attachments/files/000/000/{no_row:03d}/small/0123456789abcdef.png": Finding.EXTRA,
        "dumps-of-the-database/monday.sql": Finding.FOREIGN,
        "index.html": Finding.FOREIGN,
    }
    for key in orphans:
        client.put_object(Bucket=bucket, Key=key, Body=b"orphan")
    return {
        gone.key: Finding.ABSENT,
        truncated.key: Finding.SIZE_DIFFERS,
        other_bytes.key: Finding.CONTENT_DIFFERS,
        other_type.key: Finding.HEADERS_DIFFER,
        other_metadata.key: Finding.HEADERS_DIFFER,
        hidden.key: Finding.ACL_DIFFERS,
        exposed.key: Finding.ACL_DIFFERS,
        both.key: Finding.HEADERS_DIFFER,
        **orphans,
    }


def keys(world: Installation) -> set[str]:
    """Return the keys at the destination."""
    pages = world.destination.client.get_paginator("list_objects_v2").paginate(Bucket=world.destination.name)
    return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


@pytest.mark.long
def test_every_damage_is_named_and_nothing_else_a_sync_repairs_it_and_pruning_takes_the_rest(
    synced_with_acls: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = verify(synced_with_acls, headers="all", acls="all")
    assert sound.success
    assert unequal(synced_with_acls) == {}
    assert check(sound).passed
    numbers = metadata(sound)
    expected = synced_with_acls.instance.objects_of(MEDIA)
    expected_keys = {each.key for each in expected}
    assert (numbers["equal"], numbers["missing"]) == (len(expected), len(synced_with_acls.instance.missing_of(MEDIA)))
    assert numbers["acls_compared"] == len(expected)

    damaged = damage(synced_with_acls)
    found = verify(synced_with_acls, headers="all", acls="all")
    assert unequal(synced_with_acls) == damaged
    assert "1 absent, 1 size_differs, 1 content_differs, 3 headers_differ, 2 acl_differs" in failure_of(found)
    assert (check(found).passed, check(found).severity) == (False, dg.AssetCheckSeverity.ERROR)

    assert synced_with_acls.run("sync_media_attachments", media_range(synced_with_acls)).success
    repaired = verify(synced_with_acls, headers="all", acls="all")
    assert repaired.success
    orphans = {key: finding for key, finding in damaged.items() if finding in {Finding.EXTRA, Finding.FOREIGN}}
    assert unequal(synced_with_acls) == orphans
    assert (check(repaired).passed, check(repaired).severity) == (False, dg.AssetCheckSeverity.WARN)

    # They were written just now, which alone keeps them.
    delete = {"ops": {"prune": {"config": {"delete": True, "max_delete": 10}}}}
    assert synced_with_acls.run("prune_media_attachments", media_range(synced_with_acls), delete).success
    assert keys(synced_with_acls) == expected_keys | orphans.keys()
    monkeypatch.setattr(guards, "MIN_AGE", timedelta(seconds=-5))
    assert synced_with_acls.run("prune_media_attachments", media_range(synced_with_acls), delete).success
    foreign = {key for key, finding in orphans.items() if finding is Finding.FOREIGN}
    assert keys(synced_with_acls) == expected_keys | foreign
    pruned = verify(synced_with_acls, headers="all", acls="all")
    assert unequal(synced_with_acls) == dict.fromkeys(foreign, Finding.FOREIGN)
    assert check(pruned).passed


@pytest.mark.long
def test_the_check_is_about_the_materialization_of_its_own_run(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "10000")
    world.register(MEDIA)
    assert world.run("sync_media_attachments", media_range(world)).success
    for _ in range(2):
        found = verify(world)
        (check,) = found.get_asset_check_evaluations()
        assert check.target_materialization_data is not None
        assert check.target_materialization_data.run_id == found.run_id
