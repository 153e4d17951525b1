"""Only what no row expects is deleted, under every guard; on doubt nothing is."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.expected.orphans import UNKNOWN_STYLE
from mastosync_dagster.mastodon import connection
from mastosync_dagster.prune import guards, run
from mastosync_dagster.prune.config import PruneConfig
from mastosync_dagster.prune.guards import AFTER_NEWEST_ROW, TOO_YOUNG
from mastosync_dagster.prune.run import BEYOND_LIMIT, WANTED_AGAIN
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.findings import Finding, FindingLine, read_findings
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.config import RunSettingError
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster_tests.support.corners import create_bucket, create_database, drop_database
from mastosync_dagster_tests.support.installation import failure_of, make_world
from mastosync_dagster_tests.support.manifests import newest_of_each
from mastosync_dagster_tests.support.proxy import Answer, Kind, Reset, Rule
from mastosync_dagster_tests.support.tcp import vanishing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    import dagster as dg

    from mastosync_dagster.demo.servers.start import S3Server
    from mastosync_dagster_tests.support.installation import Installation, Original

MEDIA = FileType.MEDIA_ATTACHMENTS
LONG_AGO = "1600000000.0"
IN_2024 = "1710000000.0"
MANY = 1_000
"""Enough for all that these tests put there: no run has recorded it."""


@pytest.fixture(scope="module")
def copied(
    original: Original, destination_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The instance, its media copied in one range: once for all tests, which leave it as it is."""
    with (
        pytest.MonkeyPatch.context() as patch,
        make_world(
            original, create_bucket(destination_server), tmp_path_factory.mktemp("prune") / "home", patch
        ) as made,
    ):
        patch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "1000")
        ((key,),) = made.register(MEDIA).values()
        assert made.run("sync_media_attachments", key).success
        yield made


