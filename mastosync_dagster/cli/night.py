"""``mastosync night``: what the schedule of the night requests, executed in this process."""

from __future__ import annotations

import contextlib
import fcntl
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.tags import BACKFILL_ID_TAG, WILL_RETRY_TAG

from mastosync_dagster.alerts import AlertError, deliver
from mastosync_dagster.alerts.nights import Signal, ping
from mastosync_dagster.alerts.sensors import send_alert
from mastosync_dagster.cli.preflight import check_settings
from mastosync_dagster.cli.sync import Ended, Work, make_console, name_other_run, run_here, say
from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import markdown
from mastosync_dagster.ranges.partitions import FileType, registered_ranges
from mastosync_dagster.ranges.registration import end_backfill, requested_backfills
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.retention import RetentionConfig, delete_old_records
from mastosync_dagster.runs.watermarks import LAST, range_reads, watermark
from mastosync_dagster.sync.automation import NEW_RANGE_TAGS
from mastosync_dagster.sync.config import ChangesConfig, CopyConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

_LOCK = "mastosync-night.lock"
_BACKFILLS = "BACKFILL"
"""Dagster's name for the daemon that runs backfills."""


class NightError(AdminError):
    """There is no night now: another one goes on."""


def run_night(home: contextlib.AbstractContextManager[dg.DagsterInstance]) -> int:
    """Evaluate the schedule of the night, execute what it requests, and delete old records. Returns the exit status.

    ``home`` opens the Dagster instance.

    Raises:
        AdminError: The home cannot be opened, a night goes on already, or a setting is wrong.
    """
    console = make_console()
    with contextlib.ExitStack() as stack:
        with _failure_announced(console):
            instance = stack.enter_context(home)
        stack.enter_context(_alone(instance))
        with _failure_announced(console):
            plan = ChangesConfig(changed_since=LAST)
            check_settings(instance, plan, CopyConfig(), attended=False)
            days = RetentionConfig().days
            name_other_run(console, instance, plan.file_types)
            definitions = build_definitions()
            requests = _requests(instance, definitions)
        status = _Status()
        for work in requests:
            status.add(_execute(instance, console, work))
            if status.stopped:
                return status.number
        good = not status.number
        _run_new_ranges(instance, console, definitions, status)
        if not status.stopped:
            delete_old_records(instance, days, lambda text: say(console, text))
            _name_ranges_not_run(instance, console)
        if good and status.number:
            # The run over changed rows has called the night good, and the alert is that of the range's run.
            message = "mastosync: a new ID range of the night failed, or was stopped"
            for problem in filter(None, [ping(Signal.FAIL, message)]):
                say(console, f"No ping: {problem}")
        return status.number


def _name_ranges_not_run(instance: dg.DagsterInstance, console: Console) -> None:
    """Say that there are ID ranges that no run has taken: a night alone never takes their rows."""
    destination_id = S3Bucket.destination().settings().identity
    not_run: dict[str, int] = {}
    for each in FileType:
        known = watermark(instance, each, destination_id)
        number = len(registered_ranges(instance, each)) - len(range_reads(instance, each, destination_id))
        # A sync of the whole table has taken every row, and the nights retry what had failed.
        if number > 0 and not (known is not None and known.every_row):
            not_run[each.value] = number
    if not_run:
        say(
            console,
            f"{sum(not_run.values()):,} ID ranges have not run yet, and no night takes them: Materialize, Missing in"
            f" the UI, or mastosync sync {' '.join(not_run)}",
        )


def _requests(instance: dg.DagsterInstance, definitions: dg.Definitions) -> list[Work]:
    """Return the runs that the schedule requests now. It registers ID ranges, and requests their backfills."""
    with dg.build_schedule_context(
        instance=instance,
        repository_def=definitions.get_repository_def(),
        resources={"mastodon_db": MastodonDatabase()},
        scheduled_execution_time=datetime.now(timezone.utc),
    ) as context:
        schedule = definitions.resolve_schedule_def("nightly_incremental")
        tick = schedule.evaluate_tick(context)
    if not tick.run_requests:
        raise NightError(tick.skip_message or "the schedule nightly_incremental requests no run")
    return [Work(schedule.job_name, request.run_config, request.tags) for request in tick.run_requests]


class _Status:
    """The exit status of several runs: the first that is not 0, or that of the run that was stopped."""

    def __init__(self) -> None:
        self.number = 0
        self.stopped = False

    def add(self, ended: Ended) -> None:
        """Count a run."""
        self.number = ended.status if ended.stopped else self.number or ended.status
        self.stopped = self.stopped or ended.stopped


