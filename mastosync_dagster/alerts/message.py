"""The messages about failed runs, failed ticks and good nights: Markdown, without a secret."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from dagster._core.storage.tags import WILL_RETRY_TAG  # Dagster's mark on a failed run, which has no public name

from mastosync_dagster.escaping import markdown
from mastosync_dagster.records.summaries import with_counters
from mastosync_dagster.runs.dead_runs import cause_of_death
from mastosync_dagster.runs.failures import root_of
from mastosync_dagster.runs.run_lock import killed_for_memory

if TYPE_CHECKING:
    import dagster as dg
    from dagster._core.scheduler.instigation import InstigatorTick

FIRST_REASONS = "first reasons"
"""Metadata key of a failed step: its first failed objects, in a few lines."""

_COUNTS = ("objects", "copied", "present", "missing", "failed")


def failure_message(context: dg.RunFailureSensorContext) -> str:
    """Return the message about a failed run: its job and range, its counts, the first reasons. It holds no secret.

    It is Markdown, as webhooks take it; text of storages and rows is escaped.
    """
    lines = [failed_title(context.dagster_run)]
    for event in context.get_step_failure_events():
        failure = event.step_failure_data
        details = failure.user_failure_data
        if details is not None:
            lines += failure_lines(details.description, {name: value.value for name, value in details.metadata.items()})
        elif failure.error is not None:
            lines.append(unexpected_line(root_of(failure.error).cls_name, event.step_key))
    if len(lines) == 1:
        # The run's process died: only Dagster's own message is left.
        lines.append(markdown(context.failure_event.message or "no reason given"))
        if killed_for_memory(context.instance, context.dagster_run.run_id):
            lines.append(cause_of_death(context.instance, context.dagster_run.run_id))
    if will_be_retried(context.dagster_run):
        lines.append("It is started again by itself.")
    return "\n".join(line for line in lines if line)


def will_be_retried(run: dg.DagsterRun) -> bool:
    """Return whether Dagster starts a failed run again, as one whose process has died."""
    return run.tags.get(WILL_RETRY_TAG) == "true"


def stopped_title(run: dg.DagsterRun) -> str:
    """Return what there is to say about a run that somebody has ended."""
    return f"mastosync: {run.job_name} was ended before its time (run {run.run_id})"


def failed_title(run: dg.DagsterRun) -> str:
    """Return the first line about a failed run."""
    assets = ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ()))
    # The runs of a backfill have a job of Dagster's own, whose name means nothing to an admin.
    name = assets if run.job_name.startswith("__") and assets else run.job_name
    title = " ".join(filter(None, [name, run.tags.get("dagster/partition")]))
    return f"mastosync: {title} failed (run {run.run_id})"


def failure_lines(description: str | None, values: dict[str, object]) -> list[str]:
    """Return the lines about a step that a sentence for admins has ended: the sentence, counts, first reasons."""
    metadata = with_counters(values)
    reasons = metadata.get(FIRST_REASONS)
    return [
        *map(markdown, (description or "").splitlines()),
        ", ".join(f"{metadata[key]:,} {key}" for key in _COUNTS if isinstance(metadata.get(key), int)),
        reasons if isinstance(reasons, str) else "",
    ]


def unexpected_line(kind: str | None, step: str | None) -> str:
    """Return the line about an error that was not written for admins: its text may quote a secret."""
    return f"{kind or 'an error'} in {step or 'a step'}: see the log of the run"


def tick_message(tick: InstigatorTick) -> str:
    """Return the message about a failed tick of a schedule or sensor."""
    # The error was not written for admins: its text may quote a secret.
    error = root_of(tick.error).cls_name if tick.error else None
    begun = datetime.fromtimestamp(tick.timestamp, timezone.utc).isoformat(" ", "seconds")
    return (
        f"mastosync: {markdown(tick.instigator_name)} failed at {begun} ({error or 'no reason given'}), and has"
        " requested no run: its ticks in the UI (Automation) show the whole error"
    )
