"""What is said of a failed run, and the webhook that is told."""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import dagster as dg

from mastosync_dagster.environment import ALERT_WEBHOOK, Environment, SettingsError
from mastosync_dagster.escaping import markdown
from mastosync_dagster.runs.failures import root_of

if TYPE_CHECKING:
    from collections.abc import Mapping


FIRST_REASONS = "first reasons"
"""Metadata of a failed step: the first failed objects, in a few lines."""

_URL = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_COUNTS = ("objects", "copied", "present", "missing", "failed")
_ATTEMPTS = 3
_PAUSE_SECONDS = 2.0
_TIMEOUT_SECONDS = 10.0


def failure_message(context: dg.RunFailureSensorContext) -> str:
    """Return what is to be told of a failed run: what it was about, its counts, the first reasons. No secret is in it.

    It is Markdown, as webhooks take it: what storages and rows have said shows as it is, and begins nothing.

    Args:
        context: Of a run-failure sensor.
    """
    run = context.dagster_run
    assets = ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ()))
    # A backfill's runs have a job of Dagster's own, which says nothing.
    name = assets if run.job_name.startswith("__") and assets else run.job_name
    about = " ".join(filter(None, [name, run.tags.get("dagster/partition")]))
    lines = [f"mastosync: {about} failed (run {run.run_id})"]
    for event in context.get_step_failure_events():
        failure = event.step_failure_data
        told = failure.user_failure_data
        if told is not None:
            lines += map(markdown, (told.description or "").splitlines())
            lines += _numbers({name: value.value for name, value in told.metadata.items()})
        elif failure.error is not None:
            # Nobody has written this one for admins, and what it quotes may be a secret.
            lines.append(f"{root_of(failure.error).cls_name or 'an error'} in {event.step_key}: see the log of the run")
    if len(lines) == 1:
        # The process of the run died: nothing but Dagster's own words is left.
        lines.append(markdown(context.failure_event.message or "no reason given"))
    return "\n".join(line for line in lines if line)


def _numbers(metadata: Mapping[str, object]) -> list[str]:
    counts = ", ".join(f"{metadata[name]:,} {name}" for name in _COUNTS if isinstance(metadata.get(name), int))
    reasons = metadata.get(FIRST_REASONS)
    return [counts, reasons if isinstance(reasons, str) else ""]


class AlertError(Exception):
    """A webhook was not told; the message says why, without its URL."""


def _is_url(url: str) -> bool:
    try:
        return _URL.fullmatch(url) is not None and bool(urlsplit(url).hostname)
    except ValueError:
        return False


def tell(url: str, message: str) -> None:
    """Post a message to an incoming webhook, as Slack and Mattermost understand it: ``{"text": …}``.

    Raises:
        SettingsError: The URL is none.
        AlertError: It does not take the message, after three attempts.
    """
    # What else a URL may hold would stand in the HTTP library's own message.
    if not _is_url(url):
        raise SettingsError(f"{ALERT_WEBHOOK} must be an http:// or https:// URL, in printable ASCII without spaces.")
    request = urllib.request.Request(  # noqa: S310  (the scheme is one of two)
        url, data=json.dumps({"text": message}).encode(), headers={"Content-Type": "application/json"}
    )
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):  # noqa: S310  (as above)
                return
        except urllib.error.HTTPError as error:
            error.close()
            why = f"it answers {error.code}"
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = f"it cannot be reached ({type(error).__name__})"
        if attempt < _ATTEMPTS:
            time.sleep(_PAUSE_SECONDS)
    raise AlertError(f"the webhook of {ALERT_WEBHOOK} was not told of the failed run: {why}")


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
