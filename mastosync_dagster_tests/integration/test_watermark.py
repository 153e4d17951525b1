"""The watermark claims only what was seen: what a night could not see, a later one takes."""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import datetime, timedelta, timezone

import dagster as dg
import psycopg2
import pytest

from mastosync_dagster.mastodon import connection
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.watermarks import range_reads, watermark
from mastosync_dagster.status.counts import statuses
from mastosync_dagster_tests.support.corners import create_database
from mastosync_dagster_tests.support.installation import failure_of
from mastosync_dagster_tests.support.life import DAY, MINUTE, Life
from mastosync_dagster_tests.support.proxy import Delay, Kind, Rule
from mastosync_dagster_tests.support.standby import standby_of, without_autovacuum
from mastosync_dagster_tests.support.waiting import wait_until

ACCOUNTS = FileType.ACCOUNTS
HOUR = timedelta(hours=1)
YEAR = timedelta(days=365)


def begin(life: Life, after: timedelta = HOUR) -> None:
    """Have the accounts copied, and a first night behind."""
    for key in life.world.register(ACCOUNTS)[ACCOUNTS]:
        assert life.run("sync_accounts", key).success
    life.living.pass_time(after)
    assert night(life).success


def night(life: Life, **config: object) -> dg.ExecuteInProcessResult:
    plan = {"file_types": ["accounts"], "changed_since": "last", **config}
    return life.run("sync_changes", config={"ops": {"plan_changes": {"config": plan}}})


def differences(life: Life) -> list[str]:
    """Return what is wrong about the accounts; what was in a row and is no more does not count."""
    return [line for line in life.differences() if line.startswith("accounts/")]


def messages(life: Life, result: dg.ExecuteInProcessResult) -> str:
    return "\n".join(entry.user_message for entry in life.world.dagster.all_logs(result.run_id))


def set_database_clock(life: Life, ahead: timedelta) -> None:
    """Set the clock of the database's host, and of nothing else."""
    life.living.execute("UPDATE clock.ahead SET by = %(by)s", {"by": life.living.ahead + ahead})


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("ahead", [YEAR, 2 * HOUR, -YEAR, -2 * HOUR])
@pytest.mark.parametrize("whose", ["the database's", "this machine's", "the destination's"])
def test_a_wrong_clock_for_a_night_skips_nothing_and_is_named(life: Life, whose: str, ahead: timedelta) -> None:
    begin(life)
    living = life.day()
    living.sign_up()
    living.pass_time(DAY / 2)
    if whose == "the database's":
        set_database_clock(life, ahead)
    elif whose == "this machine's":
        life.machine_ahead = ahead
    else:
        life.destination_ahead = ahead
    result = night(life)
    assert result.success
    assert f"{whose} is the one that differs" in messages(life, result).replace(f"; {whose} is", f" {whose} is")
    after = life.mark()
    assert after is not None
    assert after <= living.now
    set_database_clock(life, timedelta())
    life.machine_ahead = life.destination_ahead = timedelta()

    living.pass_time(HOUR)
    living.sign_up()
    living.pass_time(DAY / 2)
    assert night(life).success
    assert differences(life) == []
    after = life.mark()
    assert after is not None
    assert living.now - after < MINUTE


@pytest.mark.long
def test_a_clock_that_machine_and_database_share_is_held_against_the_destinations(life: Life) -> None:
    begin(life)
    set_database_clock(life, 2 * HOUR)
    life.machine_ahead = 2 * HOUR
    result = night(life)
    assert "the destination's is the one that differs" in messages(life, result)
    after = life.mark()
    assert after is not None
    assert after <= life.living.now + timedelta(seconds=2)


@pytest.mark.long(cases=0)
def test_a_watermark_that_lies_in_the_future_is_not_believed(life: Life) -> None:
    begin(life)
    before = life.mark()
    assert before is not None
    # A version before has believed a clock that was a year ahead.
    with life.world.dagster as dagster:
        (record,) = dagster.fetch_observations(dg.AssetKey("accounts"), limit=1).records
        observed = record.asset_observation
        assert observed is not None
        wrong = dg.MetadataValue.timestamp(before + YEAR)
        dagster.report_runless_asset_event(
            dg.AssetObservation("accounts", metadata={**observed.metadata, "watermark": wrong, "covered_since": wrong})
        )
        life.day().sign_up()
        life.living.pass_time(DAY / 2)
        assert night(life).success
        assert differences(life) == []
        (status,) = statuses(dagster, MastodonDatabase(), S3Bucket.destination(), [ACCOUNTS])
        assert status.watermark is not None
        assert timedelta() <= life.living.now - status.watermark.timestamp < MINUTE


