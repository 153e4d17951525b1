"""Old records go, and what somebody still asks for stays."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.utils import make_new_run_id

from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.retention import delete_left_logs, delete_run, old_runs, runs_to_keep
from mastosync_dagster.runs.watermarks import range_reads, watermark

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.life import Life

ACCOUNTS = FileType.ACCOUNTS
HOUR = timedelta(hours=1)


def delete_old_runs(life: Life) -> None:
    """Delete everything that may go, as if all that has ended so far had ended long ago."""
    for run_id in old_runs(life.world.dagster, datetime.now(timezone.utc) + timedelta(days=1)):
        delete_run(life.world.dagster, run_id)


def runs(life: Life) -> set[str]:
    return {run.run_id for run in life.world.dagster.get_runs()}


@pytest.mark.long
def test_the_newest_of_each_partition_and_the_watermarks_run_stay(life: Life) -> None:
    dagster = life.world.dagster
    (key,) = life.world.register(ACCOUNTS)[ACCOUNTS]
    old = [life.run("sync_accounts", key).run_id for _ in range(2)]
    newest = life.run("sync_accounts", key).run_id
    config = {"ops": {"plan_changes": {"config": {"file_types": ["accounts"], "changed_since": "last"}}}}
    life.living.pass_time(HOUR)
    furthest = life.run("sync_changes", config=config).run_id
    trial = {"ops": {"plan_changes": {"config": {"file_types": ["accounts"], "limit": 1}}}}
    trials = [life.run("sync_changes", config=trial).run_id for _ in range(2)]
    place = S3Bucket.destination().settings().identity
    before = watermark(dagster, ACCOUNTS, place), range_reads(dagster, ACCOUNTS, place)

    delete_old_runs(life)

    assert runs(life) == {newest, furthest, trials[-1]}
    assert (watermark(dagster, ACCOUNTS, place), range_reads(dagster, ACCOUNTS, place)) == before
    home = Path(life.world.environment["DAGSTER_HOME"])
    gone = {*old, trials[0]}
    assert not [path for path in home.rglob("*") if path.stem in gone and "manifests" not in path.parts]


@pytest.mark.long
def test_a_failed_run_does_not_take_the_place_of_the_materialization_before_it(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = life.world.register(ACCOUNTS)[ACCOUNTS]
    materialized = life.run("sync_accounts", key).run_id
    monkeypatch.setenv("S3_BUCKET", "absent")
    failed = life.run("sync_accounts", key).run_id
    kept = runs_to_keep(life.world.dagster)
    assert {materialized, failed} <= kept


@pytest.mark.long
def test_runs_of_the_last_days_and_unfinished_ones_stay(life: Life) -> None:
    (key,) = life.world.register(ACCOUNTS)[ACCOUNTS]
    done = {life.run("sync_accounts", key).run_id for _ in range(2)}
    result = life.run("delete_old_runs")
    assert result.success
    assert runs(life) == {*done, result.run_id}


def test_days_that_are_none_are_refused(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTOSYNC_KEEP_RUNS_DAYS", "some")
    result = life.run("delete_old_runs")
    (event,) = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None
    assert "MASTOSYNC_KEEP_RUNS_DAYS must be a whole number" in (failure.description or "")


def test_logs_of_runs_that_another_machine_has_deleted_go_after_a_day(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as dagster:
        storage = Path(dagster.storage_directory())
        kept, deleted = make_new_run_id(), make_new_run_id()
        dagster.add_run(dg.DagsterRun("sync_changes", kept))
        names = {kept, deleted, "mastosync-unpublished", "tmp"}
        for name in names:
            (storage / name / "compute_logs").mkdir(parents=True)
        delete_left_logs(dagster, time.time())
        assert {folder.name for folder in storage.iterdir()} == names
        delete_left_logs(dagster, time.time() + 90_000)
        assert {folder.name for folder in storage.iterdir()} == names - {deleted}
