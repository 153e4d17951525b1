"""What a bad night leaves behind is made good by the next one: objects in doubt are asked for, whatever happened."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.copy.acl_changes import MADE_PRIVATE, MADE_PUBLIC
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.installation.processes import running
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.sync import clocks, doubt_checks
from mastosync_dagster_tests.support.acls import anonymous_status
from mastosync_dagster_tests.support.installation import failure_of
from mastosync_dagster_tests.support.life import DAY
from mastosync_dagster_tests.support.living import LivingInstance
from mastosync_dagster_tests.support.private_media import (
    MEDIA,
    answers,
    execute,
    expected_answers,
    media_of,
    nightly,
    sync_in_a_process,
    wait_until,
)
from mastosync_dagster_tests.support.proxy import Answer, Delay, Hold, Kind, Rule
from mastosync_dagster_tests.support.suspensions import SUSPEND, UNSUSPEND, details, open_objects
from mastosync_dagster_tests.support.tcp_proxy import tcp_proxy
from mastosync_dagster_tests.support.terminal import executable

if TYPE_CHECKING:
    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster_tests.support.installation import Installation

SET_ACL = frozenset({Kind.OTHER})


@pytest.mark.long
def test_what_a_night_could_not_make_private_the_next_one_does(settled: Installation) -> None:
    account, hidden = media_of(settled, suspended=False)
    execute(settled, SUSPEND, account)
    originals = r"^(?!.*/mastosync-check/).*/original/"
    settled.destination_proxy.set_rules(Rule(Answer(503, "SlowDown"), kinds=SET_ACL, method="PUT", key=originals))
    assert Reason.THROTTLED.value in failure_of(nightly(settled))
    assert answers(settled) != expected_answers(settled)
    assert open_objects(settled)["acl"] > 0

    settled.destination_proxy.set_rules()
    assert nightly(settled).success
    assert answers(settled) == expected_answers(settled)
    assert 0 < details(settled).count(MADE_PRIVATE) < hidden
    assert nightly(settled).success
    assert open_objects(settled)["acl"] == 0


@pytest.mark.long
def test_a_night_without_the_right_to_set_acls_believes_nothing_private(settled: Installation) -> None:
    account, _ = media_of(settled, suspended=False)
    execute(settled, SUSPEND, account)
    # One of its objects is nowhere: what is missing says nothing about the others.
    execute(
        settled,
        "INSERT INTO media_attachments (id, account_id, file_file_name, file_content_type, file_file_size, processing,"
        " created_at, updated_at, file_updated_at) VALUES (77, %s, 'nowhere.mp3', 'audio/mpeg', 4, 2, now(), now(),"
        " now())",
        account,
    )
    settled.destination_proxy.set_rules(Rule(Answer(403, "AccessDenied"), kinds=SET_ACL, method="PUT"))
    assert not nightly(settled).success
    settled.destination_proxy.set_rules()
    assert nightly(settled).success
    assert answers(settled) == expected_answers(settled)


@pytest.mark.long(cases=0)
def test_what_a_terminated_night_has_left_private_is_public_after_the_next_one(settled: Installation) -> None:
    account, _ = media_of(settled, suspended=False)
    execute(settled, SUSPEND, account)
    assert nightly(settled).success
    execute(settled, UNSUSPEND, account)
    # The permanent refusal ends the run in the middle of its ACLs, as Terminate does.
    settled.destination_proxy.set_rules(Rule(Answer(501, "NotImplemented"), kinds=SET_ACL, method="PUT", skip=1))
    assert not nightly(settled).success
    assert answers(settled) != expected_answers(settled)
    settled.destination_proxy.set_rules()
    assert nightly(settled).success
    assert MADE_PUBLIC in details(settled)
    assert answers(settled) == expected_answers(settled)


@pytest.mark.long(cases=0)
def test_what_was_skipped_as_private_and_failed_when_it_was_public_again_is_copied_by_the_next_night(
    skipping: Installation,
) -> None:
    world = skipping
    account, _ = media_of(world, suspended=True)
    execute(world, UNSUSPEND, account)
    world.destination_proxy.set_rules(Rule(Answer(503, "SlowDown"), kinds=frozenset({Kind.PUT}), key=r"/original/"))
    plan = {"config": {"file_types": [MEDIA.value], "changed_since": "last"}}
    ops = {"plan_changes": plan, "copy": {"config": {"max_attempts": 1}}}
    assert not world.run("sync_changes", config={"ops": ops}).success
    assert open_objects(world)["failed"] > 0

    world.destination_proxy.set_rules()
    assert nightly(world).success
    assert open_objects(world)["failed"] == 0
    pages = world.destination.client.get_paginator("list_objects_v2").paginate(Bucket=world.destination.name)
    found = {entry["Key"] for page in pages for entry in page.get("Contents", ())}
    assert found == {key for key, status in expected_answers(world).items() if status == 200}


@pytest.mark.long(cases=0)
def test_an_object_that_was_missing_for_a_night_is_copied_when_it_is_back_and_not_asked_for_for_ever(
    settled: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_RETRY_NIGHTS", "2")
    key = settled.instance.objects_of(MEDIA)[0].key
    (object_,) = [each for each in settled.instance.objects_of(MEDIA) if each.key == key]
    execute(settled, "UPDATE media_attachments SET file_updated_at = now() WHERE id = %s", object_.row_id)
    settled.destination.client.delete_object(Bucket=settled.destination.name, Key=key)
    gone = Rule(Answer(404, "NoSuchKey"), kinds=frozenset({Kind.GET, Kind.HEAD}), key=key)
    settled.source_proxy.set_rules(gone)
    assert nightly(settled).success
    assert open_objects(settled)["missing"] > 0
    settled.source_proxy.set_rules()
    # Its row is older than the watermark by now.
    execute(settled, "UPDATE media_attachments SET file_updated_at = '2020-01-01' WHERE id = %s", object_.row_id)
    assert nightly(settled).success
    assert answers(settled)[key] == expected_answers(settled)[key]

    for _ in range(2):
        assert nightly(settled).success
    assert open_objects(settled)["missing"] == 0
    settled.forget()
    assert nightly(settled).success
    assert settled.requests()[Kind.HEAD] == 0


@pytest.mark.long(cases=0)
def test_a_quiet_night_asks_once_for_each_private_object_and_writes_no_line(settled: Installation) -> None:
    private = [key for key, status in expected_answers(settled).items() if status == 403]
    settled.forget()
    assert nightly(settled).success
    # And a probe in each folder that holds some.
    seen = [request for request in settled.destination_proxy.requests if "mastosync-check" not in request.key]
    asked = [each.key for each in seen if each.kind is Kind.OTHER and each.key]
    assert sorted(asked) == sorted(set(asked))
    assert set(private) <= set(asked)
    assert not [each for each in seen if each.kind in {Kind.PUT, Kind.GET}]
    assert details(settled) == []


@pytest.mark.long(cases=0)
def test_of_very_many_private_objects_every_night_checks_a_part_and_nights_a_week_apart_check_all(
    settled: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = settled
    living = LivingInstance.of(world.database, world.source, [])
    monkeypatch.setattr(clocks, "machine_now", lambda: living.now)
    world.destination_proxy.clock = lambda: living.now
    monkeypatch.setattr(doubt_checks, "_ALL_AT_ONCE", 0)
    private = [key for key, status in expected_answers(world).items() if status == 403]
    for nights, gap in ((1, 7 * DAY), (7, DAY)):
        for key in private:
            world.destination.client.put_object_acl(Bucket=world.destination.name, Key=key, ACL="public-read")
        made = []
        for _ in range(nights):
            living.pass_time(gap)
            result = nightly(world)
            assert result.success
            made.append(details(world).count(MADE_PRIVATE))
        assert sum(made) == len(private)
        assert max(made) < len(private) or nights == 1
        assert answers(world) == expected_answers(world)
    messages = "\n".join(entry.user_message for entry in world.dagster.all_logs(result.run_id))
    assert re.search(r"ACLs checked \(those of \d+ private rows within a week\)", messages)


@pytest.mark.long(cases=0)
def test_a_quiet_night_with_nothing_in_doubt_asks_no_storage_for_an_object_however_many_ranges_there_are(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_RETRY_NIGHTS", "0")
    everything = {"ops": {"plan_changes": {"config": {"changed_since": "last"}}}}
    for _ in range(2):
        assert world.run("sync_changes", config=everything).success
    asked = []
    for ranges in (0, 2_000):
        first = 10**18
        for file_type in FileType:
            keys = [f"{first + number * 10}-{first + number * 10 + 9}" for number in range(ranges)]
            world.dagster.add_dynamic_partitions(file_type.partitions_name, keys)
        world.forget()
        assert world.run("sync_changes", config=everything).success
        # Without ACLs, a few probes show whether everybody can read what is private.
        assert world.requests() == {}
        asked.append(world.requests(probes=True))
    assert asked[0] == asked[1]
    assert 0 < asked[0][Kind.PUT] < 20


@pytest.mark.long(cases=0)
def test_without_any_record_a_night_makes_private_what_is_private(settled: Installation) -> None:
    # Another home on the same destination, or a manifest store that is lost.
    shutil.rmtree(Path(settled.environment["DAGSTER_HOME"], "manifests"))
    account, hidden = media_of(settled, suspended=False)
    execute(settled, SUSPEND, account)
    assert nightly(settled).success
    assert details(settled).count(MADE_PRIVATE) == hidden
    assert answers(settled) == expected_answers(settled)


@pytest.mark.long
def test_a_range_that_was_planned_before_a_suspension_and_ends_after_the_night_exposes_nothing(
    world_with_acls: Installation, tmp_path: Path
) -> None:
    world = world_with_acls
    ((key,),) = world.register(MEDIA).values()
    account, _ = media_of(world, suspended=False)
    # Each PUT of the range waits, long enough for a night.
    hold = Rule(Delay(8), kinds=frozenset({Kind.PUT}), key=r"^(cache/)?media_attachments/")
    with sync_in_a_process(world, key, tmp_path / "range.log", hold, until=Kind.PUT):
        world.destination_proxy.set_rules()
        execute(world, SUSPEND, account)
        nightly(world)
        deadline = time.monotonic() + 90
        while any(not run.is_finished for run in world.dagster.get_runs()):
            assert time.monotonic() < deadline, (tmp_path / "range.log").read_text()[-3000:]
            time.sleep(0.5)
        assert answers(world) == expected_answers(world)


@pytest.mark.long
def test_what_becomes_private_while_a_run_waits_for_its_history_is_private_at_once(
    world_with_acls: Installation, database: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, home = world_with_acls, tmp_path / "history"
    bucket = world.destination
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    held = Rule(Hold(), kinds=frozenset({Kind.PUT}), key=rf"^(cache/)?{MEDIA.value}/(?!.*/mastosync-check/)")
    account, _ = media_of(world, suspended=False)
    (rows,) = zip(*execute(world, "SELECT id FROM media_attachments WHERE account_id = %s", account), strict=True)
    hidden = {each.key for each in world.instance.objects_of(MEDIA) if each.row_id in rows}
    command = [executable("dagster"), "job", "execute", "-m", "mastosync_dagster", "-j", "sync_changes"]
    with tcp_proxy(database.port) as history:
        url = f"postgresql+psycopg2://{database.user}:{database.password}@127.0.0.1:{history.port}/{database.database}"
        (home / "dagster.yaml").write_text(f"storage: {{postgres: {{postgres_url: '{url}'}}}}")
        world.destination_proxy.set_rules(held)
        with running(command, log=tmp_path / "run.log") as process:
            wait_until(lambda: world.destination_proxy.used[held] > 0, tmp_path / "run.log")
            with history.gone():
                # The run has something to write into its log, and waits.
                attempts = history.accepted
                wait_until(lambda: history.accepted > attempts, tmp_path / "run.log")
                execute(world, SUSPEND, account)
                world.destination_proxy.set_rules()
                wait_until(lambda: hidden <= set(list_keys(bucket.server, bucket.name)), tmp_path / "run.log")
                wait_until(
                    lambda: all(anonymous_status(bucket.server, bucket.name, key) == 403 for key in hidden),
                    tmp_path / "run.log",
                )
            assert process.wait(100) == 0, (tmp_path / "run.log").read_text()[-3000:]
    assert answers(world) == expected_answers(world)


@pytest.mark.long
def test_the_list_stays_as_long_as_another_run_may_still_write(settled: Installation, tmp_path: Path) -> None:
    account, hidden = media_of(settled, suspended=False)
    execute(settled, SUSPEND, account)
    assert nightly(settled).success
    execute(settled, UNSUSPEND, account)
    assert nightly(settled).success
    assert details(settled).count(MADE_PUBLIC) == hidden

    def remembered() -> int:
        settled.forget()
        assert nightly(settled).success
        seen = [each for each in settled.destination_proxy.requests if "mastosync-check" not in each.key]
        return sum(each.kind is Kind.OTHER and bool(each.key) for each in seen)

    key = settled.dagster.get_dynamic_partitions(MEDIA.partitions_name)[0]
    hold = Rule(Delay(20), kinds=frozenset({Kind.LIST}))
    with sync_in_a_process(settled, key, tmp_path / "beside.log", hold, until=Kind.LIST):
        settled.destination_proxy.set_rules()
        beside = remembered()
    assert remembered() >= beside
    # Nobody else can write by now: what is public again is forgotten.
    assert remembered() == beside - hidden


@pytest.mark.long
def test_backups_are_private_each_night(world_with_acls: Installation) -> None:
    world = world_with_acls
    ((key,),) = world.register(FileType.BACKUPS).values()
    assert world.run("sync_backups", key).success
    (backup, *_) = world.instance.objects_of(FileType.BACKUPS)
    world.destination.client.put_object_acl(Bucket=world.destination.name, Key=backup.key, ACL="public-read")
    assert nightly(world).success
    assert details(world, FileType.BACKUPS) == [MADE_PRIVATE]


@pytest.mark.long(cases=0)
def test_what_mastodon_has_written_to_the_destination_is_private_after_the_first_night(settled: Installation) -> None:
    # After the switch the source never has a new object. It was written after the last night, so no run has copied it.
    account, _ = media_of(settled, suspended=True)
    key = "media_attachments/files/990/000/001/original/0123456789abcdef.png"
    settled.destination.client.put_object(Bucket=settled.destination.name, Key=key, Body=b"new", ACL="public-read")
    execute(
        settled,
        "INSERT INTO media_attachments (id, account_id, file_file_name, file_content_type, processing, created_at,"
        " updated_at, file_updated_at) SELECT 990000001, %s, '0123456789abcdef.png', 'image/png', 2, at, at, at"
        " FROM (SELECT now() AT TIME ZONE 'utc' + interval '10 minutes' AS at) AS clock",
        account,
    )
    assert nightly(settled).success
    assert anonymous_status(settled.destination.server, settled.destination.name, key) == 403
