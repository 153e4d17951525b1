"""Progress lines: one every so many seconds, whatever the speed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.plan.planner import PlanCounts
from mastosync_dagster.runs.progress import LogProgress

if TYPE_CHECKING:
    import pytest


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
