"""The generated instance: the same for the same seed, whole, and truly there."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import psycopg2
import pytest
from psycopg2 import sql

from mastosync_dagster.demo.comparison import compare, list_keys
from mastosync_dagster.demo.instance.cases import CASES
from mastosync_dagster.demo.instance.load import Instance, build, grow
from mastosync_dagster.demo.instance.media_files import FileMaker, Kind
from mastosync_dagster.demo.servers.start import PostgresServer, S3Server, boto3_client
from mastosync_dagster.ranges.file_types import FILE_TYPES
from mastosync_dagster_tests.support.corners import Bucket
from mastosync_dagster_tests.support.instance_cases import ALL_CASES
from mastosync_dagster_tests.support.media_kinds import RareKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection as Connection


@dataclass(frozen=True)
class Made:
    """A small instance and where it is."""

    instance: Instance
    connection: Connection
    bucket: Bucket


@pytest.fixture(scope="module")
def made(postgres_server: PostgresServer, source_server: S3Server) -> Iterator[Made]:
    """One for all tests that only look at it."""
    name = f"demo_{uuid.uuid4().hex}"
    bucket = Bucket(server=source_server, name=f"demo-{uuid.uuid4().hex[:12]}", client=boto3_client(source_server))
    bucket.client.create_bucket(Bucket=bucket.name)
    with contextlib.closing(psycopg2.connect(postgres_server.url)) as admin:
        admin.autocommit = True
        admin.cursor().execute(f'CREATE DATABASE "{name}"')
        with contextlib.closing(psycopg2.connect(replace(postgres_server, database=name).url)) as connection:
            yield Made(build(connection, source_server, bucket.name, cases=ALL_CASES, rows=300), connection, bucket)
        admin.cursor().execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="module")
def instance(made: Made) -> Instance:
    """What was generated."""
    return made.instance


def test_every_case_has_a_row_even_in_a_small_instance(instance: Instance) -> None:
    assert {(case.table, case.name) for case in ALL_CASES} == set(instance.cases)
    assert all(instance.cases.values())
    made = sum(len(rows) for table, rows in instance.rows.items() if table != "statuses")
    assert 270 <= made <= 330


def test_cases_have_unique_names_and_every_kind_of_file_occurs() -> None:
    assert [case for case in CASES if case not in ALL_CASES] == []
    assert len({(case.table, case.name) for case in ALL_CASES}) == len(ALL_CASES)
    assert {file.kind for case in ALL_CASES for file in case.files} == {*Kind, *RareKind}


@pytest.mark.parametrize("table", ["media_attachments", "accounts", "custom_emojis", "preview_cards"])
def test_ids_are_unique_and_ascending(instance: Instance, table: str) -> None:
    ids = [int(str(row["id"])) for row in instance.rows[table]]
    assert ids == sorted(set(ids))


def test_serial_ids_and_ids_of_ten_digits_stand_beside_snowflakes(instance: Instance) -> None:
    widths = {len(str(row["id"])) for row in instance.rows["media_attachments"]}
    assert widths >= {1, 9, 10, 13, 18}
    assert instance.rows["accounts"][0]["id"] == -99
    assert {len(str(row["id"])) for row in instance.rows["accounts"]} >= {1, 10, 18}


def test_the_database_holds_the_rows(made: Made) -> None:
    instance = made.instance
    with made.connection.cursor() as cursor:
        for table, rows in instance.rows.items():
            cursor.execute(sql.SQL("SELECT id FROM {} ORDER BY id").format(sql.Identifier(table)))
            assert [row[0] for row in cursor] == [row["id"] for row in rows]
        cursor.execute(
            "SELECT count(*) FROM media_attachments m LEFT JOIN accounts a ON a.id = m.account_id"
            " LEFT JOIN statuses s ON s.id = m.status_id"
            " WHERE m.file_file_name <> '' AND (a.suspended_at IS NOT NULL OR s.deleted_at IS NOT NULL)"
        )
        private = {expected.row_id for expected in instance.objects_of("media_attachments") if expected.private}
        assert cursor.fetchall() == [(len(private),)]


def test_the_source_holds_the_objects_and_lacks_the_lost_ones(made: Made) -> None:
    instance, bucket = made.instance, made.bucket
    at_source = [replace(expected, key=expected.source_key) for expected in instance.objects]
    comparison = compare(bucket.server, bucket.name, at_source)
    # Strays lie at the source beside the objects; nothing else does, the missing ones least of all.
    assert comparison.differences == tuple(
        f"{key}: should not be at the destination" for key in sorted(instance.strays)
    )
    assert comparison.equal == len(instance.objects)
    assert not list_keys(bucket.server, bucket.name) & {lost.key for lost in instance.missing}
    assert len(instance.strays) == 2


def test_every_destination_key_is_expected_once(instance: Instance) -> None:
    keys = [expected.key for expected in instance.objects] + [lost.key for lost in instance.missing]
    assert len(keys) == len(set(keys))


def test_objects_differ_in_every_way(instance: Instance) -> None:
    objects = instance.objects
    assert {expected.table for expected in objects} == set(FILE_TYPES)
    assert {lost.table for lost in instance.missing} == set(FILE_TYPES)
    assert any(lost.harmless for lost in instance.missing_of("accounts"))
    assert any(expected.metadata for expected in objects)
    assert any(expected.cache_control is None for expected in objects)
    assert any(expected.size > 16 * 2**20 for expected in objects)
    moved = [expected for expected in objects if expected.key != expected.source_key]
    assert {expected.key.startswith("cache/") for expected in moved} == {True, False}


def test_an_object_that_differs_at_the_destination_is_reported(instance: Instance, destination_bucket: Bucket) -> None:
    expected = next(each for each in instance.objects if each.metadata)
    bucket = destination_bucket
    bucket.client.put_object(Bucket=bucket.name, Key=expected.key, Body=b"x", ContentType="text/html")
    absent = instance.objects[-1]
    line, other = compare(bucket.server, bucket.name, [expected, absent]).differences
    assert other == f"{absent.key}: not at the destination"
    assert line.startswith(expected.key)
    for word in (
        "size 1 instead of",
        "MD5",
        "Content-Type 'text/html' instead of",
        "Cache-Control None",
        "metadata {}",
    ):
        assert word in line


@pytest.mark.long
def test_the_same_seed_makes_the_same_instance_and_another_seed_another(
    database: PostgresServer, source_bucket: Bucket
) -> None:
    def new(seed: int, prefix: str) -> Instance:
        with contextlib.closing(psycopg2.connect(database.url)) as connection:
            connection.cursor().execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            return build(
                connection,
                source_bucket.server,
                source_bucket.name,
                cases=ALL_CASES,
                seed=seed,
                rows=300,
                key_prefix=prefix,
            )

    first, second, other = new(5, "first"), new(5, "second"), new(6, "third")
    assert replace(first, key_prefix="") == replace(second, key_prefix="")
    assert {expected.key for expected in first.objects}.isdisjoint(expected.key for expected in other.objects)
    folders = {key.split("/")[0] for key in list_keys(source_bucket.server, source_bucket.name)}
    assert folders == {"first", "second", "third"}


def test_an_instance_grows_by_rows_above_all_others(database: PostgresServer, source_bucket: Bucket) -> None:
    bucket = source_bucket
    now = datetime.now(timezone.utc).replace(microsecond=0)
    with contextlib.closing(psycopg2.connect(database.url)) as connection:
        instance = build(connection, bucket.server, bucket.name, cases=ALL_CASES, rows=300)
        more = grow(connection, bucket.server, bucket.name, instance, rows=60, now=now)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM accounts WHERE created_at = %s", (now.replace(tzinfo=None),))
            assert cursor.fetchall() == [(len(more.rows["accounts"]),)]
    for table in ("media_attachments", "accounts", "custom_emojis", "preview_cards"):
        assert int(str(more.rows[table][0]["id"])) > int(str(instance.rows[table][-1]["id"]))
        assert more.objects_of(table)
    assert {expected.source_key for expected in more.objects} <= list_keys(bucket.server, bucket.name)


def test_no_two_files_are_alike() -> None:
    maker = FileMaker(1)
    files = [maker.make(kind) for kind in (*Kind, *RareKind) for _ in range(20 if kind is not Kind.BIG_MP4 else 2)]
    assert len(set(files)) == len(files)
