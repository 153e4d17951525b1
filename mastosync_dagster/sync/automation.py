"""Automation: the night (new ID ranges and an incremental run), or new ID ranges alone."""

# Without `from __future__ import annotations`: Dagster reads the annotations of schedules.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import pairwise, takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.storage.tags import RETRY_NUMBER_TAG  # Dagster's mark on a run that it starts again by itself
from dagster._utils.schedules import (
    CroniterShim,
    is_valid_cron_schedule,  # what a schedule's definition checks, and fails by
    schedule_execution_time_iterator,
)

from mastosync_dagster.environment import NIGHTLY_CRON, NIGHTLY_TIMEZONE, Environment, SettingsError
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import one_line
from mastosync_dagster.ranges.registration import REGISTRATION_SECONDS, Growth, register_full_ranges, request_backfills
from mastosync_dagster.resources import MastodonDatabase
from mastosync_dagster.runs.dead_runs import close_dead_runs
from mastosync_dagster.runs.run_lock import IN_PROGRESS
from mastosync_dagster.runs.watermarks import LAST, NIGHT

_HOUR = 3600
_CRON_FIELDS = 5
_SAMPLE_FROM, _SAMPLE = datetime(2024, 1, 1, tzinfo=timezone.utc), timedelta(days=731)
"""The two years in which the gaps between nights are looked at; both ends are a first of January."""
_NIGHTS_SKIPPED = 1.5
"""One night may be skipped without an alert, since the one before takes long."""
_CHANGES, _RANGE = "changes", "range"
NEW_RANGE_TAGS = {NIGHT: _RANGE}
"""The tags of a night's backfills, and of their runs."""
# Without runs that could not be launched: nothing ever ends them.
_UNFINISHED = [dg.DagsterRunStatus.QUEUED, *IN_PROGRESS]
_NOT_BEGUN = frozenset({dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING})


@dataclass(frozen=True)
class Nightly:
    """When the night is: five cron fields, in a time zone such as ``Europe/Berlin``."""

    cron: str = "0 3 * * *"
    timezone: str = "UTC"

    @classmethod
    def read(cls, environment: Environment | None = None) -> "Nightly":
        """Return what MASTOSYNC_NIGHTLY_CRON and MASTOSYNC_NIGHTLY_TIMEZONE set; a wrong one is a SettingsError."""
        environment = environment or Environment.read()
        cron, zone = environment.text(NIGHTLY_CRON), environment.text(NIGHTLY_TIMEZONE)
        if cron is not None:
            _check(cron)
        if zone is not None:
            try:
                ZoneInfo(zone)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise SettingsError(f"{NIGHTLY_TIMEZONE} must be a time zone, such as Europe/Berlin or UTC.") from None
        return cls(cron=cron or cls.cron, timezone=zone or cls.timezone)

    def longest_gap(self) -> timedelta | None:
        """Return the longest time between nights, in whole days; None: there are no two of them in two years."""
        fields = self.cron.split()
        if len(fields) == _CRON_FIELDS:
            # The times of day do not matter, and each minute of two years would take minutes.
            days = fields[2:]
            if days == ["*", "*", "*"]:
                return timedelta(days=1)
            fields = ["0", "0", *days]
        ticks = schedule_execution_time_iterator(_SAMPLE_FROM.timestamp(), " ".join(fields), "UTC")
        nights = list(takewhile(lambda tick: tick < _SAMPLE_FROM + _SAMPLE, ticks))
        gaps = (after - before for before, after in pairwise(nights))
        return max((max(gap, timedelta(days=1)) for gap in gaps), default=None)


def _check(cron: str) -> None:
    """Raise a SettingsError where a text is no five cron fields, or those of a day that there is in no year."""
    try:
        fields = len(CroniterShim.expand(cron)[0])
    except ValueError:
        fields = 0
    if fields != _CRON_FIELDS:
        raise SettingsError(f"{NIGHTLY_CRON} must be five cron fields, such as '0 3 * * *' for three o'clock.")
    if not _ever_comes(cron):
        raise SettingsError(
            f"{NIGHTLY_CRON} names no time that ever comes, as a 31st of April: '0 3 * * *' is three o'clock."
        )


def _ever_comes(cron: str) -> bool:
    if not is_valid_cron_schedule(cron):
        return False  # Dagster itself refuses a 30th or 31st of February, and no other day
    try:
        next(schedule_execution_time_iterator(_SAMPLE_FROM.timestamp(), cron, "UTC"))
    except ValueError:
        return False
    return True


