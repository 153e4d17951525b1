"""Progress lines: one every so many seconds, whatever the speed."""

from __future__ import annotations

import logging

import dagster as dg
import pytest

from mastosync_dagster.copy.stats import CopyProgress
from mastosync_dagster.plan.planner import PlanCounts
from mastosync_dagster.runs.progress import LineProgress, LogProgress, duration_text


class Clock:
    """Seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_is_logged_every_so_many_seconds_and_says_where_the_run_is(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    logger = logging.getLogger("mastosync-test-progress")
    caplog.set_level(logging.INFO)
    log = dg.DagsterLogManager.create(loggers=[logger])
    with LogProgress(every=10.0, clock=clock).watch(log) as watcher:
        for second in range(25):
            clock.now = 100.0 + second
            watcher.planned(PlanCounts(rows=second, objects=2_000 * second, to_copy=second))
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "system - planned 10 rows, 20,000 objects: 10 to copy, 0 present, 0 missing",
        "system - planned 20 rows, 40,000 objects: 20 to copy, 0 present, 0 missing",
    ]


def progress(copied: int) -> CopyProgress:
    """How far a copy of 1,000 objects is after some of them."""
    return CopyProgress(
        total=1_000,
        total_bytes=5_000_000,
        copied=copied,
        present=0,
        missing=0,
        failed=0,
        bytes=copied * 5_000,
        seconds=1,
        objects_per_second=5,
        bytes_per_second=25_000,
        source_window=4,
        destination_window=4,
    )


def test_without_a_terminal_there_is_a_line_every_half_minute_with_the_time_left() -> None:
    clock, lines = Clock(), list[str]()
    log = dg.DagsterLogManager.create(loggers=[])
    with LineProgress(lines.append, clock=clock).watch(log) as watcher:
        for second in range(65):
            clock.now = 100.0 + second
            watcher.copied(progress(second * 5))
    assert lines == [
        "150 of 1,000 objects, 1 MB; 5 objects/s, 0.0 MB/s; 0 failed; about 3 min left",
        "300 of 1,000 objects, 2 MB; 5 objects/s, 0.0 MB/s; 0 failed; about 2 min left",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3_569, "59 min"), (3_590, "1 h 0 min"), (12_000, "3 h 20 min")]
    + [(float("inf"), "more than a century")],
)
def test_a_duration_in_words(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