@pytest.fixture
def synced(copied: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """The same, with a database of the test's own, and afterwards without what the test has put there."""
    database = create_database(copied.database, template=copied.database.database)
    monkeypatch.setenv("DATABASE_URL", database.url)
    yield replace(copied, database=database)
    copied.destination_proxy.set_rules()
    drop_database(database)
    for key in keys(copied) - {each.key for each in copied.instance.objects_of(MEDIA)}:
        copied.destination.client.delete_object(Bucket=copied.destination.name, Key=key)
    assert copied.compare(MEDIA).differences == ()


def prune(world: Installation, **config: object) -> dg.ExecuteInProcessResult:
    world.destination_proxy.forget()
    (key,) = world.dagster.get_dynamic_partitions(MEDIA.partitions_name)
    return world.run("prune_media_attachments", key, {"ops": {"prune": {"config": config}}})


def findings(world: Installation, job: str = "prune") -> list[FindingLine]:
    store = manifest_store(world.dagster, S3Bucket.destination())
    (manifest,) = newest_of_each(store, f"{job}_media_attachments")
    with store.file(manifest) as path:
        return [line for lines in read_findings(path) for line in lines]


def put(world: Installation, key: str, *, old: bool = True, written: str = LONG_AGO) -> str:
    """Put an object that no row expects, or that one does; of old, or of just now."""
    metadata = {"mtime": written} if old else {}
    world.destination.client.put_object(Bucket=world.destination.name, Key=key, Body=b"extra", Metadata=metadata)
    return key


def keys(world: Installation) -> frozenset[str]:
    return list_keys(world.destination.server, world.destination.name)


@dataclass(frozen=True)
class Orphans:
    """Objects that no row expects.

    Attributes:
        extra: Under Mastodon's prefixes, in the range, old.
        young: The same, of today.
        foreign: Everything else, old.
    """

    extra: frozenset[str]
    young: frozenset[str]
    foreign: frozenset[str]


def add_orphans(world: Installation) -> Orphans:
    objects = world.instance.objects_of(MEDIA)
    ids = {row["id"] for row in world.instance.rows[MEDIA]}
    no_row = next(number for number in range(1, 999) if number not in ids)
    folders = sorted({each.key.rpartition("/")[0] for each in objects})[:3]
    extra = [f"{folder}/0123456789abcdef.png" for folder in folders]
    extra.append(f"cache/media_attachments/files/000/000/{no_row:03d}/small/0123456789abcdef.png")
    young = [f"{folder}/fedcba9876543210.png" for folder in folders]
    with_candidates = [each.key for each in objects if each.key.startswith("cache/")]
    foreign = [
        # The row may lie there too: an interrupted upgrade of the storage schema leaves both.
        with_candidates[0].removeprefix("cache/"),
        "media_attachments/files/999/999/999/999/999/999/original/0123456789abcdef.png",
        "media_attachments/files/000/original/0123456789abcdef.png",
        "media_attachments/elsewhere/000/000/001/original/0123456789abcdef.png",
        "accounts/avatars/000/000/001/original/0123456789abcdef.png",
        "backup/media_attachments/files/000/000/001/original/0123456789abcdef.png",
        "index.html",
    ]
    for key in [*extra, *foreign]:
        put(world, key)
    for key in young:
        put(world, key, old=False)
    return Orphans(frozenset(extra), frozenset(young), frozenset(foreign))


@pytest.mark.long
def test_extra_objects_are_listed_and_stay(synced: Installation) -> None:
    orphans = add_orphans(synced)
    before = keys(synced)
    assert prune(synced).success
    assert keys(synced) == before
    assert {(line.key, line.finding) for line in findings(synced)} == {
        (key, Finding.EXTRA) for key in orphans.extra | orphans.young
    }
    assert synced.destination_proxy.count(Kind.DELETE) == 0


def test_only_old_extra_objects_of_the_range_are_deleted_and_each_is_on_record(synced: Installation) -> None:
    orphans = add_orphans(synced)
    before = keys(synced)
    assert prune(synced, delete=True, max_delete=MANY).success
    assert before - keys(synced) == orphans.extra
    recorded = {line.key: (line.finding, line.detail) for line in findings(synced)}
    assert recorded == {
        **dict.fromkeys(orphans.extra, (Finding.DELETED, None)),
        **dict.fromkeys(orphans.young, (Finding.EXTRA, TOO_YOUNG)),
    }


def test_an_object_that_a_row_expects_since_the_range_was_listed_stays(
    synced: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = next(
        each for each in synced.instance.objects_of(MEDIA) if re.match(r"media.*/original/.*png$", each.key)
    )
    wanted = put(synced, f"{original.key.rpartition('/')[0]}/0123456789abcdef.png")
    extra = put(synced, f"{original.key.rpartition('/')[0]}/fedcba9876543210.png")

    def restored_from(*arguments: Any) -> datetime | None:
        with contextlib.closing(psycopg2.connect(synced.database.url)) as writing, writing, writing.cursor() as cursor:
            named = "UPDATE media_attachments SET file_file_name = %s WHERE id = %s"
            cursor.execute(named, (wanted.rpartition("/")[2], original.row_id))
        return guards.restored_from(*arguments)

    # It is asked when all is listed, and before anything is deleted.
    monkeypatch.setattr(run, "restored_from", restored_from)
    assert prune(synced, delete=True, max_delete=MANY).success
    recorded = {line.key: (line.finding, line.detail) for line in findings(synced)}
    assert recorded == {wanted: (Finding.EXTRA, WANTED_AGAIN), extra: (Finding.DELETED, None)}
    assert wanted in keys(synced)


def test_no_run_deletes_more_than_it_may(synced: Installation) -> None:
    orphans = add_orphans(synced)
    before = keys(synced)
    assert prune(synced, delete=True, max_delete=2).success
    assert len(before - keys(synced)) == 2
    beyond = [line.key for line in findings(synced) if line.detail == BEYOND_LIMIT]
    assert len(beyond) == len(orphans.extra) - 2


@pytest.mark.long(cases=0)
def test_styles_that_a_newer_mastodon_may_have_added_stay_and_use_nothing_up(synced: Installation) -> None:
    orphans = add_orphans(synced)
    unknown = []
    for each in synced.instance.objects_of(MEDIA)[:3]:
        folder, _, name = each.key.rsplit("/", 2)
        unknown += [put(synced, f"{folder}/{style}/{name}") for style in ("@0x", "large")]
    before = keys(synced)
    assert prune(synced, delete=True, max_delete=len(orphans.extra)).success
    assert before - keys(synced) == orphans.extra
    details = {line.key: line.detail for line in findings(synced) if line.finding is Finding.EXTRA}
    assert details == {**dict.fromkeys(unknown, UNKNOWN_STYLE), **dict.fromkeys(orphans.young, TOO_YOUNG)}

    (key,) = synced.dagster.get_dynamic_partitions(MEDIA.partitions_name)
    assert synced.run("verify_media_attachments", key).success
    recorded = {line.key: line.finding for line in findings(synced, "verify") if line.detail == UNKNOWN_STYLE}
    assert recorded == dict.fromkeys(unknown, Finding.EXTRA)


@pytest.mark.long
def test_of_a_restored_backup_nothing_is_deleted_that_came_after_it(synced: Installation) -> None:
    orphans = add_orphans(synced)
    folders = sorted({each.key.rpartition("/")[0] for each in synced.instance.objects_of(MEDIA)})
    later = {put(synced, f"{folder}/00112233.png", written=IN_2024) for folder in folders[:3]}
    before = keys(synced)
    for table in ("media_attachments", "accounts", "custom_emojis", "preview_cards", "site_uploads", "backups"):
        _execute(synced, f"DELETE FROM {table} WHERE greatest(created_at, updated_at) >= '2023-06-01'")  # noqa: S608  (of a list)
    assert prune(synced, delete=True, max_delete=MANY).success
    assert before - keys(synced) == orphans.extra
    assert {line.key for line in findings(synced) if line.detail == AFTER_NEWEST_ROW} == later

    # From its first new row on, it is the instance as it is.
    _execute(synced, "UPDATE accounts SET updated_at = now() WHERE id = (SELECT max(id) FROM accounts)")
    assert prune(synced, delete=True, max_delete=MANY).success
    assert before - keys(synced) == orphans.extra | later


SET_BY_A_STRANGER = {
    # The newest row: Mastodon gives a post of the future the next id.
    "a post of 2199": "'2199-01-01'",
    "a post of 2199, or so it said then": "now() - interval '1 hour'",
    "an old post": "'2009-01-01'",
}


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("said", SET_BY_A_STRANGER.values(), ids=SET_BY_A_STRANGER)
def test_no_post_of_another_server_makes_a_restored_backup_look_alive(synced: Installation, said: str) -> None:
    orphans = add_orphans(synced)
    folders = sorted({each.key.rpartition("/")[0] for each in synced.instance.objects_of(MEDIA)})
    later = {put(synced, f"{folder}/00112233.png", written=IN_2024) for folder in folders[:3]}
    before = keys(synced)
    for table in ("media_attachments", "accounts", "custom_emojis", "preview_cards", "site_uploads", "backups"):
        _execute(synced, f"DELETE FROM {table} WHERE greatest(created_at, updated_at) >= '2023-06-01'")  # noqa: S608  (of a list)
    _execute(synced, "ALTER TABLE statuses ADD created_at timestamp, ADD updated_at timestamp")
    _execute(
        synced,
        f"INSERT INTO statuses (id, account_id, created_at, updated_at) VALUES ({2**62}, 1, {said}, '2023-05-31')",  # noqa: S608  (of a list)
    )
    _execute(synced, f"UPDATE accounts SET created_at = {said} WHERE id = (SELECT max(id) FROM accounts)")  # noqa: S608  (of a list)
    assert prune(synced, delete=True, max_delete=MANY).success
    assert before - keys(synced) == orphans.extra
    assert {line.key for line in findings(synced) if line.detail == AFTER_NEWEST_ROW} == later


@pytest.mark.long
def test_where_all_rows_are_of_the_future_nothing_of_unknown_age_is_deleted(synced: Installation) -> None:
    add_orphans(synced)
    before = keys(synced)
    for table in ("media_attachments", "accounts", "custom_emojis", "preview_cards", "site_uploads", "backups"):
        _execute(synced, f"UPDATE {table} SET created_at = '2199-01-01', updated_at = '2199-01-01'")  # noqa: S608  (of a list)
    _execute(synced, "DELETE FROM media_attachments WHERE id = (SELECT max(id) FROM media_attachments)")
    assert prune(synced, delete=True, max_delete=MANY).success
    assert keys(synced) == before


def add_another_instance(world: Installation, share: float) -> set[str]:
    """Put objects of another instance into the same folders: as many as a share of what the rows expect."""
    expected = len(world.instance.objects_of(MEDIA)) + len(world.instance.missing_of(MEDIA))
    ids = {row["id"] for row in world.instance.rows[MEDIA]}
    free = (number for number in range(1, 10**6) if number not in ids)
    return {
        put(world, f"media_attachments/files/000/{number // 1000:03d}/{number % 1000:03d}/original/00aa.png")
        for number, _ in zip(free, range(int(share * expected)), strict=False)
    }


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("share", [0.55, 1.1])
def test_another_instances_objects_in_the_bucket_are_not_deleted(synced: Installation, share: float) -> None:
    theirs = add_another_instance(synced, share)
    before = keys(synced)
    refusal = failure_of(prune(synced, delete=True))
    assert all(word in refusal for word in ("max_share", "DESTINATION_S3_KEY_PREFIX", f"{len(theirs):,} objects"))
    assert keys(synced) == before
    assert synced.destination_proxy.count(Kind.DELETE) == 0
    assert {line.key for line in findings(synced)} == theirs
    # Whoever has read the list may say that it is his.
    assert not prune(synced, delete=True, max_delete=1_000, max_share=share - 0.05).success
    assert prune(synced, delete=True, max_delete=1_000, max_share=share).success
    assert before - keys(synced) == theirs


@pytest.mark.long
def test_more_than_a_hundred_objects_go_only_if_the_admin_says_how_many(synced: Installation) -> None:
    """Of a large range, another instance's objects are a small share."""
    theirs = add_another_instance(synced, share=0.4)
    assert len(theirs) > 100
    before = keys(synced)
    assert "max_delete" in failure_of(prune(synced, delete=True))
    assert keys(synced) == before
    assert synced.destination_proxy.count(Kind.DELETE) == 0
    assert prune(synced, delete=True, max_delete=101).success
    assert len(before - keys(synced)) == 101


@pytest.mark.long(cases=0)
def test_what_may_not_be_deleted_anyway_does_not_count_against_the_share(synced: Installation) -> None:
    orphans = add_orphans(synced)
    for each in synced.instance.objects_of(MEDIA):
        folder, _, name = each.key.rsplit("/", 2)
        put(synced, f"{folder}/@0x/{name}")
    before = keys(synced)
    assert prune(synced, delete=True, max_delete=MANY).success
    assert before - keys(synced) == orphans.extra


@pytest.mark.parametrize("share", [-0.1, 1_001, float("nan")])
def test_a_share_out_of_bounds_is_refused(share: float) -> None:
    with pytest.raises(RunSettingError, match="max_share"):
        PruneConfig(max_share=share)


@dataclass(frozen=True)
class Doubt:
    """Something that casts doubt on what is extra.

    Attributes:
        name: For the test's name.
        spoil: Brings it about.
        says: What the failure must name.
    """

    name: str
    spoil: Callable[[Installation, pytest.MonkeyPatch], None]
    says: str


def _execute(world: Installation, query: str) -> None:
    with contextlib.closing(psycopg2.connect(world.database.url)) as admin, admin.cursor() as cursor:
        cursor.execute(query)
        admin.commit()


def _another_instance(world: Installation, patch: pytest.MonkeyPatch) -> None:
    """The prefix of another instance, whose objects lie in the same folders under other names."""
    for each in world.instance.objects_of(MEDIA)[:40]:
        put(world, f"other/{each.key.rpartition('/')[0]}/0123456789abcdef.png")
    patch.setenv("DESTINATION_S3_KEY_PREFIX", "other")


DOUBTS = [
    Doubt("an empty table", lambda world, _: _execute(world, "TRUNCATE media_attachments"), "DATABASE_URL"),
    Doubt(
        "no row has a file",
        lambda world, _: _execute(
            world, "UPDATE media_attachments SET file_file_name = NULL, thumbnail_file_name = NULL"
        ),
        "DATABASE_URL",
    ),
    Doubt(
        "the database of another instance",
        lambda world, _: _execute(world, "UPDATE media_attachments SET file_file_name = 'x' || file_file_name"),
        "DATABASE_URL",
    ),
    Doubt("a prefix of nobody's", lambda _, patch: patch.setenv("DESTINATION_S3_KEY_PREFIX", "nobody"), "KEY_PREFIX"),
    Doubt("the prefix of another instance", _another_instance, "KEY_PREFIX"),
    Doubt(
        "the listing is refused half-way",
        lambda world, _: world.destination_proxy.set_rules(
            Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.LIST}), skip=2)
        ),
        "destination",
    ),
]