def nightly_incremental(nightly: Nightly, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Return the schedule ``nightly_incremental`` of the job of incremental runs; off until an admin switches it on."""

    @dg.schedule(
        name="nightly_incremental",
        job=job,
        cron_schedule=nightly.cron,
        execution_timezone=nightly.timezone,
        description="Registers ID ranges that new rows have filled, has them run, and copies what has changed.",
    )
    def schedule(
        context: dg.ScheduleEvaluationContext, mastodon_db: MastodonDatabase
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        night = context.scheduled_execution_time.isoformat()
        unfinished = _unfinished(context, nightly)
        if unfinished is not None:
            yield dg.SkipReason(f"{unfinished} What changes meanwhile is taken by the next night.")
            return
        try:
            # Registration ends in time, or Dagster would end the tick: then there would be no run, and so no alert.
            with mastodon_db.session(seconds=REGISTRATION_SECONDS) as connect:
                growth = register_full_ranges(context.instance, connect)
        except AdminError as error:
            growth = Growth({}, (one_line(str(error)),))
        for problem in growth.problems:
            # The run will meet the same error, and its failure sends the alert.
            context.log.warning("no new ID ranges: %s", problem)
        if growth.ranges:
            assets = context.repository_def.asset_graph
            title = f"New ID ranges of the night {night}"
            request_backfills(context.instance, assets, growth.ranges, title=title, tags=NEW_RANGE_TAGS)
        yield dg.RunRequest(
            run_key=night,
            run_config={"ops": {"plan_changes": {"config": {"changed_since": LAST}}}},
            # Before the new ranges, which then find their objects at the destination.
            tags={NIGHT: _CHANGES, "dagster/priority": "1"},
        )

    return schedule


def _unfinished(context: dg.ScheduleEvaluationContext, nightly: Nightly) -> str | None:
    """Return which run of an earlier night is not over; None: none is. If it takes too long, that is a Failure."""
    # A run whose process has died would be the last night of all.
    close_dead_runs(context.instance)
    filters = dg.RunsFilter(statuses=_UNFINISHED, tags={NIGHT: [_CHANGES, _RANGE]})
    records = context.instance.get_run_records(filters, ascending=True)
    oldest = next((record for record in records if not _gives_way(record.dagster_run)), None)
    if oldest is None:
        for record in records:
            # That of a new ID range keeps its turn: no night takes its rows. One may have begun just now.
            retry = context.instance.get_run_by_id(record.dagster_run.run_id)
            if retry is not None and retry.tags[NIGHT] == _CHANGES and _gives_way(retry):
                context.instance.report_run_canceled(retry, "The next night takes what it was to take.")
        return None
    run = oldest.dagster_run
    text = (
        f"The night before is not over: its run {run.run_id} of {run.job_name} is {run.status.value.lower()} since"
        f" {oldest.create_timestamp.isoformat(' ', 'minutes')}."
    )
    waited = context.scheduled_execution_time - oldest.create_timestamp
    if waited > _NIGHTS_SKIPPED * (nightly.longest_gap() or timedelta(days=1)):
        # A tick that fails sends an alert; one that is skipped tells nobody.
        raise dg.Failure(f"{text} No night can begin: look at the run, and terminate it if it does nothing.")
    return text


def _gives_way(run: dg.DagsterRun) -> bool:
    """Return whether a run of an earlier night holds up no other: it is started again by Dagster, and waits.

    Where no worker takes it, Dagster starts it again and again, which would take days. The run before it has failed,
    and that has sent the alert.
    """
    return RETRY_NUMBER_TAG in run.tags and run.status in _NOT_BEGUN


def new_ranges(jobs: Sequence[UnresolvedAssetJobDefinition]) -> dg.SensorDefinition:
    """Return the sensor ``new_ranges`` of the jobs over ID ranges, which is off until an admin switches it on."""

    @dg.sensor(
        name="new_ranges",
        jobs=jobs,
        minimum_interval_seconds=_HOUR,
        description="Registers ID ranges that new rows have filled, and runs them. The schedule nightly_incremental"
        " does the same: switch one of them on.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, mastodon_db: MastodonDatabase
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        with mastodon_db.session(seconds=REGISTRATION_SECONDS) as connect:
            growth = register_full_ranges(context.instance, connect)
        for problem in growth.problems:
            context.log.warning("no new ID ranges: %s", problem)
        if growth.unreachable and not growth.ranges:
            # A tick that fails sends an alert; one that is skipped tells nobody.
            raise dg.Failure(" ".join(growth.problems))
        if not growth.ranges:
            yield dg.SkipReason(" ".join(("No table has grown by a whole range.", *growth.problems)))
        for file_type, keys in growth.ranges.items():
            for key in keys:
                yield dg.RunRequest(
                    job_name=f"sync_{file_type.value}", partition_key=key, run_key=f"{file_type.value} {key}"
                )

    return sensor
