"""A source that is not the database's is no success: nothing is recorded as done, and nothing is believed lost."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import psycopg2
import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.servers.start import LOOPBACK, free_port
from mastosync_dagster.mastodon import Database, Selection, stored_objects, walk_rows
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.summaries import with_counters
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster.runs.watermarks import range_reads, watermark
from mastosync_dagster.verify.repairs import verification_of
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.installation import failure_of, metadata_of, old_copy, without_cache
from mastosync_dagster_tests.support.manifests import newest_of_each

if TYPE_CHECKING:
    from pathlib import Path

    import dagster as dg

    from mastosync_dagster_tests.support.installation import Installation
    from mastosync_dagster_tests.support.life import Life

PLANS = (["cutover", "plan"], ["cutover", "plan", "--env"], ["cutover", "plan", "--nginx", "old"], ["cutover", "check"])
EMOJIS, CARDS = FileType.CUSTOM_EMOJIS, FileType.PREVIEW_CARDS


@pytest.fixture
def one_range(world: Installation, monkeypatch: pytest.MonkeyPatch) -> Installation:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "1000")
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "")
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "true")
    return world


def swap(world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("S3_BUCKET", "S3_ENDPOINT", "S3_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, world.environment[f"DESTINATION_{name}"])
        monkeypatch.setenv(f"DESTINATION_{name}", world.environment[name])


def sync(world: Installation, file_type: FileType) -> dg.ExecuteInProcessResult:
    ((key,),) = world.register(file_type).values()
    return world.run(f"sync_{file_type.value}", key)


def status(file_type: FileType) -> dict[str, object]:
    (found,) = json.loads(CliRunner().invoke(main, ["status", file_type.value, "--json"]).output)
    assert isinstance(found, dict)
    return found


def assert_not_done(world: Installation, result: dg.ExecuteInProcessResult) -> None:
    place = S3Bucket.destination().settings().identity
    assert not result.success
    for file_type in FileType:
        assert range_reads(world.dagster, file_type, place) == {}
        assert watermark(world.dagster, file_type, place) is None
    assert not any(check.passed for check in result.get_asset_check_evaluations())


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("file_type", [FileType.MEDIA_ATTACHMENTS, FileType.SITE_UPLOADS, CARDS])
def test_a_range_whose_objects_an_empty_source_lacks_is_not_done(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch, file_type: FileType
) -> None:
    monkeypatch.setenv("S3_BUCKET", create_bucket(one_range.source.server).name)
    result = sync(one_range, file_type)
    assert_not_done(one_range, result)
    message = failure_of(result)
    assert "S3_BUCKET" in message
    assert "DATABASE_URL" in message
    assert status(file_type)["objects_done"] == 0

    # The setting is mended: the range is still to be done, and is.
    monkeypatch.setenv("S3_BUCKET", one_range.source.name)
    (key,) = one_range.dagster.get_dynamic_partitions(file_type.partitions_name)
    assert one_range.run(f"sync_{file_type.value}", key).success
    assert one_range.compare(file_type).differences == ()


@pytest.mark.long(cases=0)
def test_a_wrong_prefix_names_its_variable(one_range: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_KEY_PREFIX", "elsewhere")
    result = sync(one_range, FileType.ACCOUNTS)
    assert_not_done(one_range, result)
    assert "S3_KEY_PREFIX" in failure_of(result)


def test_swapped_storages_are_not_done_though_the_destination_has_everything(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap(one_range, monkeypatch)
    result = sync(one_range, FileType.ACCOUNTS)
    assert_not_done(one_range, result)
    assert "swapped" in failure_of(result)


@pytest.mark.long
def test_prune_says_which_variables_to_unset_where_the_source_is_gone_or_is_the_destination(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((key,),) = one_range.register(FileType.ACCOUNTS).values()
    monkeypatch.setenv("S3_ENDPOINT", f"http://{LOOPBACK}:{free_port()}")
    monkeypatch.setenv("S3_BUCKET", one_range.destination.name)
    cure = "unset S3_BUCKET and MASTOSYNC_SOURCE_FOLDER for it"
    assert cure in failure_of(one_range.run("prune_accounts", key))
    monkeypatch.setenv("S3_ENDPOINT", one_range.environment["DESTINATION_S3_ENDPOINT"])
    message = failure_of(one_range.run("prune_accounts", key))
    assert "the same place" in message
    assert cure in message
    monkeypatch.delenv("S3_BUCKET")
    assert one_range.run("prune_accounts", key).success


@pytest.mark.long
def test_storages_that_are_swapped_in_the_middle_of_a_backfill_are_refused_unless_it_is_meant(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "40")
    world, accounts = one_range, FileType.ACCOUNTS
    first, *_, last = world.register(accounts)[accounts]
    assert world.run("sync_accounts", first).success
    with monkeypatch.context() as swapped:
        swap(world, swapped)
        card_range, *_ = world.register(CARDS)[CARDS]
        for result in (
            world.run("sync_accounts", first),
            world.run("sync_accounts", last),
            world.run("verify_accounts", first),
            world.run("sync_preview_cards", card_range),
            world.run("sync_changes"),
            world.run("prune_accounts", first, {"ops": {"prune": {"config": {"delete": True, "max_delete": 10}}}}),
            world.run("prune_every_range"),
        ):
            message = failure_of(result)
            assert "swapped" in message
            assert all(name in message for name in (" S3_BUCKET", "DESTINATION_S3_BUCKET", "DAGSTER_HOME"))
        for arguments in (["check"], ["sync", "accounts"], ["sync", "accounts", "--changed-since", "last"], *PLANS):
            outcome = CliRunner().invoke(main, arguments)
            assert (outcome.exit_code, "are swapped" in outcome.output) == (1, True)
        # Who goes back does it in another home.
        swapped.setenv("DAGSTER_HOME", str(tmp_path / "back"))
        (tmp_path / "back").mkdir()
        outcome = CliRunner().invoke(main, ["sync", "accounts", "--changed-since", "2020-01-01T00:00:00Z"])
        assert "are swapped" not in outcome.output
        assert "direction" not in CliRunner().invoke(main, ["check"]).output
    assert world.run("sync_accounts", last).success


@pytest.mark.long
def test_an_incremental_run_from_a_wrong_source_leaves_the_watermark(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_BUCKET", create_bucket(one_range.source.server).name)
    config = {"ops": {"plan_changes": {"config": {"file_types": ["accounts"], "changed_since": "last"}}}}
    result = one_range.run("sync_changes", config=config)
    assert_not_done(one_range, result)


@pytest.mark.long(cases=0)
def test_a_remote_cache_that_is_lost_is_missing_and_no_wrong_source(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_BUCKET", without_cache(one_range).name)
    result = sync(one_range, CARDS)
    assert result.success
    numbers = metadata_of(result, CARDS.value)
    # Cards of before 3.2 lie outside of the cache's folder.
    assert (numbers["missing"], numbers["copied"]) == (14, 5)
    # Missing is not done.
    found = status(CARDS)
    assert (found["objects_done"], found["objects_missing"]) == (5, 14)
    assert (found["materialized"], found["objects_left"]) == (1, 0)


@pytest.mark.long(cases=0)
def test_after_the_switch_what_only_the_destination_has_is_counted_apart(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mastodon writes to the destination by now, and the source has no more than what is older."""
    world = one_range
    with contextlib.closing(psycopg2.connect(world.database.url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE accounts SET avatar_file_name = 'after-the-switch.png', avatar_content_type = 'image/png',"
            " header_file_name = NULL WHERE id IN (SELECT id FROM accounts ORDER BY id DESC LIMIT 60) RETURNING id"
        )
        ids = [row_id for (row_id,) in cursor.fetchall()]
        connection.commit()
    written = written_at_the_destination(world, ids)
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "60")
    *_, last = world.register(FileType.ACCOUNTS)[FileType.ACCOUNTS]
    result = world.run("sync_accounts", last)
    assert result.success
    numbers = metadata_of(result, "accounts")
    assert numbers["only_at_destination"] == numbers["present"] == 6
    assert status(FileType.ACCOUNTS)["objects_only_at_destination"] == 6
    outcome = CliRunner().invoke(main, ["status", "accounts"])
    assert "6 done (6 only at the destination), 0 missing" in outcome.output
    outcome = CliRunner().invoke(main, ["sync", "accounts"])
    assert f"accounts: {written} of those present are only at the destination" in outcome.output


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("file_type", ["site_uploads", "backups"])
def test_a_run_over_all_rows_of_a_small_table_from_an_empty_source_leaves_the_watermark(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch, file_type: str
) -> None:
    monkeypatch.setenv("S3_BUCKET", create_bucket(one_range.source.server).name)
    for since in ({}, {"changed_since": "last"}):
        config = {"ops": {"plan_changes": {"config": {"file_types": [file_type], **since}}}}
        assert_not_done(one_range, one_range.run("sync_changes", config=config))


