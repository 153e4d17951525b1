"""Nights in the life of an instance: whatever happens by day and to a run, the next good night makes it right."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.installation import PROJECT
from mastosync_dagster_tests.support.life import DAY, MINUTE, Life
from mastosync_dagster_tests.support.proxy import NO_PROBES, Answer, Hold, Kind, Rule

pytestmark = pytest.mark.long

NEW_ROWS = 12


@pytest.mark.long(cases=0)
@pytest.mark.timeout(300)
def test_ten_nights(life: Life) -> None:
    life.copy_everything()
    assert life.differences() == []
    _nights_one_to_four(life)
    _nights_five_to_seven(life)
    _nights_eight_to_ten(life)
    assert life.copied_too_often() == {}


def _nights_one_to_four(life: Life) -> None:
    world = life.world

    # 1: people arrive, post, and change their avatars. All of that is new: a GET and a PUT each, and nothing else.
    living = life.day()
    assert life.night().success  # the first night goes on where the ranges ended, and has to ask
    living = life.day()
    pictures = [living.post_picture() for _ in range(5)]
    arrived = living.sign_up()
    living.add_emoji()
    living.change_avatar(life.an_old_account())
    life.world.forget()
    assert life.night().success
    assert life.differences() == []
    assert set(life.watermarks()) == {file_type.value for file_type in FileType}
    assert world.requests() == {Kind.GET: 15, Kind.PUT: 15}

    # 2: nothing happens, and nobody is asked anything.
    life.day()
    life.world.forget()
    assert life.night().success
    assert world.requests() == {}

    # 3: rows with lower ids are committed late, after the run has passed them; others are deleted.
    living = life.day()
    early = living.next_id("accounts"), living.next_id("media_attachments")
    with contextlib.closing(living.connect()) as late:
        living.sign_up(connection=late, row_id=early[0])
        living.post_picture(connection=late, row_id=early[1])
        living.post_picture()
        living.delete_post(pictures[0])
        assert life.night(after=2 * MINUTE).success
        assert len(life.differences()) == 4
        late.commit()

    # 4: the night after, they are there.
    life.day().change_avatar(arrived)
    assert life.night().success
    assert life.differences() == []


def _nights_five_to_seven(life: Life) -> None:
    source = life.world.source_proxy

    # 5: the source refuses an account's avatar: that file type stays where it is, the others go on.
    living = life.day()
    folder = living.key("accounts", "avatar", living.sign_up(), "original", "")
    living.add_emoji()
    source.set_rules(Rule(Answer(400, "InvalidRequest"), key=folder, kinds=frozenset({Kind.GET})))
    before = life.watermarks()
    assert not life.night().success
    source.set_rules()
    after = life.watermarks()
    assert after["accounts"] == before["accounts"]
    assert all(after[name] - before[name] >= DAY for name in after if name != "accounts")

    # 6: a night is cancelled in the middle.
    living = life.day()
    for _ in range(5):
        living.post_picture()
    living.pass_time(DAY / 2)
    before = life.watermarks()
    cancelled(life)
    assert life.watermarks() == before

    # 7: nobody is there at all.
    life.day().sign_up()
    living.pass_time(DAY / 2)


def _nights_eight_to_ten(life: Life) -> None:
    dagster = life.world.dagster

    # 8: all that was left comes at once, and a video that waits for its conversion as it is.
    living = life.day()
    video = living.upload_video()
    began = living.begin_conversion(video)
    assert life.night().success
    assert life.differences() == []

    # 9: the conversion ends, long after the time that then stands in its row; an account goes.
    living = life.day()
    living.end_conversion(video, began)
    living.delete_account(living.sign_up())
    assert life.night().success
    assert life.differences() == []

    # 10: a table has grown by a whole range.
    living = life.day()
    for _ in range(NEW_ROWS):
        living.sign_up()
    before = dagster.get_dynamic_partitions("accounts_ids")
    life.set_rows_per_partition(NEW_ROWS // 2)
    assert life.night().success
    assert life.differences() == []
    assert len(dagster.get_dynamic_partitions("accounts_ids")) > len(before)


def cancelled(life: Life) -> None:
    """Run an incremental run in a process of its own, and interrupt it while it copies."""
    world = life.world
    home = Path(world.environment["DAGSTER_HOME"])
    config = home / "night.yaml"
    config.write_text(
        "ops: {plan_changes: {config: {changed_since: last}}, copy: {config: {concurrency: 1}}}", encoding="utf-8"
    )
    held = Rule(Hold(), kinds=frozenset({Kind.PUT}), key=NO_PROBES, skip=1)
    world.destination_proxy.set_rules(held)
    already = world.destination_proxy.used[held]
    # Its machine's clock is set as ours is.
    dagster = (
        "import datetime as d; from mastosync_dagster.sync import clocks; from dagster._cli import main;"
        " now = lambda: d.datetime.now(d.timezone.utc);"
        f" clocks.machine_now = lambda: now() + d.timedelta(seconds={life.living.ahead.total_seconds()}); main()"
    )
    with (home / "cancelled.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", dagster, "job", "execute", "-m", "mastosync_dagster", "-j", "sync_changes"]
            + ["-c", str(config)],
            cwd=PROJECT,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 60
        while world.destination_proxy.used[held] == already:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
    world.destination_proxy.set_rules()
    (run,) = world.dagster.get_runs(dg.RunsFilter(job_name="sync_changes"), limit=1)
    assert run.status in {dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE}
    assert (home / "manifests" / "sync_changes" / "changes" / f"{run.run_id}.parquet").exists()
