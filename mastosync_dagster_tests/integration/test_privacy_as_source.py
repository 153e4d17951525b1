"""With the policy ``source`` an object is as private at the destination as at the source, whatever its row says."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from psycopg2 import sql

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.findings import Finding
from mastosync_dagster_tests.support.acls import anonymous_status, let_everybody_read
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.installation import failure_of
from mastosync_dagster_tests.support.private_media import execute, nightly
from mastosync_dagster_tests.support.proxy import Kind, s3_proxy
from mastosync_dagster_tests.support.verifying import media_range, unequal, verify
from mastosync_dagster_tests.support.web import hostile_web

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from psycopg2.extensions import cursor as Cursor

    from mastosync_dagster_tests.support.corners import Bucket
    from mastosync_dagster_tests.support.installation import Installation
    from mastosync_dagster_tests.support.proxy import Proxy

MEDIA = FileType.MEDIA_ATTACHMENTS
SUSPENDED, ACTIVE = 77_001, 77_002
# Whose media, and the ACL of the object at the source.
ROWS: dict[int, tuple[int, Any]] = {
    1: (ACTIVE, "public-read"),
    2: (ACTIVE, "private"),
    3: (SUSPENDED, "public-read"),
    4: (SUSPENDED, "private"),
}
AS_SOURCE = {"ops": {MEDIA.value: {"ops": {"plan": {"config": {"privacy": "source"}}}}}}


def key(row_id: int) -> str:
    return f"media_attachments/files/000/000/{row_id:03d}/original/a.mp3"


def add_row(cursor: Cursor, row_id: int, account: int) -> None:
    cursor.execute(
        "INSERT INTO media_attachments (id, account_id, file_file_name, file_content_type, file_file_size,"
        " processing, created_at, updated_at, file_updated_at)"
        " VALUES (%s, %s, 'a.mp3', 'audio/mpeg', 4, 2, now(), now(), now())",
        (row_id, account),
    )


def statuses(bucket: Bucket) -> dict[int, int]:
    """Return what an anonymous GET of each object is answered with."""
    return {row_id: anonymous_status(bucket.server, bucket.name, key(row_id)) for row_id in ROWS}


@pytest.fixture
def source(world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket with ACLs as the source of the world, with one object each of four rows."""
    bucket = create_bucket(world_with_acls.destination.server)
    with (
        contextlib.closing(psycopg2.connect(world_with_acls.database.url)) as connection,
        connection.cursor() as cursor,
    ):
        # No other row has a file: this bucket has none of theirs.
        for table in ("media_attachments", "custom_emojis", "preview_cards", "site_uploads", "backups"):
            cursor.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
        cursor.execute("UPDATE accounts SET avatar_file_name = NULL, header_file_name = NULL")
        for account, since in ((SUSPENDED, "2024-01-01"), (ACTIVE, None)):
            cursor.execute(
                "INSERT INTO accounts (id, username, suspended_at, created_at, updated_at)"
                " VALUES (%s, %s, %s, now(), now())",
                (account, f"account{account}", since),
            )
        for row_id, (account, acl) in ROWS.items():
            add_row(cursor, row_id, account)
            bucket.client.put_object(Bucket=bucket.name, Key=key(row_id), Body=b"body", ACL=acl)
        connection.commit()
    monkeypatch.setenv("S3_BUCKET", bucket.name)
    world_with_acls.register(MEDIA)
    return bucket


