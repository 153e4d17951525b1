"""What the history of runs says against a switch."""

from __future__ import annotations

import pytest

from mastosync_dagster.cutover.progress import TableProgress
from mastosync_dagster.records.doubts import Doubt


@pytest.mark.parametrize(
    ("progress", "says"),
    [
        (TableProgress("accounts"), None),  # an empty table
        (TableProgress("accounts", left=3), "nothing has been copied"),
        (TableProgress("accounts", left=3, every_row=True), None),
        (TableProgress("accounts", ranges=4), None),
        (TableProgress("accounts", ranges=4, not_run=1), "1 have not run"),
        (TableProgress("accounts", ranges=4, failed=2, not_run=1), "2 have failed"),
        (TableProgress("accounts", ranges=4, running=1), "1 are running"),
        (TableProgress("accounts", ranges=4, not_run=4, every_row=True), None),
        (TableProgress("accounts", ranges=4, running=1, every_row=True), "1 are running"),
        (TableProgress("accounts", every_row=True, restored=True), "restored from a backup"),
    ],
)
def test_ranges_that_lack_something_are_named(progress: TableProgress, says: str | None) -> None:
    problem = progress.ranges_problem()
    assert (problem is None) is (says is None)
    assert (says or "") in (problem or "")


def test_missing_objects_are_no_failed_ones() -> None:
    assert TableProgress("accounts", in_doubt={Doubt.MISSING: 2}).doubts_problem() is None
    assert "2 have failed" in (TableProgress("accounts", in_doubt={Doubt.FAILED: 2}).doubts_problem() or "")


def test_private_objects_that_wait_for_a_decision_are_failed_ones() -> None:
    problem = TableProgress("accounts", in_doubt={Doubt.SKIPPED: 2, Doubt.MISSING: 1}).doubts_problem() or ""
    assert "2 are private and were not copied" in problem
    assert "MASTOSYNC_COPY_PRIVATE" in problem
    assert "not at the source" not in problem
