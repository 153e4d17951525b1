"""What a night reports from its own process: the ping of a monitor, and the alert after a good night.

So it is the same whether the schedule or a command began it. A night whose process dies reports nothing: that is what
the monitor is for.
"""

from __future__ import annotations

import contextlib
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import dagster as dg

from mastosync_dagster.alerts.delivery import deliver
from mastosync_dagster.alerts.message import failed_title, failure_lines, stopped_title, unexpected_line
from mastosync_dagster.alerts.requests import check_url, post
from mastosync_dagster.environment import PING_URL, Environment, alert_good_nights
from mastosync_dagster.errors import AdminError
from mastosync_dagster.history.postgres import history_may_fail, stop_soon
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.summaries import Summary, counts
from mastosync_dagster.runs.watermarks import LAST, NIGHT, REPLICA, SYNC_CHANGES

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

_STOP_SECONDS = 5.0
"""For the ping of a night that somebody ends, and that is to end at once."""


class Signal(Enum):
    """The signals of a monitor that works as Healthchecks does: paths after its URL."""

    START = "/start"
    SUCCESS = ""
    FAIL = "/fail"


def is_night(run: dg.DagsterRun) -> bool:
    """Return whether a run is a night: tagged as one, or over all rows of all file types since the last one."""
    if run.job_name != SYNC_CHANGES:
        return False
    if NIGHT in run.tags:
        return True
    ops: Any = run.run_config.get("ops") or {}
    config = (ops.get("plan_changes") or {}).get("config") or {}
    everything = {file_type.value for file_type in FileType}
    since = str(config.get("changed_since") or "").strip()
    cut = config.get("limit") is not None or config.get("offset")
    return since == LAST and not cut and set(config.get("file_types") or everything) == everything


def ping(signal: Signal, text: str = "", *, seconds: float | None = None) -> str | None:
    """Ping the monitor of MASTOSYNC_PING_URL. Returns why it did not take the ping; None: it did, or there is none.

    ``seconds``: how long that may take; None: as long as an alert.
    """
    try:
        url = Environment.read().text(PING_URL)
        if url is None:
            return None
        check_url(url, PING_URL)
        parts = urlsplit(url)
        url = urlunsplit(parts._replace(path=parts.path.rstrip("/") + signal.value))
        # A night does not wait for a monitor before it begins.
        attempts = 1 if signal is Signal.START else 3
        kind = "text/plain; charset=utf-8"
        why = post(url, PING_URL, text.encode(), kind, attempts=attempts, seconds=seconds)
    except AdminError as error:
        return str(error)
    return None if why is None else f"the monitor of {PING_URL} did not take the ping: {why}"


def check_monitor() -> None:
    """Raise a `SettingsError` where MASTOSYNC_PING_URL is no URL. It pings nobody."""
    if (url := Environment.read().text(PING_URL)) is not None:
        check_url(url, PING_URL)


def announce_start(run: dg.DagsterRun, log: logging.Logger | dg.DagsterLogManager) -> None:
    """Ping the monitor where the run that begins is a night."""
    if is_night(run):
        _warn(log, ping(Signal.START, f"run {run.run_id}"))


@contextlib.contextmanager
def announced_when_stopped(run: dg.DagsterRun, log: logging.Logger | dg.DagsterLogManager) -> Iterator[None]:
    """Ping the monitor where somebody ends a night within the block: then Dagster calls no hook."""
    try:
        yield
    except BaseException as ending:
        # An Exception is a failure, which the hook tells.
        if not isinstance(ending, Exception) and is_night(run):
            problem = ping(Signal.FAIL, stopped_title(run), seconds=_STOP_SECONDS)
            stop_soon()
            with history_may_fail():
                _warn(log, problem)
        raise


@dg.success_hook(name="announce_good_night")
def announce_good_night(context: dg.HookContext) -> None:
    """Ping the monitor after a good night, and send an alert about it if an admin wants one."""
    run = context.instance.get_run_by_id(context.run_id)
    # Without a watermark that moves (a standby that stands still, another policy or destination) the replica is not
    # newer than before, and its freshness and the metrics say so too.
    if run is None or not is_night(run) or not _moves_the_watermark(context):
        return
    summary = context.op_output_values.get("result")
    numbers = counts(summary.total) if isinstance(summary, Summary) else {}
    written = ", ".join(f"{number:,} {name}" for name, number in numbers.items())
    text = f"mastosync: the night was good (run {run.run_id})\n{written}"
    _warn(context.log, ping(Signal.SUCCESS, text))
    try:
        problems = deliver(text).problems if alert_good_nights() else ()
    except AdminError as error:
        problems = (str(error),)
    _warn(context.log, *problems)


def _moves_the_watermark(context: dg.HookContext) -> bool:
    events = context.instance.all_logs(context.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    return any(entry.get_dagster_event().asset_key == dg.AssetKey(REPLICA) for entry in events)


@dg.failure_hook(name="announce_failed_night")
def announce_failed_night(context: dg.HookContext) -> None:
    """Ping the monitor after a night that has failed."""
    run = context.instance.get_run_by_id(context.run_id)
    if run is None or not is_night(run):
        return
    error = context.op_exception
    lines = [unexpected_line(type(error).__name__ if error else None, context.step_key)]
    if isinstance(error, dg.Failure):
        lines = failure_lines(error.description, {name: value.value for name, value in error.metadata.items()})
    text = "\n".join([failed_title(run), *filter(None, lines)])
    _warn(context.log, ping(Signal.FAIL, text))


def _warn(log: logging.Logger | dg.DagsterLogManager, *problems: str | None) -> None:
    for problem in filter(None, problems):
        log.warning("%s", problem)