@pytest.fixture
def asked(source: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the source that counts what it is asked."""
    with s3_proxy(source.server.endpoint) as proxy:
        monkeypatch.setenv("S3_ENDPOINT", proxy.endpoint)
        yield proxy


@pytest.mark.long
def test_each_object_gets_the_acl_that_it_has_at_the_source(
    world_with_acls: Installation, source: Bucket, asked: Proxy
) -> None:
    world = world_with_acls
    assert world.run("sync_media_attachments", media_range(world), AS_SOURCE).success
    expected = {1: 200, 2: 403, 3: 200, 4: 403}
    assert statuses(source) == expected
    assert statuses(world.destination) == expected
    # A request more for each object that is copied, and one without a signature where its ACL is private. And the first
    # public row is asked about, for a source that shows nobody anything says nothing.
    assert asked.count(Kind.OTHER) == len(ROWS) + 1
    assert asked.count(Kind.GET) == len(ROWS) + 2

    asked.forget()
    assert world.run("sync_media_attachments", media_range(world), AS_SOURCE).success
    # The three that are private by their row or were written private are asked for, at both storages.
    assert asked.count(Kind.OTHER) == 3 + 1
    assert asked.count(Kind.GET) == 2
    assert verify(world, privacy="source", acls="all").success

    # Neither the rows' word nor that of earlier runs turns them.
    client, bucket = world.destination.client, world.destination.name
    client.put_object_acl(Bucket=bucket, Key=key(2), ACL="public-read")
    client.put_object_acl(Bucket=bucket, Key=key(3), ACL="private")
    assert not verify(world, privacy="source", acls="all").success
    assert unequal(world) == {key(2): Finding.ACL_DIFFERS, key(3): Finding.ACL_DIFFERS}
    assert world.run("sync_media_attachments", media_range(world), AS_SOURCE).success
    assert statuses(world.destination) == expected
    assert verify(world, privacy="source", acls="all").success


@pytest.mark.long
@pytest.mark.usefixtures("asked")
def test_what_everybody_may_read_by_a_policy_of_the_bucket_is_not_private(
    world_with_acls: Installation, source: Bucket
) -> None:
    world = world_with_acls
    let_everybody_read(source)
    for row_id in ROWS:
        source.client.put_object_acl(Bucket=source.name, Key=key(row_id), ACL="private")
    assert set(statuses(source).values()) == {200}
    assert world.run("sync_media_attachments", media_range(world), AS_SOURCE).success
    assert set(statuses(world.destination).values()) == {200}


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("lost", [0, 1], ids=["four objects", "two objects"])
def test_a_source_that_shows_nobody_anything_does_not_make_a_site_that_nobody_can_read(
    world_with_acls: Installation, source: Bucket, lost: int
) -> None:
    world = world_with_acls
    for row_id in ROWS:
        source.client.put_object_acl(Bucket=source.name, Key=key(row_id), ACL="private")
    for row_id in list(ROWS)[:lost]:
        source.client.delete_object(Bucket=source.name, Key=key(row_id))
    assert "privacy=source" in failure_of(world.run("sync_media_attachments", media_range(world), AS_SOURCE))
    assert world.destination.client.list_objects_v2(Bucket=world.destination.name)["KeyCount"] == 0


@pytest.mark.long
def test_without_acls_a_quiet_night_probes_and_asks_the_source_for_nothing_private(
    world_with_acls: Installation, asked: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_with_acls
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "")
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "true")
    monkeypatch.setenv("MASTOSYNC_PRIVACY", "source")
    # Written long before the last night.
    execute(world, "UPDATE media_attachments SET created_at = '2024-01-01', updated_at = '2024-01-01'")
    execute(world, "UPDATE media_attachments SET file_updated_at = '2024-01-01'")
    assert world.run("sync_media_attachments", media_range(world)).success
    assert nightly(world).success
    world.forget()
    asked.forget()
    assert nightly(world).success
    # The first public row is asked about, as in each run.
    assert {request.key for request in asked.requests if request.key} == {key(1)}
    assert world.requests(probes=True)[Kind.PUT] == 1


def test_a_source_without_acls_is_named_with_the_setting_that_helps(world_with_acls: Installation) -> None:
    world = world_with_acls
    world.register(MEDIA)
    message = failure_of(world.run("sync_media_attachments", media_range(world), AS_SOURCE))
    assert "leave privacy at mastodon" in message
    assert "S3_PERMISSION" not in message


def test_the_default_policy_goes_by_the_rows_where_the_source_says_otherwise(
    world_with_acls: Installation, source: Bucket, asked: Proxy
) -> None:
    world = world_with_acls
    assert statuses(source) == {1: 200, 2: 403, 3: 200, 4: 403}
    assert world.run("sync_media_attachments", media_range(world)).success
    assert statuses(world.destination) == {1: 200, 2: 200, 3: 403, 4: 403}
    assert asked.count(Kind.OTHER) == 0


@pytest.mark.usefixtures("asked")
def test_of_what_the_source_has_lost_and_is_fetched_elsewhere_the_rows_say_who_may_read_it(
    world_with_acls: Installation, source: Bucket, tmp_path: Path
) -> None:
    world = world_with_acls
    for row_id in (1, 3):
        source.client.delete_object(Bucket=source.name, Key=key(row_id))
    with contextlib.closing(psycopg2.connect(world.database.url)) as connection, connection.cursor() as cursor:
        add_row(cursor, 5, ACTIVE)
        connection.commit()
    source.client.put_object(Bucket=source.name, Key=key(5), Body=b"body", ACL="public-read")
    config = {"plan": {"config": {"privacy": "source"}}, "copy": {"config": {"refetch": True}}}
    with hostile_web(tmp_path) as web:
        with contextlib.closing(psycopg2.connect(world.database.url)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "UPDATE media_attachments SET remote_url = %s, file_content_type = 'image/png' WHERE id IN (1, 3)",
                (web.url("/good.png"),),
            )
            connection.commit()
        job = build_definitions(web=web.settings()).resolve_job_def(f"sync_{MEDIA.value}")
        done = job.execute_in_process(
            instance=world.dagster,
            partition_key=media_range(world),
            run_config={"ops": {MEDIA.value: {"ops": config}}},
            raise_on_error=False,
        )
    assert done.success, failure_of(done)
    assert statuses(world.destination) == {1: 200, 2: 403, 3: 403, 4: 403}


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("permission", ["", "private", "public-read"])
def test_nothing_that_is_private_at_the_source_goes_into_a_bucket_that_everybody_reads(
    everybody_reads: Installation,
) -> None:
    result = everybody_reads.run("sync_media_attachments", media_range(everybody_reads), AS_SOURCE)
    assert "policy" in failure_of(result)
    assert 200 not in {statuses(everybody_reads.destination)[row_id] for row_id in (2, 4)}