@pytest.mark.long(cases=0)
def test_a_range_that_was_read_in_the_future_has_the_first_night_take_every_row(life: Life) -> None:
    keys = life.world.register(ACCOUNTS)[ACCOUNTS]
    with life.world.dagster as dagster:
        for key in keys:
            assert life.run("sync_accounts", key).success
            latest = dagster.get_latest_storage_id_by_partition(
                dg.AssetKey("accounts"), dg.DagsterEventType.ASSET_MATERIALIZATION
            )[key]
            (record,) = dagster.fetch_materializations(
                dg.AssetRecordsFilter(dg.AssetKey("accounts"), storage_ids=[latest]), limit=1
            ).records
            event = record.asset_materialization
            assert event is not None
            future = dg.MetadataValue.timestamp(life.living.now + YEAR)
            dagster.report_runless_asset_event(
                dg.AssetMaterialization(
                    "accounts", partition=key, metadata={**event.metadata, "database_read_at": future}
                )
            )
        life.living.change_avatar(life.an_old_account())
        life.living.pass_time(DAY)
        assert night(life).success
    assert [line for line in differences(life) if "never" not in line] == []


@pytest.mark.long
def test_a_transaction_that_is_open_at_night_holds_the_watermark_and_the_next_night_takes_its_rows(life: Life) -> None:
    begin(life)
    before = life.mark()
    living = life.day()
    with contextlib.closing(living.connect()) as upload:
        living.sign_up(connection=upload)
        living.pass_time(30 * MINUTE)
        result = night(life)
        assert result.success
        assert "a transaction that writes is open" in messages(life, result)
        assert life.mark() == before
        upload.commit()
    living.pass_time(DAY)
    assert night(life).success
    assert differences(life) == []
    assert life.has_moved(before)


@pytest.mark.long
def test_ranges_that_a_sync_of_whole_tables_finishes_beside_an_open_transaction_claim_a_day_less(life: Life) -> None:
    keys = life.world.register(ACCOUNTS)[ACCOUNTS]
    living = life.day()
    row_id = next(row["id"] for row in life.world.instance.rows[ACCOUNTS.value] if row["avatar_file_name"])
    with contextlib.closing(living.connect()) as change, change.cursor() as cursor:
        cursor.execute(
            "UPDATE accounts SET avatar_updated_at = %(now)s, updated_at = %(now)s WHERE id = %(id)s",
            {"now": living.now, "id": row_id},
        )
        living.pass_time(30 * MINUTE)
        plan = {"file_types": ["accounts"], "wait_seconds": 0}
        assert life.run("sync_changes", config={"ops": {"plan_changes": {"config": plan}}}).success
        reads = range_reads(life.world.dagster, ACCOUNTS, S3Bucket.destination().settings().identity)
        assert set(reads) == set(keys)
        assert max(read.read_at for read in reads.values()) < living.now - DAY
        change.commit()


