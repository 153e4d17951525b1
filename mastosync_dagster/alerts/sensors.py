"""The sensors that send alerts: about failed runs, and about ticks that have failed."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus  # no public call lists ticks

from mastosync_dagster.alerts.delivery import NOT_SET, deliver
from mastosync_dagster.alerts.message import failure_message, tick_message
from mastosync_dagster.alerts.nights import Signal, is_night, ping
from mastosync_dagster.environment import ALERT_URLS, ALERT_WEBHOOK

if TYPE_CHECKING:
    import logging

    from mastosync_dagster.alerts.delivery import Delivery

_REMEMBERED_SECONDS = 24 * 3600
_LOOK_SECONDS = 120
"""Between two looks: each takes a quarter of a second of processor time, whether anything has failed or not."""
_OWN = frozenset({"alert_on_failure", "alert_on_failed_tick"})
"""Sensors whose failures are no alert: a receiver itself does not answer."""


@dg.run_failure_sensor(
    minimum_interval_seconds=_LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=f"Sends a message about each failed run to the receivers of {ALERT_WEBHOOK} and {ALERT_URLS}.",
)
def alert_on_failure(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Send the message about a failed run."""
    message = failure_message(context)
    if is_night(context.dagster_run) and not context.get_step_failure_events():
        # Its process died, and could not ping the monitor.
        problem = ping(Signal.FAIL, message)
        if problem:
            context.log.warning("%s", problem)
    delivery = deliver(message)
    if not delivery.has_receivers:
        return dg.SkipReason(f"{NOT_SET}, so no message was sent: {message}")
    _warn(context.log, delivery)
    return None


@dg.sensor(
    minimum_interval_seconds=2 * _LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends a message about each failed tick of a schedule or sensor to the receivers of"
    f" {ALERT_WEBHOOK} and {ALERT_URLS}: such a tick has requested no run, so no run can fail.",
)
def alert_on_failed_tick(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Send a message about each tick that has failed since the last time."""
    failed = {str(tick.tick_id): tick for tick in _failed_ticks(context.instance)}
    # A tick fails minutes after it began: neither its time nor its number shows which ones are new.
    known = set(json.loads(context.cursor)) if context.cursor else set(failed)
    new = [tick for number, tick in failed.items() if number not in known]
    message = "\n".join(map(tick_message, new))
    delivery = deliver(message) if new else None
    if delivery is not None:
        _warn(context.log, delivery)
    context.update_cursor(json.dumps(sorted(failed)))
    if delivery is None:
        return dg.SkipReason("No tick has failed.")
    if not delivery.has_receivers:
        message = f"{NOT_SET}, so no message was sent: {message}"
    return dg.SkipReason(message)


def _warn(log: logging.Logger, delivery: Delivery) -> None:
    """Log who has not got a message; where nobody has, the tick fails, which the page of the sensor shows."""
    for problem in delivery.problems:
        log.warning("%s", problem)
    delivery.raise_if_lost()


def _failed_ticks(instance: dg.DagsterInstance) -> list[InstigatorTick]:
    """Return the failed ticks of the last day."""
    since = time.time() - _REMEMBERED_SECONDS
    return [
        tick
        for state in instance.all_instigator_state()
        if state.instigator_name not in _OWN
        for tick in instance.get_ticks(
            state.instigator_origin_id, state.selector_id, after=since, statuses=[TickStatus.FAILURE]
        )
    ]