@pytest.mark.long(cases=2)
@pytest.mark.parametrize("doubt", DOUBTS, ids=lambda doubt: doubt.name)
def test_on_doubt_nothing_is_deleted(synced: Installation, doubt: Doubt, monkeypatch: pytest.MonkeyPatch) -> None:
    add_orphans(synced)
    doubt.spoil(synced, monkeypatch)
    before = keys(synced)
    assert doubt.says in failure_of(prune(synced, delete=True, max_delete=MANY))
    assert keys(synced) == before
    assert synced.destination_proxy.count(Kind.DELETE) == 0


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("after", [5_000, 20_000, 30_000])
def test_when_the_database_vanishes_in_the_middle_nothing_is_deleted(
    synced: Installation, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_orphans(synced)
    before = keys(synced)
    monkeypatch.setattr(connection, "time", SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic))
    with vanishing(synced.database.port, after=after) as proxy:
        monkeypatch.setenv("DATABASE_URL", synced.database.url.replace(str(synced.database.port), str(proxy.port)))
        assert "DATABASE_URL" in failure_of(prune(synced, delete=True, max_delete=MANY, page_rows=10))
        assert proxy.gone.is_set()
    assert keys(synced) == before
    assert synced.destination_proxy.count(Kind.DELETE) == 0


@pytest.mark.long
def test_a_deletion_that_is_refused_ends_the_run_and_is_on_record(synced: Installation) -> None:
    orphans = add_orphans(synced)
    before = keys(synced)
    synced.destination_proxy.set_rules(Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.DELETE})))
    assert "s3:DeleteObject" in failure_of(prune(synced, delete=True, max_delete=MANY))
    assert keys(synced) == before
    recorded = {line.key: line.finding for line in findings(synced)}
    assert recorded == dict.fromkeys(orphans.extra | orphans.young, Finding.EXTRA)


@pytest.mark.long
def test_a_deletion_whose_reply_is_lost_is_on_record(synced: Installation) -> None:
    orphans = add_orphans(synced)
    synced.destination_proxy.set_rules(Rule(Reset(), kinds=frozenset({Kind.DELETE}), times=1))
    assert prune(synced, delete=True, max_delete=MANY).success
    assert {line.key for line in findings(synced) if line.finding is Finding.DELETED} == orphans.extra
    assert not keys(synced) & orphans.extra
