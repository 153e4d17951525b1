"""Verify does not believe a listing that lacks something, and names what lies beside the folders that are copied."""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING

import psycopg2
import pytest

from mastosync_dagster.records.findings import Finding
from mastosync_dagster.records.outcomes import ONLY_AT_DESTINATION
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule, ShortList
from mastosync_dagster_tests.support.verifying import MEDIA, check, findings, media_range, metadata, unequal, verify

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.corners import Bucket
    from mastosync_dagster_tests.support.installation import Installation

ROWS = 40
LISTINGS = frozenset({Kind.LIST})


def body_of(key: str) -> bytes:
    return f"body of {key}".encode()


@pytest.fixture
def source(world: Installation, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A source of the test's own, for rows that have one object each; all of it copied."""
    source = create_bucket(world.source.server)
    monkeypatch.setenv("S3_BUCKET", source.name)
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "1000")
    with contextlib.closing(psycopg2.connect(world.database.url)) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM media_attachments")
        cursor.execute(
            "INSERT INTO media_attachments (id, file_file_name, file_content_type, created_at, updated_at,"
            " file_updated_at) SELECT n, 'a.mp3', 'audio/mpeg', now(), now(), now() FROM generate_series(1, %s) n",
            (ROWS,),
        )
        connection.commit()
    for key in keys():
        source.client.put_object(Bucket=source.name, Key=key, Body=body_of(key))
    world.register(MEDIA)
    assert world.run("sync_media_attachments", media_range(world)).success
    return source


def keys() -> list[str]:
    return [f"media_attachments/files/000/000/{number:03d}/original/a.mp3" for number in range(1, ROWS + 1)]


def shorten(world: Installation, *names: str, entries: int = 5) -> None:
    for name in names:
        proxy = world.source_proxy if name == "source" else world.destination_proxy
        proxy.set_rules(Rule(ShortList(entries), kinds=LISTINGS))


@pytest.mark.long(cases=1)
@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("entries", [0, 5, ROWS - 1])
@pytest.mark.parametrize("names", [("source",), ("destination",), ("source", "destination")], ids="+".join)
def test_what_a_listing_lacks_is_neither_missing_nor_absent(
    world: Installation, names: tuple[str, ...], entries: int
) -> None:
    shorten(world, *names, entries=entries)
    found = verify(world)
    assert found.success
    assert unequal(world) == {}
    assert {line.detail for line in findings(world)} == {None}
    numbers = metadata(found)
    assert (numbers["equal"], numbers["missing"], numbers["absent"]) == (ROWS, 0, 0)
    assert f"{(ROWS - entries) * len(names):,} objects that a listing lacked were there" in str(numbers["summary"])


@pytest.mark.long
def test_what_is_truly_missing_or_absent_is_said_to_be(world: Installation, source: Bucket) -> None:
    missing, absent, only_there = keys()[10], keys()[20], keys()[30]
    for bucket, key in (
        (source, missing),
        (world.destination, missing),
        (world.destination, absent),
        (source, only_there),
    ):
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    for names in ((), ("source",), ("destination",), ("source", "destination")):
        shorten(world, *names)
        found = verify(world)
        assert not found.success
        assert unequal(world) == {absent: Finding.ABSENT}
        lines = {line.key: line for line in findings(world)}
        assert lines[missing].finding is Finding.MISSING
        assert (lines[only_there].finding, lines[only_there].detail) == (Finding.EQUAL, ONLY_AT_DESTINATION)
        assert len(lines) == ROWS


@pytest.mark.long
@pytest.mark.usefixtures("source")
def test_what_a_listing_lacks_is_compared_all_the_same(world: Installation) -> None:
    damaged = {keys()[2], keys()[15], keys()[33]}
    for key in damaged:
        world.destination.client.put_object(Bucket=world.destination.name, Key=key, Body=b"")
    for names in (("source",), ("destination",), ("source", "destination")):
        shorten(world, *names)
        verify(world)
        assert unequal(world) == dict.fromkeys(damaged, Finding.SIZE_DIFFERS)


@pytest.mark.long
@pytest.mark.usefixtures("source")
def test_an_object_of_which_nobody_answers_is_neither(world: Installation) -> None:
    key = keys()[-1]
    shorten(world, "source")
    world.destination_proxy.set_rules(
        Rule(ShortList(5), kinds=LISTINGS), Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.HEAD}), key="040/")
    )
    assert not verify(world, headers="none").success
    assert unequal(world) == {key: Finding.UNKNOWN}