def _run_new_ranges(
    instance: dg.DagsterInstance, console: Console, definitions: dg.Definitions, status: _Status
) -> None:
    """Execute the runs of the ID ranges that this night has registered, or one before it that was broken off."""
    assets = definitions.resolve_asset_graph()
    for backfill, ranges in requested_backfills(instance, assets, NEW_RANGE_TAGS):
        if instance.get_daemon_statuses([_BACKFILLS])[_BACKFILLS].healthy:
            say(console, f"{_ranges(len(ranges))} left to this home's daemon, which is running.")
            continue
        tags = {**backfill.tags, BACKFILL_ID_TAG: backfill.backfill_id}
        left = _not_run(instance, backfill.backfill_id, ranges)
        done, failed = len(ranges) - len(left), False
        for number, (file_type, key) in enumerate(left, done + 1):
            say(console, f"New ID range {number:,} of {len(ranges):,}: {file_type.value} {key}")
            ended = _execute(instance, console, Work(f"sync_{file_type.value}", tags=tags, partition=key))
            status.add(ended)
            if ended.stopped:
                return
            failed = failed or bool(ended.status)
        end_backfill(instance, backfill, succeeded=not failed)


def _ranges(count: int) -> str:
    return "1 new ID range is" if count == 1 else f"{count:,} new ID ranges are"


def _not_run(
    instance: dg.DagsterInstance, backfill_id: str, ranges: list[tuple[FileType, str]]
) -> list[tuple[FileType, str]]:
    """Return the ranges of a backfill without a run that has come to its own end.

    A run whose process died is repeated as often as dagster.yaml allows; one that somebody stopped, always.
    """
    ended: set[tuple[str, str]] = set()
    deaths: dict[tuple[str, str], int] = {}
    for run in instance.get_runs(dg.RunsFilter(tags={BACKFILL_ID_TAG: backfill_id})):
        about = (run.job_name, run.tags.get("dagster/partition", ""))
        died = run.status is dg.DagsterRunStatus.FAILURE and WILL_RETRY_TAG in run.tags
        deaths[about] = deaths.get(about, 0) + died
        given_up = deaths[about] > instance.run_retries_max_retries
        if run.status is dg.DagsterRunStatus.SUCCESS or (
            run.status is dg.DagsterRunStatus.FAILURE and (not died or given_up)
        ):
            ended.add(about)
    return [(file_type, key) for file_type, key in ranges if (f"sync_{file_type.value}", key) not in ended]


def _execute(instance: dg.DagsterInstance, console: Console, work: Work) -> Ended:
    """Execute a run, and send the alert of a failed one."""
    ended = run_here(instance, console, work, attended=False)
    if ended.result is None:
        return ended
    event = next((event for event in ended.result.all_events if event.is_run_failure), None)
    run = instance.get_run_by_id(ended.result.run_id)
    if event is not None and run is not None:
        context = dg.build_run_status_sensor_context(
            sensor_name="alert_on_failure", dagster_event=event, dagster_instance=instance, dagster_run=run
        )
        with _alert_problems(console):
            _, delivery = send_alert(context.for_run_failure())
            delivery.raise_if_lost()
    return ended


@contextlib.contextmanager
def _failure_announced(console: Console) -> Iterator[None]:
    """Ping the monitor, and send an alert, if the block fails: there is no night, so no run can do it."""
    try:
        yield
    except Exception as error:
        # What else than an error for admins it may be is named by its kind: its text may hold anything.
        why = error.in_full() if isinstance(error, AdminError) else type(error).__name__
        message = f"mastosync: the night could not begin: {markdown(why)}"
        with _alert_problems(console):
            for problem in filter(None, [ping(Signal.FAIL, message), *deliver(message).problems]):
                say(console, f"No alert: {problem}")
        raise


@contextlib.contextmanager
def _alert_problems(console: Console) -> Iterator[None]:
    """Show why an alert could not be sent: what it was about has its own exit status."""
    try:
        yield
    except (AlertError, AdminError) as error:
        say(console, f"No alert: {error}")


@contextlib.contextmanager
def _alone(instance: dg.DagsterInstance) -> Iterator[None]:
    """Refuse a second night in this home, also between two runs of the first."""
    folder = Path(instance.storage_directory())
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NightError(
                f"Another `mastosync night` is running in {instance.root_directory}: wait for its end. What changes"
                " meanwhile is taken by the next night."
            ) from None
        except OSError:  # the file system has no locks
            pass
        yield
