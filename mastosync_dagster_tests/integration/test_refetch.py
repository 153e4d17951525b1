"""With ``refetch`` a run brings lost originals of other servers back, and says which it could not."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import psycopg2
import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.outcomes import ONLY_AT_DESTINATION, Outcome
from mastosync_dagster.refetch import fetch
from mastosync_dagster.refetch.origins import MADE_HERE, NO_URL
from mastosync_dagster.refetch.refetch import FETCHED, NOT_FETCHED
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster_tests.support.acls import anonymous_status
from mastosync_dagster_tests.support.installation import metadata_of
from mastosync_dagster_tests.support.manifests import newest_of_each
from mastosync_dagster_tests.support.web import JPEG, PNG, hostile_web

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import dagster as dg

    from mastosync_dagster.records.manifest import ManifestLine
    from mastosync_dagster_tests.support.installation import Installation
    from mastosync_dagster_tests.support.web import Web

pytestmark = pytest.mark.long

MEDIA = FileType.MEDIA_ATTACHMENTS
REFETCH = {"ops": {MEDIA.value: {"ops": {"copy": {"config": {"refetch": True}}}}}}
FIRST = 900_000_001
SUSPENDED, ACTIVE = 77_001, 77_002


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with hostile_web(tmp_path) as running:
        yield running


def lose(world: Installation, *rows: tuple[str, str, int]) -> None:
    """Insert remote media whose files the source does not have: content type, address and account of each."""
    with contextlib.closing(psycopg2.connect(world.database.url)) as connection, connection.cursor() as cursor:
        for account, since in ((SUSPENDED, "2024-01-01"), (ACTIVE, None)):
            cursor.execute(
                "INSERT INTO accounts (id, username, domain, suspended_at, created_at, updated_at)"
                " VALUES (%s, %s, 'files.example', %s, now(), now())",
                (account, f"account{account}", since),
            )
        for number, (content_type, url, account) in enumerate(rows):
            cursor.execute(
                "INSERT INTO media_attachments (id, account_id, remote_url, file_file_name, file_content_type,"
                " file_file_size, file_storage_schema_version, processing, created_at, updated_at, file_updated_at)"
                " VALUES (%s, %s, %s, %s, %s, 1, 1, 2, now(), now(), now())",
                (FIRST + number, account, url, f"lost.{content_type.rpartition('/')[2]}", content_type),
            )
        connection.commit()


def lines(world: Installation, group: str = MEDIA.value) -> dict[tuple[int, str], ManifestLine]:
    """Return the newest manifest's lines about the rows that `lose` inserted."""
    store = manifest_store(world.dagster, S3Bucket.destination())
    (manifest,) = newest_of_each(store, group)
    found = [line for batch in store.read(manifest) for line in batch if FIRST <= line.row_id < FIRST + 100]
    recorded = {(line.row_id - FIRST, line.part): line for line in found}
    assert len(recorded) == len(found)
    return recorded


def sync(world: Installation, web: Web, key: str, config: Mapping[str, object] | None) -> dg.ExecuteInProcessResult:
    return (
        build_definitions(web=web.settings())
        .resolve_job_def(f"sync_{MEDIA.value}")
        .execute_in_process(instance=world.dagster, partition_key=key, run_config=config, raise_on_error=False)
    )


