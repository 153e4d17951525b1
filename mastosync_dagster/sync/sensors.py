"""New ID ranges for people who do not use the schedule, and a word about failed runs."""

# Without `from __future__ import annotations`: Dagster reads the annotations of sensors.

from collections.abc import Iterator, Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from mastosync_dagster.alerts import failure_message, tell
from mastosync_dagster.environment import ALERT_WEBHOOK, Environment
from mastosync_dagster.ranges.registration import register_full_ranges
from mastosync_dagster.resources import MastodonDatabase

_HOUR = 3600


def new_ranges(jobs: Sequence[UnresolvedAssetJobDefinition]) -> dg.SensorDefinition:
    """Return the sensor ``new_ranges``, which is off until somebody switches it on.

    Args:
        jobs: Those over ID ranges.
    """

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
        with mastodon_db.session() as connect:
            growth = register_full_ranges(context.instance, connect)
        for problem in growth.problems:
            context.log.warning("no new ID ranges: %s", problem)
        if not growth.ranges:
            yield dg.SkipReason(" ".join(("No table has grown by a whole range.", *growth.problems)))
        for file_type, keys in growth.ranges.items():
            for key in keys:
                yield dg.RunRequest(
                    job_name=f"sync_{file_type.value}", partition_key=key, run_key=f"{file_type.value} {key}"
                )

    return sensor


@dg.run_failure_sensor(
    name="alert_on_failure",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=f"Tells the webhook of {ALERT_WEBHOOK} about failed runs.",
)
def alert_on_failure(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Tell the webhook about a failed run."""
    url = Environment.read().text(ALERT_WEBHOOK)
    if url is None:
        return dg.SkipReason(f"{ALERT_WEBHOOK} is not set, so nobody was told: {failure_message(context)}")
    tell(url, failure_message(context))
    return None


def all_sensors(ranges: Sequence[UnresolvedAssetJobDefinition]) -> list[dg.SensorDefinition]:
    """Return every sensor.

    Args:
        ranges: The jobs over ID ranges.
    """
    return [new_ranges(ranges), alert_on_failure]
