"""The status of the copy on one screen: a bar per file type, the time left, what to do next."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from mastosync_dagster.environment import COPY_PRIVATE
from mastosync_dagster.ranges.file_types import FILE_TYPES
from mastosync_dagster.records.doubts import Doubt
from mastosync_dagster.records.summaries import duration_text, size_text
from mastosync_dagster.status.rates import measured_rate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime, timedelta

    from mastosync_dagster.status.counts import Status

_BAR = 20
_NAME = max(map(len, FILE_TYPES))
ESTIMATED = "the newest rows; of the others a sample, for they are many: done and left are estimates"


def screen_lines(statuses: Sequence[Status], now: datetime, nights_every: timedelta | None) -> list[str]:
    """Return the lines about all file types.

    ``nights_every``: the longest time between two nights; None: nobody knows when one is late.
    """
    done, left = sum(each.objects_done for each in statuses), sum(each.left.objects for each in statuses)
    missing = sum(each.objects_missing for each in statuses)
    size = sum(each.left.bytes for each in statuses)
    steps = next_steps(statuses, now, nights_every)
    return [
        f"{'':{_NAME + _BAR + 11}}{'done':>13}{'left':>13}{'missing':>10}",
        *(_line(each.file_type.value, each.objects_done, each.left.objects, each.objects_missing) for each in statuses),
        _line("all", done, left, missing),
        "",
        f"time left   {_time_left(statuses, left, size)}",
        f"last night  {_last_night(statuses, now)}",
        *([f"counted     {ESTIMATED}"] if any(each.estimated for each in statuses) else []),
        *(f"{name:12}{step}" for name, step in zip_longest(["next"], steps, fillvalue="")),
    ]


def share(done: int, left: int) -> int:
    """Return how much is done, in percent, and 100 only where nothing is left."""
    if not left:
        return 100
    return min(round(100 * done / (done + left)), 99)


def next_steps(statuses: Sequence[Status], now: datetime, nights_every: timedelta | None) -> list[str]:
    """Return what an admin should do now, the most urgent first."""
    found = []
    failed = [each.file_type.value for each in statuses if each.failed]
    skipped = sum(each.in_doubt.get(Doubt.SKIPPED, 0) for each in statuses)
    if any(each.restored for each in statuses):
        found.append("the database was restored: mastosync sync --changed-since last takes every row")
    if skipped:
        found.append(
            f"{skipped:,} private objects are not copied: decide with {COPY_PRIVATE}, docs/verify-and-prune.md"
        )
    if failed:
        found.append(f"ID ranges have failed: {_command('report', failed)}, then run them again")
    running = sum(each.running for each in statuses)
    if running:
        found.append(f"{running:,} ID ranges are running or queued: wait, mastosync status --watch shows them")
    not_run = [each.file_type.value for each in statuses if each.not_run]
    if not_run and not running:
        found.append(f"ID ranges have not run yet: Materialize, Missing in the UI, or {_command('sync', not_run)}")
    elif not running and not failed and any(each.left.objects for each in statuses):
        found.append("a night takes what is left: mastosync sync --changed-since last does it now")
    oldest = _oldest_night(statuses)
    if oldest is not None and nights_every is not None and now - oldest > nights_every * 2:
        found.append("nights are late: is the schedule nightly_incremental on, and does the daemon run?")
    found += _about_objects(statuses)
    if not found and any(each.estimated for each in statuses):
        return ["nothing that the sample shows"]
    return found or ["nothing: everything is at the destination"]


def _about_objects(statuses: Sequence[Status]) -> Iterator[str]:
    """Yield what no sync can mend."""
    if missing := sum(each.objects_missing for each in statuses):
        yield f"{missing:,} objects are missing at the source: mastosync report says what can be done"
    if orphans := sum(each.orphans or 0 for each in statuses):
        yield f"{orphans:,} objects that no row expects: docs/verify-and-prune.md"


def _command(name: str, file_types: Sequence[str]) -> str:
    """Return a command; for several file types the one for all, which is short and does no harm."""
    return " ".join(["mastosync", name, *(file_types if len(file_types) == 1 else [])])


def _line(name: str, done: int, left: int, missing: int) -> str:
    percent = share(done, left)
    full = _BAR * percent // 100
    bar = "#" * full + "-" * (_BAR - full)
    return f"{name:{_NAME}}  [{bar}] {percent:3} %  {done:13,}{left:13,}{missing:10,}"


def _time_left(statuses: Sequence[Status], objects: int, size: int) -> str:
    if not objects:
        return "none: nothing is left"
    rate = measured_rate(read for each in statuses for read in each.reads.values())
    times = [amount / speed for amount, speed in ((objects, rate.objects), (size, rate.bytes)) if speed]
    what = f"{objects:,} objects, {size_text(size)} of originals"
    if not times:
        return f"not known: no ID range has copied enough yet ({what})"
    return f"about {duration_text(max(times))}, one run at a time ({what})"


def _oldest_night(statuses: Sequence[Status]) -> datetime | None:
    marks = [each.watermark.timestamp for each in statuses if each.watermark]
    return min(marks) if len(marks) == len(statuses) else None


def _last_night(statuses: Sequence[Status], now: datetime) -> str:
    oldest = _oldest_night(statuses)
    if oldest is None:
        return "none yet for every file type"
    ago = duration_text(max((now - oldest).total_seconds(), 0))
    return f"has read the rows at {oldest.isoformat(' ', 'minutes')}, {ago} ago"