@pytest.mark.long(cases=0)
def test_what_a_run_without_ranges_has_not_found_is_missing_and_not_done(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_BUCKET", without_cache(one_range).name)
    config = {"ops": {"plan_changes": {"config": {"file_types": [CARDS.value], "changed_since": "last"}}}}
    assert one_range.run("sync_changes", config=config).success
    found = status(CARDS)
    assert (found["objects_done"], found["objects_missing"], found["objects_left"]) == (5, 14, 0)
    # Nor is it counted twice when a range has looked, too.
    assert sync(one_range, CARDS).success
    found = status(CARDS)
    assert (found["objects_done"], found["objects_missing"], found["objects_left"]) == (5, 14, 0)


def run_nights(life: Life, number: int) -> list[dg.ExecuteInProcessResult]:
    """Let nights pass, each after a day on which somebody posts a picture."""
    nights = []
    for _ in range(number):
        life.day().post_picture()
        nights.append(life.night())
    return nights


@pytest.mark.long
@pytest.mark.timeout(240)
def test_nights_with_few_objects_from_a_wrong_source_fail_and_lose_nothing(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.copy_everything()
    assert life.night().success
    monkeypatch.setenv("MASTOSYNC_RETRY_NIGHTS", "2")
    before = life.mark()
    wrong = {"S3_BUCKET": create_bucket(life.world.source.server).name, "S3_KEY_PREFIX": "elsewhere"}
    for name, value in wrong.items():
        with monkeypatch.context() as context:
            context.setenv(name, value)
            for night in run_nights(life, 2):
                assert name in failure_of(night)
                assert not any(check.passed for check in night.get_asset_check_evaluations())
    assert life.mark() == before
    # The settings are mended: nothing was given up.
    assert life.night().success
    assert life.differences() == []


@pytest.mark.long(cases=0)
def test_a_night_whose_few_objects_the_right_source_lacks_is_a_success(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.copy_everything()
    assert life.night().success
    monkeypatch.setenv("MASTOSYNC_RETRY_NIGHTS", "7")
    living, before, older = life.day(), life.mark(), set(life.living.expected)
    living.post_picture()
    for key in living.expected.keys() - older:
        life.world.source.client.delete_object(Bucket=life.world.source.name, Key=key)
    for _ in range(2):
        assert life.night().success
    assert life.has_moved(before)


@pytest.mark.long(cases=0)
def test_a_source_with_old_files_alone_is_not_done(one_range: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET", old_copy(one_range, accounts=3).name)
    result = sync(one_range, FileType.ACCOUNTS)
    assert_not_done(one_range, result)
    assert "old copy" in failure_of(result)


def remove_local_files(world: Installation, but_avatars: int = 0) -> None:
    """Leave the rows no local file but so many avatars."""
    with contextlib.closing(psycopg2.connect(world.database.url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM accounts WHERE domain IS NULL AND avatar_file_name IS NOT NULL ORDER BY id")
        kept = [row_id for (row_id,) in cursor.fetchall()][:but_avatars]
        cursor.execute(
            "UPDATE accounts SET avatar_file_name = NULL WHERE domain IS NULL AND NOT id = ANY(%s::bigint[])", [kept]
        )
        cursor.execute("UPDATE accounts SET header_file_name = NULL WHERE domain IS NULL")
        cursor.execute("UPDATE custom_emojis SET image_file_name = NULL WHERE domain IS NULL")
        cursor.execute("UPDATE site_uploads SET file_file_name = NULL")
        cursor.execute("UPDATE backups SET dump_file_name = NULL")
        cursor.execute(r"DELETE FROM media_attachments WHERE COALESCE(remote_url, '') !~ '\S'")
        connection.commit()


@pytest.mark.long(cases=0)
def test_an_instance_without_local_files_that_has_lost_its_cache_is_shown_the_way_on(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = one_range
    remove_local_files(world)
    monkeypatch.setenv("S3_BUCKET", create_bucket(world.source.server).name)
    result = sync(world, FileType.ACCOUNTS)
    assert_not_done(world, result)
    assert "MASTOSYNC_CACHE_LOST=true" in failure_of(result)

    monkeypatch.setenv("MASTOSYNC_CACHE_LOST", "true")
    (key,) = world.dagster.get_dynamic_partitions(FileType.ACCOUNTS.partitions_name)
    result = world.run("sync_accounts", key)
    assert result.success, failure_of(result)
    numbers = metadata_of(result, "accounts")
    assert (numbers["missing"], numbers["copied"]) == (numbers["objects"], 0)


@pytest.mark.long(cases=0)
def test_a_lost_cache_is_no_excuse_where_local_files_are_lost(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_CACHE_LOST", "true")
    monkeypatch.setenv("S3_BUCKET", create_bucket(one_range.source.server).name)
    result = sync(one_range, FileType.ACCOUNTS)
    assert_not_done(one_range, result)
    assert "MASTOSYNC_CACHE_LOST" not in failure_of(result)


@pytest.mark.long(cases=0)
def test_one_local_original_is_enough_for_an_instance_that_has_lost_its_cache(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = one_range
    remove_local_files(world, but_avatars=1)
    monkeypatch.setenv("S3_BUCKET", without_cache(world).name)
    result = sync(world, FileType.ACCOUNTS)
    assert result.success
    assert metadata_of(result, "accounts")["missing"] != 0


def verify(world: Installation, file_type: FileType, **config: object) -> dg.ExecuteInProcessResult:
    (key,) = world.dagster.get_dynamic_partitions(file_type.partitions_name)
    return world.run(f"verify_{file_type.value}", key, {"ops": {f"{file_type.value}_verification": {"config": config}}})


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("full", [True, False])
def test_a_verification_with_an_empty_source_proves_nothing(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch, *, full: bool
) -> None:
    assert sync(one_range, EMOJIS).success
    monkeypatch.setenv("S3_BUCKET", create_bucket(one_range.source.server).name)
    result = verify(one_range, EMOJIS, full=full, headers="all")
    assert "S3_BUCKET" in failure_of(result)
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.severity.value) == (False, "ERROR")
    # What a wrong source lacks is not called lost later.
    store = manifest_store(one_range.dagster, S3Bucket.destination())
    assert newest_of_each(store, verification_of(EMOJIS)) == []


@pytest.mark.long(cases=0)
def test_a_verification_counts_what_is_only_at_the_destination_and_what_it_could_not_compare(
    one_range: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sync(one_range, FileType.ACCOUNTS).success
    # The cache of the old bucket was cleared: what the destination has of it cannot be compared with anything.
    monkeypatch.setenv("S3_BUCKET", without_cache(one_range).name)
    result = verify(one_range, FileType.ACCOUNTS, full=True, headers="none")
    assert result.success
    (event,) = result.asset_materializations_for_node("accounts_verification")
    numbers = with_counters({name: value.value for name, value in event.metadata.items()})
    number = numbers["only_at_destination"]
    assert isinstance(number, int)
    assert number > 0
    assert numbers["bodies_not_compared"] == number
    assert f"{number} of the equal ones are only at the destination" in str(numbers["summary"])
    assert f"{number} bodies could not be compared" in str(numbers["summary"])


def written_at_the_destination(world: Installation, ids: list[int]) -> int:
    def connect() -> psycopg2.extensions.connection:
        return psycopg2.connect(world.database.url)

    number = 0
    for page in walk_rows(Database.open(connect), Selection("accounts")):
        for row in page.rows:
            for stored in stored_objects("accounts", row):
                if row["id"] in ids and stored.attachment == "avatar":
                    world.destination.client.put_object(Bucket=world.destination.name, Key=stored.key, Body=b"new")
                    number += 1
    return number
