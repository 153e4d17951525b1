"""The sensors that send alerts: about failed runs, and about ticks that have failed."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.run_request import DagsterRunReaction  # what ends a tick of such a sensor is not public
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus  # no public call lists ticks
from dagster_shared.error import SerializableErrorInfo

from mastosync_dagster.alerts.delivery import NOT_SET, AlertError, deliver
from mastosync_dagster.alerts.message import failure_message, tick_message, will_be_retried
from mastosync_dagster.alerts.nights import Signal, is_night, ping
from mastosync_dagster.environment import ALERT_URLS, ALERT_WEBHOOK

if TYPE_CHECKING:
    from mastosync_dagster.alerts.delivery import Delivery

_REMEMBERED_SECONDS = 24 * 3600
_LOOK_SECONDS = 120
"""Between two looks: each takes a quarter of a second of processor time, whether anything has failed or not."""
_SLOW_SECONDS = 5.0
"""After a message that took longer the tick ends. It may have five, and Dagster gives up one that takes a minute: the
next tick would send all of them again, to those that have them."""
_OWN = frozenset({"alert_on_failure", "alert_on_failed_tick"})
"""Sensors whose failures are no alert: a receiver itself does not answer."""


@dg.run_failure_sensor(
    minimum_interval_seconds=_LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=f"Sends a message about each failed run to the receivers of {ALERT_WEBHOOK} and {ALERT_URLS}.",
)
def alert_on_failure(context: dg.RunFailureSensorContext) -> dg.SkipReason | DagsterRunReaction | None:
    """Send the message about a failed run."""
    began = time.monotonic()
    lost: SerializableErrorInfo | None = None
    message, delivery = send_alert(context)
    if not delivery.has_receivers:
        return dg.SkipReason(f"{NOT_SET}, so no message was sent: {message}")
    slow = time.monotonic() - began > _SLOW_SECONDS
    try:
        delivery.raise_if_lost()
    except AlertError as error:
        # The tick fails, which the page of the sensor shows.
        if not slow:
            raise
        lost = SerializableErrorInfo(str(error), stack=[], cls_name=AlertError.__name__)
    if not slow:
        return None
    return DagsterRunReaction(context.dagster_run, run_status=dg.DagsterRunStatus.FAILURE, error=lost)


def send_alert(context: dg.RunFailureSensorContext) -> tuple[str, Delivery]:
    """Tell the receivers about a failed run, and the monitor where the run could not. Returns the message too."""
    message = failure_message(context)
    with ThreadPoolExecutor(1) as pool:
        # At the same time: each may take half of the time that a tick has.
        pinged = pool.submit(ping, Signal.FAIL, message) if _was_silent(context) else None
        delivery = deliver(message)
    for problem in filter(None, [pinged and pinged.result(), *delivery.problems]):
        context.log.warning("%s", problem)
    return message, delivery


def _was_silent(context: dg.RunFailureSensorContext) -> bool:
    """Return whether a night has failed without a ping: its process died, and no other one goes on with it.

    One that is started again pings itself, before this sensor looks: its success would be followed by this failure.
    """
    run = context.dagster_run
    return is_night(run) and not context.get_step_failure_events() and not will_be_retried(run)


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
        for problem in delivery.problems:
            context.log.warning("%s", problem)
        # Where nobody has it, the tick fails, and the next one tries again.
        delivery.raise_if_lost()
    context.update_cursor(json.dumps(sorted(failed)))
    if delivery is None:
        return dg.SkipReason("No tick has failed.")
    if not delivery.has_receivers:
        message = f"{NOT_SET}, so no message was sent: {message}"
    return dg.SkipReason(message)


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
