"""Whatever stands in a row: each object is copied under exactly its key, or listed with its reason."""

from __future__ import annotations

import contextlib
import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mastosync_dagster.demo.instance.load import build
from mastosync_dagster.mastodon import stored_objects
from mastosync_dagster.mastodon.keys import id_partition
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster_tests.faults.world import Original
from mastosync_dagster_tests.support.corners import create_bucket, create_database
from mastosync_dagster_tests.support.instance_cases import ALL_CASES

if TYPE_CHECKING:
    from collections.abc import Callable

    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server
    from mastosync_dagster_tests.faults.world import FaultyInstallation

NAMES = (
    "with space.png",
    "'single' \"double\".png",
    "100%.png",
    "%41%2F.png",
    "a#b?c.png",
    "a+b&c=d;e.png",
    "back\\slash.png",
    "line\nbreak.png",
    "tab\t.png",
    ".hidden",
    "..png",
    "...",
    "x.",
    "ünïcödé.png",
    unicodedata.normalize("NFD", "ünïcödé.png"),
    "猫😀.png",
    "n" * 1_000 + ".png",
    "a//b.png",
    "CAPITAL.PNG",
    "~!@$^*()_-[]{}|<>,`.png",
)
NOT_TAKEN = {"n" * 1_000 + ".png", "a//b.png"}
"""Of these: a key of more than 1,024 bytes, which no S3 takes, and one that the test's server does not."""
ODD_IDS = (999_999_999, 1_000_000_000, 999_999_999_999, 1_000_000_000_000, 10**15, 10**16, 10**18, 2**63 - 1, -1)
WRONG_COLUMNS: tuple[dict[str, object], ...] = (
    {"file_file_size": None},
    {"file_file_size": -1},
    {"file_file_size": 0},
    {"file_content_type": None},
    {"file_content_type": ""},
    {"file_content_type": "IMAGE/PNG; charset=x"},
    {"file_content_type": "no type at all"},
    {"type": 99},
    {"processing": 77},
    {"file_storage_schema_version": -5},
)


def _insert(database: PostgresServer, rows: list[dict[str, object]]) -> None:
    with contextlib.closing(psycopg2.connect(database.url)) as connection, connection, connection.cursor() as cursor:
        for row in rows:
            names = ", ".join(row)
            values = ", ".join(["%s"] * len(row))
            cursor.execute(f"INSERT INTO media_attachments ({names}) VALUES ({values})", list(row.values()))  # noqa: S608  (our columns)


def _row(row_id: int, name: str, **columns: object) -> dict[str, object]:
    return {
        "id": row_id,
        "file_file_name": name,
        "file_content_type": "audio/mpeg",
        "file_file_size": 5,
        "file_updated_at": "2020-01-01",
        "remote_url": "",
        "created_at": "2020-01-01",
        "updated_at": "2020-01-01",
        **columns,
    }


@pytest.mark.long
def test_odd_names_sizes_types_and_ids_are_copied_or_listed(
    postgres_server: PostgresServer, source_server: S3Server, make_world: Callable[[Original], FaultyInstallation]
) -> None:
    database, bucket = create_database(postgres_server), create_bucket(source_server)
    with contextlib.closing(psycopg2.connect(database.url)) as connection:
        instance = build(connection, source_server, bucket.name, cases=ALL_CASES, rows=250)
    rows = [
        *(_row(2_000 + number, name) for number, name in enumerate(NAMES)),
        *(_row(row_id, "id.mp3") for row_id in ODD_IDS),
        *(_row(3_000 + number, "column.mp3", **columns) for number, columns in enumerate(WRONG_COLUMNS)),
    ]
    _insert(database, rows)
    bodies: dict[str, bytes] = {}
    for number, row in enumerate(rows):
        for stored in stored_objects("media_attachments", row):
            body = b"" if number == 0 else f"body {number} {stored.key[:40]}".encode()
            with contextlib.suppress(bucket.client.exceptions.ClientError):
                bucket.client.put_object(Bucket=bucket.name, Key=stored.key, Body=body)
                bodies[stored.key] = body
    there = {
        entry["Key"]
        for page in bucket.client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name)
        for entry in page["Contents"]
    }
    world = make_world(Original(replace(instance), database, bucket))

    result = world.run()

    store = manifest_store(world.dagster, S3Bucket.destination())
    (kept,) = store.in_order("sync_changes")
    lines = {line.key: line for batch in store.read(kept) for line in batch}
    # Nothing is passed over in silence, and one bad row is no reason not to copy the others.
    wanted = {stored.key for row in rows for stored in stored_objects("media_attachments", row)}
    assert wanted <= lines.keys()
    assert {key.partition("/original/")[2] for key in wanted - there} == NOT_TAKEN
    for key, body in bodies.items():
        assert lines[key].outcome is Outcome.COPIED, lines[key]
        assert world.destination.client.get_object(Bucket=world.destination.name, Key=key)["Body"].read() == body
    for line in lines.values():
        if line.outcome is Outcome.FAILED:
            assert line.reason is not None
    assert result.success == all(line.outcome is not Outcome.FAILED for line in lines.values())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=1_000),
    row_id=st.integers(-(2**63), 2**63 - 1),
    size=st.none() | st.integers(-(2**31), 2**31 - 1),
    content_type=st.none() | st.text(max_size=60),
)
def test_every_row_gives_its_original_under_the_name_that_stands_in_it(
    name: str, row_id: int, size: int | None, content_type: str | None
) -> None:
    row = {**_row(row_id, name), "file_file_size": size, "file_content_type": content_type}
    stored = stored_objects("media_attachments", row)
    if not name.strip():
        return
    assert stored[0].key == f"media_attachments/files/{id_partition(row_id)}/original/{name}"
    assert len({each.key for each in stored}) == len(stored)


def test_the_normal_forms_of_a_name_are_two_names() -> None:
    composed, decomposed = (
        stored_objects("media_attachments", _row(1, unicodedata.normalize(form, "é.mp3")))[0].key
        for form in ("NFC", "NFD")
    )
    assert composed != decomposed


@pytest.mark.parametrize("row_id", ODD_IDS)
def test_a_partition_holds_only_whole_groups_of_digits(row_id: int) -> None:
    assert all(len(group) == 3 for group in id_partition(row_id).split("/"))
