"""Output of the commands, for people in a terminal and for scripts (``--json``)."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from mastosync_dagster.errors import AdminError
from mastosync_dagster.mastodon import EVERY_REMOTE_ROW
from mastosync_dagster.records.doubts import OPEN, Doubt
from mastosync_dagster.runs.doubts import doubt_text
from mastosync_dagster.runs.progress import duration_text
from mastosync_dagster.status.screen import ESTIMATED, screen_lines
from mastosync_dagster.sync.automation import Nightly
from mastosync_dagster.sync.incremental import RESTORED
from mastosync_dagster.units import MEGABYTE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mastosync_dagster.cli.estimate import Estimate
    from mastosync_dagster.status.counts import Status

_EVERYTHING = str(EVERY_REMOTE_ROW)


def status_text(statuses: Sequence[Status], *, details: bool) -> str:
    """Return what people read: one screen about all, or each file type with its details."""
    if details:
        return "\n".join(line for each in statuses for line in status_lines(each))
    try:
        nights_every = Nightly.read().longest_gap()
    except AdminError:
        nights_every = None  # `mastosync check` and Dagster name the wrong setting
    return "\n".join(screen_lines(statuses, datetime.now(timezone.utc), nights_every))


def status_lines(status: Status) -> list[str]:
    """Return the lines about a file type."""
    left, known = status.left, status.watermark
    kinds = {"materialized": status.materialized, "failed": status.failed, "running": status.running}
    ranges = ", ".join(f"{number:,} {kind}" for kind, number in {**kinds, "not run yet": status.not_run}.items())
    there = status.only_at_destination
    done = f"{status.objects_done:,} done" + (f" ({there:,} only at the destination)" if there else "")
    rest = "all taken, some in doubt" if status.in_doubt and not left.objects else f"{left.objects:,} left"
    incremental = f"run {known.run_id}, watermark {known.timestamp.isoformat(' ', 'seconds')}" if known else "none yet"
    out = f", {status.left_out:,} left out" if status.left_out else ""
    wanted = f"other servers' files: {status.remote_files}"
    if status.narrower:
        wanted += f"; {status.narrower:,} ranges have run with less, and count as not run"
    done_mb, left_mb = status.bytes_done / MEGABYTE, left.bytes / MEGABYTE
    return [
        status.file_type.value,
        f"  ranges       {status.ranges:,}: {ranges}",
        f"  objects      {done}, {status.objects_missing:,} missing, {rest}{out}",
        *([f"  counted      {ESTIMATED}"] if status.estimated else []),
        f"  originals    {done_mb:,.1f} MB done, {left_mb:,.1f} MB left (by the database)",
        *([f"  policy       {wanted}"] if out or status.narrower or status.remote_files != _EVERYTHING else []),
        *([f"  in doubt     {doubt_text(status.in_doubt)}"] if status.in_doubt else []),
        *([f"  orphans      {status.orphans:,} seen by the last verifications"] if status.orphans else []),
        f"  incremental  {incremental}",
        *([f"  restored     {RESTORED}; the next incremental run takes every row"] if status.restored else []),
    ]


def status_json(status: Status) -> dict[str, object]:
    """Return the JSON object of a file type."""
    known = status.watermark
    return {
        "file_type": status.file_type.value,
        "ranges": status.ranges,
        "materialized": status.materialized,
        "failed": status.failed,
        "running": status.running,
        "not_run": status.not_run,
        "missing": status.not_run,  # what `not_run` was called when scripts began to read it
        "objects_done": status.objects_done,
        "objects_missing": status.objects_missing,
        "objects_only_at_destination": status.only_at_destination,
        "objects_left": status.left.objects,
        "objects_left_out": status.left_out,
        "remote_files": status.remote_files,
        "orphans": status.orphans,
        "estimated": status.estimated,
        "ranges_run_with_less": status.narrower,
        "objects_in_doubt": {why.value: status.in_doubt.get(why, 0) for why in (*OPEN, Doubt.SKIPPED)},
        "bytes_done": status.bytes_done,
        "bytes_left": status.left.bytes,
        "last_incremental": known.run_id if known else None,
        "watermark": known.timestamp.isoformat() if known else None,
    }


def estimate_lines(estimate: Estimate) -> list[str]:
    """Return the lines of an estimate."""
    return [
        f"objects   {estimate.objects:,}" + (" (from a sample of the rows: they are many)" if estimate.sampled else ""),
        f"size      {estimate.bytes / MEGABYTE:,.1f} MB (originals by the database, the rest guessed)",
        f"requests  {estimate.lists:,} list, {estimate.gets:,} get, {estimate.puts:,} put",
        *([f"left out  {estimate.left_out:,} objects, by the policy"] if estimate.left_out else []),
        f"cost      {_cost(estimate)}",
        f"rate      {_rate(estimate)}",
        *([] if estimate.hours is None else [f"time      {duration_text(estimate.hours * 3600)}, one run at a time"]),
    ]


def _cost(estimate: Estimate) -> str:
    absent = [option for option, name in (("--from", estimate.source), ("--to", estimate.destination)) if name is None]
    if len(absent) > 1:
        return "not known: name the providers with --from and --to, and prices of your own with --prices"
    copied, kept = f"{estimate.dollars:,.2f} US dollars", f"{estimate.dollars_a_month:,.2f} a month to keep it"
    if estimate.destination is None:
        return f"{copied} for reading from {estimate.source}; what writing and keeping it costs, --to says"
    if estimate.source is None:
        return f"{copied} for writing to {estimate.destination}, {kept}; what reading it costs, --from says"
    return f"{copied} for the copy, {kept}, from {estimate.source} to {estimate.destination}"


def _rate(estimate: Estimate) -> str:
    rate = estimate.rate
    parts = [
        *([f"{rate.objects:,.1f} objects/s"] if rate.objects else []),
        *([f"{rate.bytes / MEGABYTE:,.2f} MB/s"] if rate.bytes else []),
    ]
    if not parts:
        return "not known: no run has copied enough yet; --objects-per-second or --megabytes-per-second gives one"
    return f"{' and '.join(parts)}, {'as given' if rate.given else 'measured over the latest runs of the ID ranges'}"