@pytest.mark.long(cases=0)
def test_what_lies_beside_the_folders_that_are_copied_is_named_at_both_storages(
    world: Installation, source: Bucket
) -> None:
    foreign = ["imports/data/000/000/001/original/a.csv", "pg_dumps/monday.sql", "pg_dumps/tuesday.sql", "index.html"]
    for key in (*foreign, "cache/what/a.png", "cache/custom_emojis/a", "backups/dumps/000/000/001/original/a.zip"):
        source.client.put_object(Bucket=source.name, Key=key, Body=b"x")
    world.destination.client.put_object(Bucket=world.destination.name, Key="other/a", Body=b"x")
    for names in ((), ("source", "destination")):
        shorten(world, *names, entries=1)
        found = verify(world)
        assert found.success
        assert check(found).passed
        numbers = metadata(found)
        summary = str(numbers["summary"])
        at_source, at_destination = summary.split("at the destination, and not copied: ")
        assert at_destination.split(";")[0] == "other/"
        named = at_source.split("at the source, and not copied: ")[1].rstrip("; ").split(", ")
        assert sorted(named) == ["cache/what/", "imports/", "index.html", "pg_dumps/"]
        assert numbers["top of the source"] == (
            "`cache/what/` (not copied), `imports/` (not copied), `index.html` (not copied), `pg_dumps/` (not copied),"
            " `backups/`, `cache/custom_emojis/`, `media_attachments/`"
        )
        assert numbers["top of the destination"] == "`other/` (not copied), `media_attachments/`"
    shorten(world, "source", "destination", entries=100)
    verify(world)
    by_finding = {
        finding: sorted(line.key for line in lines)
        for finding, lines in itertools.groupby(
            sorted(findings(world), key=lambda line: line.finding.value), key=lambda line: line.finding
        )
    }
    assert by_finding[Finding.FOREIGN_AT_SOURCE] == sorted([*foreign, "cache/what/a.png"])
    assert by_finding[Finding.FOREIGN] == ["other/a"]


@pytest.mark.long(cases=0)
def test_what_lies_beside_the_key_prefix_of_the_source_is_named(
    world: Installation, source: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in keys():
        source.client.put_object(Bucket=source.name, Key=f"a/b/{key}", Body=body_of(key))
        source.client.delete_object(Bucket=source.name, Key=key)
    foreign = ["a/b/imports/a.csv", "a/letters/a.txt", "dump.sql", "other/a.txt"]
    for key in foreign:
        source.client.put_object(Bucket=source.name, Key=key, Body=b"x")
    monkeypatch.setenv("S3_KEY_PREFIX", "a/b")
    found = verify(world)
    assert found.success
    assert sorted(line.key for line in findings(world) if line.finding is Finding.FOREIGN_AT_SOURCE) == foreign
    summary = str(metadata(found)["summary"])
    assert "at the source, and not copied: imports/, /dump.sql, /other/, /a/letters/" in summary
    # With the right to list what is below the prefix alone, that is named, and the rest unknown.
    world.source_proxy.set_rules(Rule(Answer(403, "AccessDenied"), kinds=LISTINGS, prefix="^(?!a/b/)"))
    summary = str(metadata(verify(world))["summary"])
    assert "at the source, and not copied: imports/;" in summary
    assert "beside its key prefix is unknown" in summary
    world.source_proxy.set_rules()
    # The other half of one bucket is no foreign folder.
    for name in ("S3_BUCKET", "S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"DESTINATION_{name}", os.environ[name])
    monkeypatch.setenv("DESTINATION_S3_KEY_PREFIX", "other")
    verify(world)
    assert [line.key for line in findings(world) if line.finding is Finding.FOREIGN_AT_SOURCE] == foreign[:1]


@pytest.mark.long
@pytest.mark.usefixtures("source")
def test_a_storage_whose_top_may_not_be_listed_is_called_unknown(world: Installation) -> None:
    # As with a policy that lets folders be listed and not the bucket.
    world.source_proxy.set_rules(Rule(Answer(403, "AccessDenied"), kinds=LISTINGS, skip=1))
    found = verify(world)
    assert found.success
    assert "the top of the source may not be listed" in str(metadata(found)["summary"])
