"""The screen of ``mastosync status``: every next step, and the time that is left."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.mastodon import TableSize
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.doubts import Doubt
from mastosync_dagster.runs.watermarks import RangeRead, Watermark
from mastosync_dagster.status.counts import Status
from mastosync_dagster.status.screen import ESTIMATED, next_steps, screen_lines, share

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=timezone.utc)
DAY = timedelta(days=1)


def status(
    file_type: FileType = FileType.ACCOUNTS,
    *,
    left: int = 0,
    left_bytes: int = 0,
    missing: int = 0,
    night: timedelta | None = timedelta(hours=9),
    read: Mapping[str, float] | None = None,
    skipped: int = 0,
    **more: int | bool | None,
) -> Status:
    """Return the status of a file type, by default one whose last night took everything.

    ``night`` is how long ago it read the rows; None: there was none. ``read`` are the numbers of a range's run.
    """
    known = None if night is None else Watermark(NOW - night, "run", every_row=True, covered_since=NOW - night)
    counts: dict[str, int | bool | None] = {"materialized": 0, "failed": 0, "running": 0, "not_run": 0, **more}
    ranges = sum(int(counts[state] or 0) for state in ("materialized", "failed", "running", "not_run"))
    return Status(
        file_type=file_type,
        ranges=ranges,
        objects_done=10,
        objects_missing=missing,
        only_at_destination=0,
        bytes_done=0,
        left=TableSize(objects=left, bytes=left_bytes),
        left_out=0,
        remote_files="everything",
        in_doubt={Doubt.SKIPPED: skipped} if skipped else {},
        reads={} if read is None else {"1-50": RangeRead(NOW, "run", read)},
        watermark=known,
        **counts,  # type: ignore[arg-type]  # the names are those of the fields
    )


NOTHING = "nothing: everything is at the destination"
RESTORED = "the database was restored: mastosync sync --changed-since last takes every row"
SKIPPED = "1,002 private objects are not copied: decide with MASTOSYNC_COPY_PRIVATE, docs/verify-and-prune.md"
FAILED = "ID ranges have failed: mastosync report accounts, then run them again"
SEVERAL_FAILED = "ID ranges have failed: mastosync report, then run them again"
RUNNING = "1,200 ID ranges are running or queued: wait, mastosync status --watch shows them"
NOT_RUN = "ID ranges have not run yet: Materialize, Missing in the UI, or mastosync sync accounts"
SEVERAL_NOT_RUN = "ID ranges have not run yet: Materialize, Missing in the UI, or mastosync sync"
LEFT = "a night takes what is left: mastosync sync --changed-since last does it now"
LATE = "nights are late: is the schedule nightly_incremental on, and does the daemon run?"
MISSING = "1,234 objects are missing at the source: mastosync report says what can be done"
ORPHANS = "5,678 objects that no row expects: docs/verify-and-prune.md"
SAMPLED = "nothing that the sample shows"

BACKUPS = FileType.BACKUPS
STEPS: dict[str, tuple[list[Status], list[str]]] = {
    "nothing is left": ([status(), status(BACKUPS)], [NOTHING]),
    "nothing is left, and the ranges have run": ([status(materialized=7)], [NOTHING]),
    "nothing is left in the sample": ([status(estimated=True), status(BACKUPS)], [SAMPLED]),
    "some is left in the sample": ([status(estimated=True, left=1), status(BACKUPS)], [LEFT]),
    "restored": ([status(restored=True, left=9, night=DAY), status(BACKUPS)], [RESTORED, LEFT]),
    "failed": ([status(failed=1), status(BACKUPS)], [FAILED]),
    "failed, and a night is no cure": ([status(failed=1, left=9)], [FAILED]),
    "private, and nobody has decided": (
        [status(failed=1, left=9, skipped=1_000), status(skipped=2)],
        [SKIPPED, FAILED],
    ),
    "several failed": ([status(failed=1), status(BACKUPS, failed=2)], [SEVERAL_FAILED]),
    "running": ([status(running=1_000), status(BACKUPS, running=200)], [RUNNING]),
    "running, and what is left is being taken": ([status(running=1_200, not_run=3, left=9)], [RUNNING]),
    "not run": ([status(not_run=3, left=9, night=None), status(BACKUPS)], [NOT_RUN]),
    "several not run": ([status(not_run=1, left=9), status(BACKUPS, not_run=2)], [SEVERAL_NOT_RUN]),
    "failed and not run": ([status(failed=1, not_run=1, left=9)], [FAILED, NOT_RUN]),
    "left": ([status(left=1), status(BACKUPS)], [LEFT]),
    "left, and no night yet": ([status(left=1, night=None)], [LEFT]),
    "not late yet": ([status(night=2 * DAY), status(BACKUPS)], [NOTHING]),
    "late": ([status(), status(BACKUPS, night=2 * DAY + timedelta(minutes=1))], [LATE]),
    "never a night of one": ([status(night=9 * DAY), status(BACKUPS, night=None)], [NOTHING]),
    "missing": ([status(missing=1_000), status(BACKUPS, missing=234)], [MISSING]),
    "orphans": ([status(orphans=5_000), status(BACKUPS, orphans=678)], [ORPHANS]),
    "verified, and no orphans": ([status(orphans=0)], [NOTHING]),
    "everything at once, the most urgent first": (
        [status(restored=True, failed=1, not_run=1, left=9, missing=1_234, orphans=5_678, night=9 * DAY)],
        [RESTORED, FAILED, NOT_RUN, LATE, MISSING, ORPHANS],
    ),
}


@pytest.mark.parametrize(("found", "steps"), STEPS.values(), ids=STEPS)
def test_the_next_steps_are_those_that_help(found: list[Status], steps: list[str]) -> None:
    assert next_steps(found, NOW, DAY) == steps


def test_where_nobody_knows_when_the_nights_are_none_is_late() -> None:
    assert next_steps([status(night=99 * DAY)], NOW, None) == [NOTHING]


def lines_of(*found: Status) -> dict[str, str]:
    """Return the lines below the bars, by their names; a step after the first has none."""
    lines = screen_lines(found, NOW, DAY)
    below = lines[lines.index("") + 1 :]
    return {line[:12].strip(): line[12:] for line in below}


A_RUN = {"copied": 100, "bytes": 5_000_000, "seconds": 10}
"""Ten objects and half a megabyte a second."""
TIMES = {
    "none": (status(read=A_RUN), "none: nothing is left"),
    # Which of the two takes longer decides.
    "by objects": (
        status(left=36_000, left_bytes=1_000_000, read=A_RUN),
        "about 1 h 0 min, one run at a time (36,000 objects, 1.0 MB of originals)",
    ),
    "by bytes": (
        status(left=10, left_bytes=96_000_000, read=A_RUN),
        "about 3 min 12 s, one run at a time (10 objects, 96.0 MB of originals)",
    ),
    "seconds": (
        status(left=5, left_bytes=0, read=A_RUN),
        "about 0.5 s, one run at a time (5 objects, 0 bytes of originals)",
    ),
    "no run": (
        status(left=1_000, left_bytes=2_000),
        "not known: no ID range has copied enough yet (1,000 objects, 2.0 kB of originals)",
    ),
    # It has only looked: how long a copy takes is not known from it.
    "nothing copied": (
        status(left=1_000, left_bytes=2_000, read={"copied": 0, "bytes": 0, "seconds": 10}),
        "not known: no ID range has copied enough yet (1,000 objects, 2.0 kB of originals)",
    ),
    "empty files": (
        status(left=20, left_bytes=2_000, read={"copied": 100, "bytes": 0, "seconds": 10}),
        "about 2.0 s, one run at a time (20 objects, 2.0 kB of originals)",
    ),
}


@pytest.mark.parametrize(("found", "text"), TIMES.values(), ids=TIMES)
def test_the_time_left_goes_by_what_earlier_runs_took(found: Status, text: str) -> None:
    assert lines_of(found)["time left"] == text
    # Another file type, of which nothing is left and nothing was copied, changes nothing.
    assert lines_of(found, status(BACKUPS))["time left"] == text


def test_the_last_night_is_the_one_of_the_file_type_that_waits_longest() -> None:
    night = lines_of(status(night=timedelta(hours=9)), status(BACKUPS, night=timedelta(hours=33)))["last night"]
    assert night == "has read the rows at 2026-11-19 03:00+00:00, 33 h 0 min ago"
    # A clock may differ: a night in the future is no negative time ago.
    assert lines_of(status(night=-DAY))["last night"] == "has read the rows at 2026-11-21 12:00+00:00, 0.0 s ago"
    assert lines_of(status(), status(BACKUPS, night=None))["last night"] == "none yet for every file type"


def test_an_estimate_is_called_one_and_further_steps_stand_below_the_first() -> None:
    assert "counted" not in lines_of(status())
    found = lines_of(status(estimated=True, left=1, missing=1_234))
    assert (found["counted"], found["next"], found[""]) == (ESTIMATED, LEFT, MISSING)


@pytest.mark.parametrize(
    ("done", "left", "percent"),
    [(0, 0, 100), (5, 0, 100), (0, 5, 0), (1, 1, 50), (999_999, 1, 99), (1, 999_999, 0), (2, 1, 67)],
)
def test_a_hundred_percent_is_where_nothing_is_left(done: int, left: int, percent: int) -> None:
    assert share(done, left) == percent
