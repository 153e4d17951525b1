"""The schedule of the night and the sensor: what they register and request, when they do not, and when the night is."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.errors import ScheduleExecutionError
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.environment import Environment, SettingsError
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.resources import MastodonDatabase
from mastosync_dagster.runs.watermarks import NIGHT
from mastosync_dagster.sync.automation import Nightly

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.life import Life

ACCOUNTS = FileType.ACCOUNTS


def grow_by_a_range(life: Life) -> None:
    life.world.register()
    life.set_rows_per_partition(3)
    for _ in range(7):
        life.living.sign_up()


def test_the_night_registers_full_ranges_has_them_run_and_requests_one_incremental_run(life: Life) -> None:
    grow_by_a_range(life)
    before = life.world.dagster.get_dynamic_partitions("accounts_ids")

    tick = life.tick()

    assert tick.run_requests
    (request,) = tick.run_requests
    assert request.run_config == {"ops": {"plan_changes": {"config": {"changed_since": "last"}}}}
    assert request.tags[NIGHT] == "changes"
    new = life.world.dagster.get_dynamic_partitions("accounts_ids")[len(before) :]
    assert len(new) == 2  # the seventh row stays in the tail
    (backfill,) = life.world.dagster.get_backfills(status=BulkActionStatus.REQUESTED)
    assert backfill.asset_selection == [dg.AssetKey("accounts")]
    assert backfill.tags[NIGHT] == "range"
    assert backfill.asset_backfill_data is not None
    wanted = backfill.asset_backfill_data.target_subset.get_partitions_subset(dg.AssetKey("accounts"))
    assert set(wanted.get_partition_keys()) == set(new)

    # Evaluated again, the same night asks for no range twice.
    assert life.tick().run_requests
    assert len(life.world.dagster.get_backfills(status=BulkActionStatus.REQUESTED)) == 1


@pytest.mark.parametrize(
    ("job", "status", "skipped"),
    [
        ("sync_changes", dg.DagsterRunStatus.STARTED, True),
        ("sync_changes", dg.DagsterRunStatus.CANCELING, True),
        ("__ASSET_JOB", dg.DagsterRunStatus.STARTED, True),
        ("sync_changes", dg.DagsterRunStatus.CANCELED, False),
        ("sync_changes", dg.DagsterRunStatus.FAILURE, False),
    ],
)
def test_a_night_is_skipped_with_a_reason_while_the_one_before_goes_on(
    life: Life, job: str, status: dg.DagsterRunStatus, *, skipped: bool
) -> None:
    run = dg.DagsterRun(job_name=job, run_id=str(uuid.uuid4()), status=status, tags={NIGHT: "changes"})
    life.world.dagster.add_run(run)
    tick = life.tick()
    assert bool(tick.run_requests) is not skipped
    if skipped:
        assert f"its run {run.run_id} of {job} is {status.value.lower()}" in (tick.skip_message or "")


def test_a_run_that_never_ends_is_a_failed_tick_from_the_second_night_on_and_so_an_alert(life: Life) -> None:
    run = dg.DagsterRun(
        job_name="sync_changes", run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTED, tags={NIGHT: "changes"}
    )
    life.world.dagster.add_run(run)
    now = datetime.now(timezone.utc)
    assert life.tick(now + timedelta(hours=26)).skip_message
    with pytest.raises(ScheduleExecutionError) as caught:
        life.tick(now + timedelta(hours=48))
    text = str(caught.value.__cause__)
    assert f"{run.run_id} of sync_changes is started since" in text
    assert "terminate it" in text


RETRY = {"dagster/retry_number": "1"}
"""The tag that Dagster gives a run which it starts again by itself."""
ORIGIN = RemoteJobOrigin(RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("localhost", 1), "here"), "sync_changes")
"""Without one, Dagster has no run that waits in the queue."""


def add_run(life: Life, status: dg.DagsterRunStatus, tags: dict[str, str]) -> dg.DagsterRun:
    run = dg.DagsterRun("sync_changes", str(uuid.uuid4()), status=status, tags=tags, remote_job_origin=ORIGIN)
    life.world.dagster.add_run(run)
    return run


def status_of(life: Life, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = life.world.dagster.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


@pytest.mark.parametrize(
    ("night", "status", "becomes"),
    [
        ("changes", dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.CANCELED),
        ("changes", dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELED),
        # No night takes the rows of a new ID range.
        ("range", dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.QUEUED),
        ("range", dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTING),
    ],
)
def test_what_dagster_starts_again_and_no_worker_has_begun_holds_up_no_night(
    life: Life, night: str, status: dg.DagsterRunStatus, becomes: dg.DagsterRunStatus
) -> None:
    again = add_run(life, status, {NIGHT: night, **RETRY})
    # Another run of the night before is executed: this night is skipped, and so takes nothing from the first one.
    going_on = add_run(life, dg.DagsterRunStatus.STARTED, {NIGHT: "range", **RETRY})
    assert going_on.run_id in (life.tick().skip_message or "")
    assert status_of(life, again) is status

    life.world.dagster.report_run_failed(going_on)
    assert life.tick().run_requests
    assert status_of(life, again) is becomes


def test_a_run_that_an_admin_executes_again_is_not_cancelled_by_the_night(life: Life) -> None:
    tags = {NIGHT: "changes", "dagster/parent_run_id": str(uuid.uuid4())}
    again = add_run(life, dg.DagsterRunStatus.QUEUED, tags)
    assert again.run_id in (life.tick().skip_message or "")
    assert status_of(life, again) is dg.DagsterRunStatus.QUEUED


def test_a_night_whose_process_has_died_is_ended_and_the_next_one_begins(life: Life) -> None:
    run = dg.DagsterRun(
        job_name="sync_changes", run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTED, tags={NIGHT: "changes"}
    )
    life.world.dagster.add_run(run)
    folder = Path(life.world.dagster.storage_directory()) / "mastosync-locks"
    folder.mkdir(parents=True, exist_ok=True)
    # What a process leaves behind that was killed: a file without a lock.
    (folder / run.run_id).write_text("host 0")
    assert life.tick().run_requests
    ended = life.world.dagster.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE


def test_a_database_that_does_not_answer_is_the_runs_matter_so_that_somebody_hears_of_it(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:x@127.0.0.1:1/nowhere")
    assert life.tick().run_requests


def evaluate_sensor(life: Life) -> Any:
    definitions = build_definitions()
    with (
        dg.build_sensor_context(
            instance=life.world.dagster,
            repository_def=definitions.get_repository_def(),
            resources={"mastodon_db": MastodonDatabase()},
        ) as context,
        dg.partition_loading_context(dynamic_partitions_store=life.world.dagster),
    ):
        return definitions.resolve_sensor_def("new_ranges").evaluate_tick(context)


def test_the_sensor_registers_the_same_and_requests_a_run_each(life: Life) -> None:
    grow_by_a_range(life)
    before = life.world.dagster.get_dynamic_partitions("accounts_ids")
    requests = evaluate_sensor(life).run_requests
    new = life.world.dagster.get_dynamic_partitions("accounts_ids")[len(before) :]
    assert [(request.job_name, request.partition_key) for request in requests] == [
        ("sync_accounts", key) for key in new
    ]
    assert evaluate_sensor(life).skip_message == "No table has grown by a whole range."


def test_the_sensor_fails_where_the_database_does_not_answer_so_that_somebody_hears_of_it(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:x@127.0.0.1:1/nowhere")
    with pytest.raises(dg.Failure) as raised:
        evaluate_sensor(life)
    assert "127.0.0.1:1" in (raised.value.description or "")


def test_a_table_that_cannot_be_read_does_not_take_the_new_ranges_of_others_with_it(life: Life) -> None:
    """They are registered by then, and no later tick would find them new."""
    grow_by_a_range(life)
    life.living.execute("DROP TABLE backups, custom_emojis CASCADE")
    before = life.world.dagster.get_dynamic_partitions("accounts_ids")
    assert [request.job_name for request in evaluate_sensor(life).run_requests] == ["sync_accounts"] * 2
    assert "custom_emojis" in evaluate_sensor(life).skip_message

    for _ in range(3):
        life.living.sign_up()
    assert life.tick().run_requests
    new = life.world.dagster.get_dynamic_partitions("accounts_ids")[len(before) + 2 :]
    assert len(new) == 1
    (backfill,) = life.world.dagster.get_backfills(status=BulkActionStatus.REQUESTED)
    assert backfill.asset_selection == [dg.AssetKey("accounts")]


def test_the_night_is_when_the_environment_says() -> None:
    assert Nightly.read(Environment.read({})) == Nightly("0 3 * * *", "UTC")
    variables = {"MASTOSYNC_NIGHTLY_CRON": "15 2 * * 1-5", "MASTOSYNC_NIGHTLY_TIMEZONE": "Europe/Berlin"}
    nightly = Nightly.read(Environment.read(variables))
    schedule = build_definitions(nightly=nightly).resolve_schedule_def("nightly_incremental")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("15 2 * * 1-5", "Europe/Berlin")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MASTOSYNC_NIGHTLY_CRON", "at three"),
        ("MASTOSYNC_NIGHTLY_CRON", "0 3 * *"),
        ("MASTOSYNC_NIGHTLY_TIMEZONE", "Berlin"),
        ("MASTOSYNC_NIGHTLY_TIMEZONE", "../etc"),
    ],
)
def test_a_time_that_is_none_is_refused_by_the_variables_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Nightly.read(Environment.read({name: value}))


@pytest.mark.parametrize(
    "cron", ["0 3 31 2 *", "0 3 30 2 *", "0 3 30,31 2 *", "0 3 31 feb *", "0 3 31 4 *", "*/5 * 31 4,6,9,11 *"]
)
def test_a_night_that_never_comes_is_refused_as_that(cron: str) -> None:
    with pytest.raises(SettingsError, match="MASTOSYNC_NIGHTLY_CRON names no time that ever comes") as raised:
        Nightly.read(Environment.read({"MASTOSYNC_NIGHTLY_CRON": cron}))
    assert "five" not in str(raised.value)


@pytest.mark.parametrize(
    ("cron", "hours"),
    [
        ("0 3 * * *", 26),
        ("*/10 * * * *", 26),
        ("0 3 * * 0", 7 * 24 + 2),
        ("* * * * sun", 7 * 24 + 2),
        ("30 3 * * 1-5", 3 * 24 + 2),
        ("0 3 1 * *", 31 * 24 + 2),
        ("@weekly", 7 * 24 + 2),
        ("@daily", 26),
        ("0 3 1 1 *", 366 * 24 + 2),
        ("0 3 29 2 *", None),
    ],
)
def test_the_replica_is_late_two_hours_after_the_longest_time_between_nights(cron: str, hours: int | None) -> None:
    nightly = Nightly.read(Environment.read({"MASTOSYNC_NIGHTLY_CRON": cron}))
    node = build_definitions(nightly=nightly).resolve_asset_graph().get(dg.AssetKey("replica"))
    wanted = None if hours is None else dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=hours))
    assert node.freshness_policy == wanted
    said = "does not turn red" if hours is None else f"has not happened for {hours} hours"
    assert said in (node.description or "")
