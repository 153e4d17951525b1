"""Deletes Dagster's records of old runs, except those that are still read."""

# Without `from __future__ import annotations`: Dagster reads the annotations of ops.

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import dagster as dg
from dagster._core.storage.event_log import SqliteEventLogStorage

from mastosync_dagster.history.events import asset_events
from mastosync_dagster.runs.config import RunConfig, setting
from mastosync_dagster.runs.watermarks import failures, furthest_runs

_PAGE = 200
_PROGRESS_SECONDS = 10.0
DAY_SECONDS = 86_400.0
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_PARTITION, _BACKFILL = "dagster/partition", "dagster/backfill"


class RetentionConfig(RunConfig):
    """Which runs are old."""

    days: int = setting("days", 30, "Runs that ended more days ago are deleted.", ge=1, le=100_000)


@dg.op(description="Delete the records of old runs that are not read any more.")
def delete_records(context: dg.OpExecutionContext, config: RetentionConfig) -> None:
    """Delete run records, their event logs and what their steps have stored. Manifests stay."""
    instance = context.instance
    deleted = delete_old_records(instance, config.days, context.log.info)
    context.add_output_metadata({"deleted": deleted})


def delete_old_records(instance: dg.DagsterInstance, days: int, say: Callable[[str], object]) -> int:
    """Delete the records of runs that ended more than so many days ago and are not read any more; return how many."""
    old = old_runs(instance, datetime.now(timezone.utc) - timedelta(days=days))
    due = time.monotonic() + _PROGRESS_SECONDS
    for number, run_id in enumerate(old):
        delete_run(instance, run_id)
        if time.monotonic() >= due:
            due = time.monotonic() + _PROGRESS_SECONDS
            say(f"{number + 1:,} of {len(old):,} runs deleted")
    if old:
        say(f"{len(old):,} runs deleted that ended more than {days} days ago")
    return len(old)


def old_runs(instance: dg.DagsterInstance, before: datetime) -> list[str]:
    """Return the runs that ended before a time and are not to be kept."""
    kept = runs_to_keep(instance)
    return [
        record.dagster_run.run_id
        for record in _records(instance, dg.RunsFilter(statuses=_FINISHED, updated_before=before))
        if record.dagster_run.run_id not in kept and not _belongs_to_open_backfill(instance, record.dagster_run)
    ]


def delete_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a run's record, its event log, its steps' output and what they have stored."""
    instance.delete_run(run_id)
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        # Dagster empties a run's own file, which does not make it smaller, and leaves it.
        for end in ("", "-wal", "-shm"):
            Path(f"{storage.path_for_shard(run_id)}{end}").unlink(missing_ok=True)


def delete_left_logs(instance: dg.DagsterInstance, now: float) -> None:
    """Delete what runs have left on this machine that the history does not have any more. ``now``: seconds of Unix.

    `delete_run` reaches the machine that it is executed on: workers on others (`machines.application`) keep the logs of
    the runs that they have executed. What is younger than a day stays, whatever the history says.
    """
    left = [folder.name for folder in Path(instance.storage_directory()).iterdir() if _is_of_run(folder, now)]
    for start in range(0, len(left), _PAGE):
        some = set(left[start : start + _PAGE])
        for run_id in some - {run.run_id for run in instance.get_runs(dg.RunsFilter(run_ids=sorted(some)))}:
            # One that another user owns, say, keeps nobody from deleting the others.
            with contextlib.suppress(OSError):
                instance.compute_log_manager.delete_logs(prefix=[run_id])


def _is_of_run(folder: Path, now: float) -> bool:
    """Return whether a folder has the logs of a run, and none of the last day."""
    try:
        return str(UUID(folder.name)) == folder.name and folder.stat().st_mtime < now - DAY_SECONDS
    except (ValueError, FileNotFoundError):  # another run's process may have deleted it
        return False


def runs_to_keep(instance: dg.DagsterInstance) -> set[str]:
    """Return the runs whose records are still read, however old they are.

    These are the newest of each job and partition, whatever their outcome; those of the latest materializations, which
    show what is done, and of what has failed since; and those from which incremental runs know where to go on.
    """
    kept = furthest_runs(instance)
    newest: set[tuple[object, ...]] = set()
    for record in _records(instance, dg.RunsFilter()):
        run = record.dagster_run
        assets = tuple(sorted(key.to_user_string() for key in run.asset_selection or ()))
        about = (assets or run.job_name, run.tags.get(_PARTITION))
        if about not in newest:
            newest.add(about)
            kept.add(run.run_id)
    for key in instance.get_asset_keys():
        latest = instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
        kept |= {found.run_id for found in asset_events(instance, list(latest.values()))}
        kept |= {found.run_id for found in failures(instance, key)}
        event = instance.get_latest_materialization_event(key)
        if event is not None:
            kept.add(event.run_id)
    return kept


def _records(instance: dg.DagsterInstance, filters: dg.RunsFilter) -> Iterator[dg.RunRecord]:
    """Yield the records of runs, newest first, a page in memory. None may be deleted meanwhile."""
    cursor = None
    while True:
        page = instance.get_run_records(filters, limit=_PAGE, cursor=cursor)
        yield from page
        if len(page) < _PAGE:
            return
        cursor = page[-1].dagster_run.run_id


def _belongs_to_open_backfill(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    backfill = instance.get_backfill(run.tags[_BACKFILL]) if _BACKFILL in run.tags else None
    return backfill is not None and backfill.backfill_end_timestamp is None


@dg.job(description="Delete Dagster's records of old runs.")
def delete_old_runs() -> None:
    """Run the op that deletes records."""
    delete_records()


@dg.schedule(
    name="delete_old_runs_daily",
    job=delete_old_runs,
    cron_schedule="30 12 * * *",
    description="Deletes Dagster's records of old runs; the newest of each ID range and the watermark's stay.",
)
def delete_old_runs_daily() -> dg.RunRequest:
    """Request the run that deletes old ones."""
    return dg.RunRequest()