def test_lost_originals_come_back_from_their_servers_and_are_present_from_then_on(
    world_with_acls: Installation, web: Web
) -> None:
    world = world_with_acls
    elsewhere = web.url(f"/to?https://127.0.0.1:{web.port}/good.png")
    lose(
        world,
        ("image/png", web.url("/good.png"), ACTIVE),
        ("image/jpeg", web.url("/good.jpg"), SUSPENDED),
        ("image/png", elsewhere, ACTIVE),
        ("video/mp4", web.url("/good.png"), ACTIVE),
        ("audio/mpeg", "http://files.example/a.mp3", ACTIVE),
        ("image/png", web.url("/endless.png", "endless.files.example"), ACTIVE),
    )
    ((key,),) = world.register(MEDIA).values()

    assert sync(world, web, key, None).success
    assert {line.outcome for line in lines(world).values()} == {Outcome.MISSING}
    assert not web.asked

    fetched = sync(world, web, key, REFETCH)
    assert fetched.success
    recorded = lines(world)
    good = {number: recorded.pop((number, "file/original")) for number in (0, 1)}
    for line, body, content_type in ((good[0], PNG, "image/png"), (good[1], JPEG, "image/jpeg")):
        assert (line.outcome, line.refetched, line.detail, line.size) == (Outcome.COPIED, True, FETCHED, len(body))
        found = world.destination.client.get_object(Bucket=world.destination.name, Key=line.key)
        assert found["Body"].read() == body
        assert found["ContentType"] == content_type
        assert found["CacheControl"] == "public, max-age=315576000, immutable"
    status = {
        number: anonymous_status(world.destination.server, world.destination.name, good[number].key) for number in good
    }
    assert status == {0: 200, 1: 403}
    assert {(line.outcome, line.refetched) for line in recorded.values()} == {(Outcome.MISSING, False)}
    made_here = (recorded[number, "file/small"].detail or "" for number in (0, 1, 2, 3, 5))
    assert all(detail.startswith(NOT_FETCHED + MADE_HERE) and "tootctl media refresh" in detail for detail in made_here)
    assert {number: recorded[number, "file/original"].detail for number in (2, 3, 4, 5)} == {
        2: NOT_FETCHED + fetch.NOT_PUBLIC,
        3: NOT_FETCHED + fetch.WRONG_TYPE,
        4: NOT_FETCHED + fetch.NOT_HTTPS,
        5: NOT_FETCHED + fetch.TOO_LARGE,
    }
    assert metadata_of(fetched, MEDIA.value)["refetched"] == 2
    listed = world.destination.client.list_objects_v2(Bucket=world.destination.name, Prefix="cache/media_attachments/")
    assert sum("/lost." in each["Key"] for each in listed["Contents"]) == 2

    web.asked.clear()
    world.forget()
    assert sync(world, web, key, None).success
    again = [lines(world)[number, "file/original"] for number in good]
    assert [(line.outcome, line.detail) for line in again] == [(Outcome.PRESENT, ONLY_AT_DESTINATION)] * 2
    assert not web.asked
    verified = world.run(
        f"verify_{MEDIA.value}", key, {"ops": {f"{MEDIA.value}_verification": {"config": {"acls": "all"}}}}
    )
    assert verified.success


def test_rows_without_an_address_say_so(world: Installation, web: Web) -> None:
    lose(world, ("image/png", "https://files.example/a.png", ACTIVE))
    with contextlib.closing(psycopg2.connect(world.database.url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE media_attachments SET thumbnail_file_name = 'lost.png', thumbnail_content_type = 'image/png',"
            " file_file_name = NULL WHERE id = %s",
            (FIRST,),
        )
        connection.commit()
    config = {"plan_changes": {"config": {"file_types": [MEDIA.value]}}, "copy": {"config": {"refetch": True}}}
    job = build_definitions(web=web.settings()).resolve_job_def("sync_changes")
    assert job.execute_in_process(instance=world.dagster, run_config={"ops": config}, raise_on_error=False).success
    (line,) = lines(world, "sync_changes").values()
    assert line.part == "thumbnail/original"
    assert (line.detail or "").startswith(NOT_FETCHED + NO_URL)


def test_what_has_been_fetched_since_its_range_was_synced_is_reported_as_missing_no_more(
    world: Installation, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "1000")
    lose(world, ("image/png", web.url("/good.png"), ACTIVE), ("image/png", "http://files.example/a.png", ACTIVE))
    ((key,),) = world.register(MEDIA).values()
    assert sync(world, web, key, None).success
    small = {(0, "file/small"), (1, "file/small"), (1, "file/original")}
    assert reported() == small | {(0, "file/original")}
    config = {"plan_changes": {"config": {"file_types": [MEDIA.value]}}, "copy": {"config": {"refetch": True}}}
    job = build_definitions(web=web.settings()).resolve_job_def("sync_changes")
    assert job.execute_in_process(instance=world.dagster, run_config={"ops": config}, raise_on_error=False).success
    assert reported() == small


def reported() -> set[tuple[int, str]]:
    """Return which objects of the rows that `lose` inserted are missing, by the report."""
    outcome = CliRunner().invoke(main, ["report", MEDIA.value, "--format", "json"])
    assert outcome.exit_code == 0, outcome.output
    recorded = {(each["id"] - FIRST, each["part"]) for each in json.loads(outcome.stdout)["objects"]}
    return {(number, part) for number, part in recorded if 0 <= number < 100}


def test_the_command_fetches_too_and_by_itself_goes_to_no_private_address(world: Installation, web: Web) -> None:
    lose(world, ("image/png", f"https://127.0.0.2:{web.port}/good.png", ACTIVE))
    done = world.command("mastosync", "sync", MEDIA.value, "--refetch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines(world, "sync_changes")[0, "file/original"].detail == NOT_FETCHED + fetch.NOT_PUBLIC
    assert not web.asked