@pytest.mark.long(cases=0)
def test_a_destination_that_is_slow_to_show_its_clock_costs_no_connection_to_the_database(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(life)
    living = life.day()
    living.sign_up()
    # The server ends a session that waits for longer, as after a minute in production.
    monkeypatch.setitem(connection._SESSION, "idle_session_timeout", "2s")
    life.world.destination_proxy.set_rules(Rule(Delay(4.0), method="HEAD", times=1))
    assert night(life).success
    life.world.destination_proxy.set_rules()
    assert differences(life) == []


@pytest.mark.long(cases=0)
def test_a_transaction_that_ends_soon_is_waited_for(life: Life) -> None:
    begin(life)
    before = life.mark()
    living = life.day()
    with contextlib.closing(living.connect()) as upload:
        living.sign_up(connection=upload)
        living.pass_time(30 * MINUTE)
        commit = threading.Timer(1, upload.commit)
        commit.start()
        started = time.monotonic()
        assert night(life, wait_seconds=60).success
        assert time.monotonic() - started < 30
        commit.join()
    assert differences(life) == []
    assert life.has_moved(before)


@pytest.mark.long
def test_a_range_that_was_read_while_a_transaction_was_open_is_made_good_by_the_first_night(life: Life) -> None:
    living, account = life.living, life.an_old_account()
    keys = life.world.register(ACCOUNTS)[ACCOUNTS]
    with contextlib.closing(living.connect()) as upload:
        began = living.now.replace(tzinfo=None)
        late = "UPDATE accounts SET avatar_file_name = 'late.png', avatar_updated_at = %s WHERE id = %s"
        upload.cursor().execute(late, (began, account))
        living.pass_time(30 * MINUTE)
        for key in keys:
            assert life.run("sync_accounts", key).success
        upload.commit()
    living.put(living.key("accounts", "avatar", account, "original", "late.png"))
    living.pass_time(HOUR)
    assert night(life).success
    assert not [line for line in differences(life) if "late.png" in line]


@pytest.mark.long
def test_a_standby_that_has_replayed_nothing_claims_nothing(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a standby has replayed is as old as the host's clock says, so none is set here.
    begin(life, after=timedelta())
    before, database = life.mark(), life.world.database
    with without_autovacuum(database), standby_of(database) as standby:
        monkeypatch.setenv("DATABASE_URL", standby.url)
        with contextlib.closing(psycopg2.connect(standby.url)) as second:
            second.autocommit = True

            def replayed() -> object:
                with second.cursor() as cursor:
                    cursor.execute("SELECT pg_last_xact_replay_timestamp()")
                    return cursor.fetchall()[0][0]

            assert replayed() is None
            result = night(life)
            assert result.success
            assert "has replayed nothing since it was started" in messages(life, result)
            assert life.mark() == before
            life.living.sign_up()
            wait_until(lambda: replayed() is not None)
            wait_until(lambda: night(life).success and life.mark() != before)
        monkeypatch.setenv("DATABASE_URL", database.url)
    assert differences(life) == []


@pytest.mark.long(cases=0)
def test_every_row_of_a_restored_database_is_taken_and_status_does_not_say_that_nothing_is_left(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(life)
    living = life.day()
    already = set(living.expected)
    leaving = living.sign_up()
    living.pass_time(DAY / 2)
    assert night(life).success
    backup = create_database(living.database, template=living.database.database)
    bodies = {key: body(life, key) for key in living.expected.keys() - already}
    expected = dict(living.expected)

    # An account goes, its objects are pruned; others come.
    living = life.day()
    for key in bodies:
        life.world.destination.client.delete_object(Bucket=life.world.destination.name, Key=key)
    living.delete_account(leaving)
    for _ in range(3):
        living.sign_up()
        living.pass_time(DAY)
        assert night(life).success

    # The database of five days ago, and the objects that it speaks of; people go on signing up.
    monkeypatch.setenv("DATABASE_URL", backup.url)
    living.database = backup
    living.use_clock()
    living.expected = expected
    for key, data in bodies.items():
        living.source.client.put_object(Bucket=living.source.name, Key=key, Body=data)
    living.pass_time(HOUR)
    living.sign_up()
    living.pass_time(HOUR)
    assert differences(life)
    with life.world.dagster as dagster:
        (status,) = statuses(dagster, MastodonDatabase(), S3Bucket.destination(), [ACCOUNTS])
        assert status.restored
        assert status.left.rows == row_count(life)

        result = night(life)
        assert result.success
        assert "restored from a backup" in messages(life, result)
        assert [line for line in differences(life) if "never" not in line] == []

        living.pass_time(DAY)
        assert "restored" not in messages(life, night(life))
        (status,) = statuses(dagster, MastodonDatabase(), S3Bucket.destination(), [ACCOUNTS])
        assert not status.restored
        assert status.left.rows == 0


@pytest.mark.long
def test_of_a_restored_database_a_table_without_new_rows_is_taken_too(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    living, emojis = life.living, FileType.CUSTOM_EMOJIS
    plan = {"file_types": ["accounts", "custom_emojis", "media_attachments"], "changed_since": "last"}
    nightly = {"ops": {"plan_changes": {"config": plan}}}
    before = set(living.expected)
    deleted, _ = living.add_emoji(), living.add_emoji()
    assert life.run("sync_changes", config=nightly).success
    backup = create_database(living.database, template=living.database.database)
    expected = dict(living.expected)
    bodies = {key: body(life, key) for key in expected.keys() - before if f"/{deleted:03d}/" in key}
    assert bodies

    # An emoji goes, and its objects; the newest one stays. Accounts and posts come.
    living.execute("DELETE FROM custom_emojis WHERE id = %(id)s", {"id": deleted})
    for key in bodies:
        living.remove(key)
        life.world.destination.client.delete_object(Bucket=life.world.destination.name, Key=key)
    for _ in range(2):
        living.sign_up()
        living.post_picture()
        living.pass_time(DAY)
        assert life.run("sync_changes", config=nightly).success

    monkeypatch.setenv("DATABASE_URL", backup.url)
    living.database = backup
    living.use_clock()
    living.expected = expected
    for key, data in bodies.items():
        living.source.client.put_object(Bucket=living.source.name, Key=key, Body=data)
    living.sign_up()
    living.post_picture()
    living.pass_time(HOUR)
    with life.world.dagster as dagster:
        (status,) = statuses(dagster, MastodonDatabase(), S3Bucket.destination(), [emojis])
        assert status.restored
        assert life.run("sync_changes", config=nightly).success
        assert [line for line in life.differences() if line.startswith("custom_emojis") and "never" not in line] == []
        living.pass_time(DAY)
        assert life.run("sync_changes", config=nightly).success
        (status,) = statuses(dagster, MastodonDatabase(), S3Bucket.destination(), [emojis])
        assert not status.restored


def body(life: Life, key: str) -> bytes:
    source = life.living.source
    return source.client.get_object(Bucket=source.name, Key=key)["Body"].read()


def row_count(life: Life) -> int:
    ((count,),) = life.living.execute("SELECT count(*) FROM accounts")
    return int(count)


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("timestamp", ["10000-01-01", "4714-11-24 BC", "infinity", "-infinity"])
@pytest.mark.parametrize("column", ["created_at", "avatar_updated_at"])
def test_a_timestamp_of_no_calendar_ends_no_night(life: Life, column: str, timestamp: str) -> None:
    """Other servers say when an account was created."""
    begin(life)
    living = life.day()
    account = living.sign_up()
    living.update("accounts", account, **{column: timestamp})
    for _ in range(2):
        living.pass_time(DAY)
        result = night(life)
        assert result.success, failure_of(result)
        assert differences(life) == []
    before = life.mark()
    living.sign_up()
    living.pass_time(DAY)
    assert night(life).success
    assert differences(life) == []
    assert life.has_moved(before)


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("timestamp", [None, "2199-01-01", "infinity"])
def test_a_timestamp_that_nobody_believes_is_asked_about_and_copies_nothing_again(
    life: Life, timestamp: str | None
) -> None:
    begin(life)
    living = life.day()
    account = living.sign_up()
    living.update("accounts", account, avatar_updated_at=timestamp)
    for _ in range(2):
        living.pass_time(DAY)
        assert night(life).success
        assert differences(life) == []
    living.pass_time(DAY)
    life.world.forget()
    assert night(life).success
    assert set(life.world.requests()) <= {Kind.HEAD}


@pytest.mark.long(cases=0)
def test_an_observation_of_a_version_before_is_read_as_ever(life: Life) -> None:
    begin(life)
    with life.world.dagster as dagster:
        (record,) = dagster.fetch_observations(dg.AssetKey("accounts"), limit=1).records
        observed = record.asset_observation
        assert observed is not None
        new = {"newest_id", "newest_row_created_at"}
        assert new <= observed.metadata.keys()
        old = {name: value for name, value in observed.metadata.items() if name not in new}
        timestamp = datetime.fromtimestamp(life.living.now.timestamp(), timezone.utc)
        life.living.pass_time(HOUR)
        dagster.report_runless_asset_event(
            dg.AssetObservation("accounts", metadata={**old, "watermark": dg.MetadataValue.timestamp(timestamp)})
        )
        found = watermark(dagster, ACCOUNTS, S3Bucket.destination().settings().identity)
    assert found is not None
    assert found.newest is None
    assert found.timestamp == timestamp
