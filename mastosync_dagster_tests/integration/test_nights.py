"""Nights in the life of an instance: whatever happens by day and to a run, the next good night makes it right."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import psycopg2
import pytest
from dagster._core.execution.backfill import BulkActionStatus

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.demo.instance import build
from mastosync_dagster.history import place_of, watermark
from mastosync_dagster.partitions import FileType
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster_tests.integration.conftest import PROJECT, World, environment_for
from mastosync_dagster_tests.support.living import LivingInstance
from mastosync_dagster_tests.support.proxy import Answer, Delay, Kind, Rule, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mastosync_dagster.demo.servers import PostgresServer
    from mastosync_dagster_tests.conftest import Bucket

ROWS = 250
ROWS_PER_PARTITION = 150
NEW_ROWS = 12
DAY = timedelta(hours=24)
MINUTE = timedelta(minutes=1)
WRITES = (Kind.PUT, Kind.CREATE_UPLOAD)


@dataclass
class Life:
    """An instance, its copy, and the nights between them."""

    world: World
    living: LivingInstance
    set_rows_per_partition: Callable[[int], None]
    definitions: dg.Definitions = field(default_factory=build_definitions)
    copied: Counter[str] = field(default_factory=Counter)

    def copy_everything(self) -> None:
        """Register and run the ranges of all file types: the history before the first night."""
        for file_type, keys in self.world.register().items():
            for key in keys:
                assert self.run(f"sync_{file_type.value}", key).success

    def run(
        self,
        job: str,
        partition: str | None = None,
        config: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run a job in this process, without Dagster's lines on the terminal."""
        return self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.world.dagster,
            partition_key=partition,
            run_config={**(config or {}), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            tags=tags,
            raise_on_error=False,
        )

    def day(self) -> LivingInstance:
        """Let the day after a night come."""
        self.living.pass_time(DAY / 2)
        return self.living

    def night(self, after: timedelta = DAY / 2) -> dg.ExecuteInProcessResult:
        """Let the night come, and do what the daemon does then; return the incremental run."""
        self.living.pass_time(after)
        before = self._ranges()
        tick = self.tick()
        assert tick.run_requests, tick.skip_message
        (request,) = tick.run_requests
        result = self.run("sync_changes", config=request.run_config, tags=request.tags)
        self.run_backfills(before)
        return result

    def tick(self) -> dg.ScheduleExecutionData:
        """Evaluate the schedule."""
        with dg.build_schedule_context(
            instance=self.world.dagster,
            repository_def=self.definitions.get_repository_def(),
            resources={"mastodon_db": MastodonDatabase()},
            scheduled_execution_time=self.living.now,
        ) as context:
            return self.definitions.resolve_schedule_def("nightly_incremental").evaluate_tick(context)

    def run_backfills(self, before: dict[FileType, list[str]]) -> None:
        """Run the new ranges, as the daemon does with the backfills that the schedule has asked for."""
        dagster = self.world.dagster
        asked = {
            backfill.asset_selection[0].to_user_string()
            for backfill in dagster.get_backfills(status=BulkActionStatus.REQUESTED)
            if backfill.asset_selection
        }
        for file_type, keys in self._ranges().items():
            new = [key for key in keys if key not in before[file_type]]
            assert (file_type.value in asked) is bool(new)
            for key in new:
                assert self.run(f"sync_{file_type.value}", key).success
        for backfill in dagster.get_backfills(status=BulkActionStatus.REQUESTED):
            done = backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS)  # type: ignore[no-untyped-call]
            dagster.update_backfill(done)

    def _ranges(self) -> dict[FileType, list[str]]:
        return {
            file_type: list(self.world.dagster.get_dynamic_partitions(file_type.partitions_name))
            for file_type in FileType
        }

    def watermarks(self) -> dict[str, datetime]:
        """Return how far each file type has come."""
        place = place_of(S3Bucket.destination())
        found = {file_type.value: watermark(self.world.dagster, file_type, place) for file_type in FileType}
        return {name: mark.moment for name, mark in found.items() if mark}

    def differences(self) -> list[str]:
        """Hold the destination against what the database says: by a listing, ETags being MD5s here."""
        client, bucket = self.world.destination.client, self.world.destination.name
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        found = {entry["Key"]: entry["ETag"].strip('"') for page in pages for entry in page.get("Contents", ())}
        expected = self.living.expected
        return [
            *(f"{key} is not there" for key in expected.keys() - found.keys()),
            *(f"{key} is another" for key in expected.keys() & found.keys() if expected[key] != found[key]),
            *(f"{key} was never in a row" for key in found.keys() - self.living.written.keys()),
        ]

    def forget(self) -> None:
        """Count requests from now on; who was written to the destination stays known."""
        self.copied.update(request.key for request in self.world.destination_proxy.requests if request.kind in WRITES)
        self.world.forget()

    def copied_too_often(self) -> dict[str, int]:
        """Return the objects that were written to the destination more often than at the source, and how often."""
        self.forget()
        return {key: count for key, count in self.copied.items() if count > self.living.written[key]}


@pytest.fixture
def life(
    database: PostgresServer,
    source_bucket: Bucket,
    destination_bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Life]:
    with contextlib.closing(psycopg2.connect(database.url)) as connection:
        instance = build(connection, source_bucket.server, source_bucket.name, rows=ROWS)
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    with (
        s3_proxy(source_bucket.server.endpoint) as source_proxy,
        s3_proxy(destination_bucket.server.endpoint) as destination_proxy,
    ):
        environment = {
            **environment_for(
                database, source_bucket, destination_bucket, source_proxy.endpoint, destination_proxy.endpoint, home
            ),
            "MASTOSYNC_ROWS_PER_PARTITION": str(ROWS_PER_PARTITION),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        living = LivingInstance.of(database, source_bucket, instance.objects_of(*FileType))
        with dg.DagsterInstance.get() as dagster:
            yield Life(
                World(
                    instance,
                    database,
                    source_bucket,
                    destination_bucket,
                    source_proxy,
                    destination_proxy,
                    dagster,
                    environment,
                ),
                living,
                lambda rows: monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", str(rows)),
            )


def an_old_account(life: Life) -> int:
    """Return a local account of the generated instance whose avatar is one object."""
    for row in life.world.instance.rows["accounts"]:
        key = life.living.key("accounts", "avatar", int(str(row["id"])), "original", str(row.get("avatar_file_name")))
        if not row.get("domain") and key in life.living.expected and row.get("avatar_content_type") == "image/png":
            return int(str(row["id"]))
    raise AssertionError


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
    living.change_avatar(an_old_account(life))
    life.forget()
    assert life.night().success
    assert life.differences() == []
    assert set(life.watermarks()) == {file_type.value for file_type in FileType}
    assert world.requests() == {Kind.GET: 15, Kind.PUT: 15}

    # 2: nothing happens, and nobody is asked anything.
    life.day()
    life.forget()
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

    # 9: the conversion ends, long after the moment that then stands in its row; an account goes.
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
    world.destination_proxy.set_rules(Rule(Delay(0.5), kinds=frozenset({Kind.PUT})))
    already = world.destination_proxy.count(Kind.PUT)
    with (home / "cancelled.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster", "job", "execute", "-m", "mastosync_dagster", "-j", "sync_changes"]
            + ["-c", str(config)],
            cwd=PROJECT,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 60
        while world.destination_proxy.count(Kind.PUT) < already + 2:
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
