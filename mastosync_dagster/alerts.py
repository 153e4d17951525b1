"""The message about a failed run, and the webhook that receives it."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
import urllib.error
import urllib.request
from datetime import datetime, timezone
from urllib.parse import urlsplit

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus  # no public call lists ticks

from mastosync_dagster.environment import ALERT_WEBHOOK, Environment, SettingsError
from mastosync_dagster.escaping import markdown
from mastosync_dagster.records.summaries import with_counters
from mastosync_dagster.runs.dead_runs import cause_of_death
from mastosync_dagster.runs.failures import root_of
from mastosync_dagster.runs.run_lock import killed_for_memory

FIRST_REASONS = "first reasons"
"""Metadata key of a failed step: its first failed objects, in a few lines."""

_URL = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_COUNTS = ("objects", "copied", "present", "missing", "failed")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ATTEMPTS = 3
_PAUSE_SECONDS = 2.0
_TIMEOUT_SECONDS = 10.0
_ALL_SECONDS = 40.0
"""For all attempts together: Dagster ends a tick after a minute, and the C library looks a name up for longer."""
_REMEMBERED_SECONDS = 24 * 3600
_OWN = frozenset({"alert_on_failure", "alert_on_failed_tick"})
"""Sensors whose failures are no alert: the webhook itself does not answer."""


def failure_message(context: dg.RunFailureSensorContext) -> str:
    """Return the message about a failed run: its job and range, its counts, the first reasons. It holds no secret.

    It is Markdown, as webhooks take it; text of storages and rows is escaped.
    """
    run = context.dagster_run
    assets = ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ()))
    # The runs of a backfill have a job of Dagster's own, whose name means nothing to an admin.
    name = assets if run.job_name.startswith("__") and assets else run.job_name
    title = " ".join(filter(None, [name, run.tags.get("dagster/partition")]))
    lines = [f"mastosync: {title} failed (run {run.run_id})"]
    for event in context.get_step_failure_events():
        failure = event.step_failure_data
        details = failure.user_failure_data
        if details is not None:
            metadata = with_counters({name: value.value for name, value in details.metadata.items()})
            reasons = metadata.get(FIRST_REASONS)
            lines += map(markdown, (details.description or "").splitlines())
            lines.append(", ".join(f"{metadata[key]:,} {key}" for key in _COUNTS if isinstance(metadata.get(key), int)))
            lines.append(reasons if isinstance(reasons, str) else "")
        elif failure.error is not None:
            # This error was not written for admins: its text may quote a secret.
            lines.append(f"{root_of(failure.error).cls_name or 'an error'} in {event.step_key}: see the log of the run")
    if len(lines) == 1:
        # The run's process died: only Dagster's own message is left.
        lines.append(markdown(context.failure_event.message or "no reason given"))
        if killed_for_memory(context.instance, run.run_id):
            lines.append(cause_of_death(context.instance, run.run_id))
    return "\n".join(line for line in lines if line)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: urllib would repeat the POST as a GET without the message, and call that delivered."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Refuse: the redirect becomes an HTTPError."""


_OPENER = urllib.request.build_opener(_NoRedirect)


class AlertError(Exception):
    """A webhook did not take the message. The text says why, without the URL, which is a secret."""


def _is_url(url: str) -> bool:
    try:
        return _URL.fullmatch(url) is not None and bool(urlsplit(url).hostname)
    except ValueError:
        return False


def post_alert(url: str, message: str) -> None:
    """Post a message to an incoming webhook, as Slack and Mattermost understand it: ``{"text": …}``.

    A webhook that does not take it at the third attempt, or in time, raises AlertError.
    """
    # The HTTP library would quote an odd URL in its own error, and the URL is a secret.
    if not _is_url(url):
        raise SettingsError(f"{ALERT_WEBHOOK} must be an http:// or https:// URL, in printable ASCII without spaces.")
    request = urllib.request.Request(  # noqa: S310  (the scheme is one of two)
        url, data=json.dumps({"text": message}).encode(), headers={"Content-Type": "application/json"}
    )
    reasons: list[str | None] = []
    # In a thread, which is left alone where it does not end: nothing can interrupt the look-up of a name.
    thread = threading.Thread(target=lambda: reasons.append(_post(request)), name="alert", daemon=True)
    thread.start()
    thread.join(_ALL_SECONDS)
    why = reasons[0] if reasons else f"it did not answer within {_ALL_SECONDS:.0f} s. Can its name be resolved?"
    if why is not None:
        raise AlertError(f"the webhook of {ALERT_WEBHOOK} did not take the message: {why}")


def _post(request: urllib.request.Request) -> str | None:
    """Send a request until it is taken. Returns why it was not; None: it was."""
    why = None
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with _OPENER.open(request, timeout=_TIMEOUT_SECONDS):
                return None
        except urllib.error.HTTPError as error:
            error.close()
            why = f"it answers {error.code}"
            if error.code in _REDIRECTS:
                why = f"it redirects ({error.code}): set {ALERT_WEBHOOK} to the address that it redirects to"
                break  # it may have taken the message, and would answer the same again
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = f"it cannot be reached ({type(error).__name__})"
        if attempt < _ATTEMPTS:
            time.sleep(_PAUSE_SECONDS)
    return why


@dg.run_failure_sensor(
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=f"Sends a message about each failed run to the webhook of {ALERT_WEBHOOK}.",
)
def alert_on_failure(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Send the message about a failed run to the webhook."""
    url = Environment.read().text(ALERT_WEBHOOK)
    if url is None:
        return dg.SkipReason(f"{ALERT_WEBHOOK} is not set, so no message was sent: {failure_message(context)}")
    post_alert(url, failure_message(context))
    return None


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=f"Sends a message about each failed tick of a schedule or sensor to the webhook of {ALERT_WEBHOOK}:"
    " such a tick has requested no run, so no run can fail.",
)
def alert_on_failed_tick(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Send a message about each tick that has failed since the last time."""
    failed = {str(tick.tick_id): tick for tick in _failed_ticks(context.instance)}
    # A tick fails minutes after it began: no time, and no number, tells which ones are new.
    known = set(json.loads(context.cursor)) if context.cursor else set(failed)
    new = [tick for number, tick in failed.items() if number not in known]
    message = "\n".join(map(_tick_message, new))
    url = Environment.read().text(ALERT_WEBHOOK)
    if new and url is not None:
        post_alert(url, message)
    context.update_cursor(json.dumps(sorted(failed)))
    if not new:
        return dg.SkipReason("No tick has failed.")
    if url is None:
        message = f"{ALERT_WEBHOOK} is not set, so no message was sent: {message}"
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


def _tick_message(tick: InstigatorTick) -> str:
    # The error was not written for admins: its text may quote a secret.
    error = root_of(tick.error).cls_name if tick.error else None
    begun = datetime.fromtimestamp(tick.timestamp, timezone.utc).isoformat(" ", "seconds")
    return (
        f"mastosync: {markdown(tick.instigator_name)} failed at {begun} ({error or 'no reason given'}), and has"
        " requested no run: its ticks in the UI (Automation) show the whole error"
    )
