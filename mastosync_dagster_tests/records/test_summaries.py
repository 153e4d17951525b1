"""What a run says at its end."""

from __future__ import annotations

import dagster as dg
import pytest

from mastosync_dagster.records.manifest import ManifestLine
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.summaries import (
    FIRST_LINES,
    counts,
    duration_text,
    failure_text,
    first_reasons,
    markdown,
    rates,
    size_text,
    summarize,
)
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.sync.events import check_result


def line(outcome: Outcome, *, reason: Reason | None = None, group: str = "accounts", key: str = "k") -> ManifestLine:
    detail = "said | so\nby the server" if reason else None
    return ManifestLine(group, 1, "avatar/original", key, key, outcome, reason, detail, 100, None, private=False)


COPIED, PRESENT, MISSING = line(Outcome.COPIED), line(Outcome.PRESENT), line(Outcome.MISSING)
FAILED = line(Outcome.FAILED, reason=Reason.TIMEOUT)


def test_every_line_is_counted_once_in_total_and_in_its_group() -> None:
    emoji = line(Outcome.COPIED, group="custom_emojis")
    summary = summarize([[COPIED, COPIED, PRESENT], [MISSING, FAILED, emoji]])
    assert counts(summary.total) == {
        "objects": 6,
        "copied": 3,
        "present": 1,
        "missing": 1,
        "failed": 1,
        "bytes": 300,
    }
    assert counts(summary.groups["custom_emojis"])["objects"] == 1
    assert rates(summary.total, 2.0) == {"objects/s": 1.5, "MB/s": 0.0}


def test_the_list_shows_failed_objects_before_missing_ones_and_says_how_many_are_left_out() -> None:
    missing = [line(Outcome.MISSING, key=f"a/b/c/missing-{number}") for number in range(60)]
    text = markdown(summarize([[*missing, FAILED]]), ["sync it again", *["lost"] * (FIRST_LINES - 1)])
    *listed, rest = text.split("\n\n")
    assert listed[0] == "`k`  \n**failed timeout**, row 1: said \\| so by the server: sync it again"
    assert listed[1] == "`a/b/`  \n`c/missing-0`  \n**missing**, row 1: lost"
    assert len(listed) == FIRST_LINES
    assert rest == ("… and 11 more in the manifest.")


def test_what_others_have_written_begins_nothing_in_tables_and_alerts() -> None:
    hostile = "![x](http://127.0.0.1:3000/graphql)<img src=x>\x1b[2J\r"
    failed = FAILED._replace(key=hostile, detail=hostile)
    summary = summarize([[failed]])
    for text in (markdown(summary, [""]), first_reasons(summary)):
        assert "![" not in text
        assert "<" not in text
        assert not [letter for letter in text if letter != "\n" and not letter.isprintable()]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (20_800_000, "20.8 MB"), (5 * 10**12, "5.0 TB"), (7 * 10**15, "7,000.0 TB")],
)
def test_sizes_are_shown_in_units_that_people_read(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.94, "0.9 s"), (192, "3 min 12 s"), (7500, "2 h 5 min")])
def test_durations_too(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_nothing_wrong_is_said_in_words() -> None:
    assert markdown(summarize([[COPIED]]), []) == "Nothing is missing, nothing failed."


@pytest.mark.parametrize(
    ("lines", "passed", "severity"),
    [
        ([COPIED, PRESENT], True, dg.AssetCheckSeverity.WARN),
        ([COPIED, MISSING], False, dg.AssetCheckSeverity.WARN),
        ([MISSING, FAILED], False, dg.AssetCheckSeverity.ERROR),
        ([], True, dg.AssetCheckSeverity.WARN),
        ([COPIED, line(Outcome.FAILED, reason=Reason.PRIVATE_NOT_COPIED)], False, dg.AssetCheckSeverity.WARN),
    ],
)
def test_the_check_passes_only_when_nothing_is_missing_or_failed(
    lines: list[ManifestLine], *, passed: bool, severity: dg.AssetCheckSeverity
) -> None:
    failed = sum(each.outcome is Outcome.FAILED and each.reason is not Reason.PRIVATE_NOT_COPIED for each in lines)
    result = check_result(summarize([lines]).total, "accounts", failed=failed)
    assert (result.passed, result.severity) == (passed, severity)


def test_a_failed_run_says_how_many_and_why() -> None:
    lines = [COPIED, FAILED, FAILED, line(Outcome.FAILED, reason=Reason.ACCESS_DENIED)]
    text = failure_text(summarize([lines]), None)
    assert "same range" not in text  # the run may be one over whole tables, whose ranges do not exist yet
    assert text.startswith("3 of 4 objects failed (2 timeout, 1 access_denied); 1 were copied and stay")
    assert failure_text(summarize([lines]), "The disk is gone").startswith("The disk is gone. 3 of 4")


def test_a_run_that_left_only_what_is_larger_than_its_limit_promises_nothing() -> None:
    summary = summarize([[COPIED, line(Outcome.FAILED, reason=Reason.NOT_ATTEMPTED)]])
    assert "raise max_gigabytes or max_dollars" in failure_text(summary, None)
    assert "raise" not in failure_text(summary, "The budget is used up")
