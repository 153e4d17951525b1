"""The table of what becomes of an object that source and destination have with different bytes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from mastosync_dagster.plan.decisions import (
    Action,
    Decision,
    Difference,
    Record,
    Row,
    StoredBody,
    decide,
)

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
DAY = 24 * HOUR
NIGHT = datetime(2026, 3, 1, 3, 0, tzinfo=timezone.utc)
"""The run that has recorded the object."""
NOW = NIGHT + DAY

RAW, OTHER, THIRD = (100, "a" * 32), (200, "b" * 32), (300, "c" * 32)
FLIPPED = (100, "d" * 32)
"""As long as the first one."""
RECORDED = Record(*RAW, read_at=NIGHT, read_until=NIGHT + MINUTE, begun=NIGHT)
OLD = {"written": NIGHT - DAY, "changed": NIGHT - DAY}
"""A row that has not changed since."""
SINCE = {"written": NIGHT + HOUR, "changed": NIGHT + HOUR, "rewritten": True}
"""A video that was converted since."""
UNFINISHED = {"size": 100, **SINCE, "unfinished": True}
"""One whose conversion has not ended, as long as it was recorded."""


def body(content: tuple[int, str | None], at: datetime | None) -> StoredBody:
    return StoredBody(*content, at)


def difference(source: StoredBody, destination: StoredBody, row: dict[str, Any], **fields: Any) -> Difference:
    fields = {"record": RECORDED, "now": NOW, "beginning": False, **fields}
    return Difference(source, destination, Row(**row), **fields)


UPLOADED, COPIED = NIGHT - DAY, NIGHT + MINUTE
SOURCE, DESTINATION = body(RAW, UPLOADED), body(RAW, COPIED)


@pytest.mark.parametrize(
    ("expected", "source", "destination", "row", "fields"),
    [
        # --- the row's size ---
        pytest.param(
            Decision.AS_THE_ROW_SAYS,
            SOURCE,
            body(OTHER, NOW),
            {"size": 200},
            {"record": None},
            id="destination fits",
        ),
        pytest.param(
            Decision.AS_THE_ROW_SAYS,
            SOURCE,
            body(OTHER, UPLOADED - DAY),
            {"size": 200},
            {"record": None},
            id="destination fits, though it is older",
        ),
        pytest.param(
            Decision.WRITTEN_THERE,
            SOURCE,
            body(OTHER, NIGHT + HOUR),
            {"size": 200, **SINCE},
            {},
            id="a video was converted at the destination, and its row says how long it is now",
        ),
        pytest.param(
            Decision.SOURCE_CHANGED,
            body(OTHER, UPLOADED),
            DESTINATION,
            {"size": 100, **OLD},
            {},
            id="the source's was cut or changed, the destination's is as it was copied",
        ),
        pytest.param(
            Decision.DAMAGED, SOURCE, body((7, None), NOW), {"size": 100, **OLD}, {}, id="destination is cut short"
        ),
        pytest.param(
            Decision.DAMAGED,
            SOURCE,
            body((7, None), NOW),
            {"size": 100, **OLD},
            {"record": None},
            id="cut short by a run that was killed before its manifest",
        ),
        pytest.param(
            Decision.DAMAGED,
            body(OTHER, NIGHT + HOUR),
            DESTINATION,
            {"size": 200, **SINCE},
            {},
            id="a video was converted at the source",
        ),
        # --- the row's size, while its conversion has not ended ---
        pytest.param(
            *(Decision.MAYBE_CONVERTED, SOURCE, body(OTHER, NOW - MINUTE), UNFINISHED, {}),
            id="converted at the destination, and the row does not say so yet",
        ),
        pytest.param(
            *(Decision.MAYBE_CONVERTED, SOURCE, body(OTHER, None), UNFINISHED, {}),
            id="the same, and nobody knows when",
        ),
        pytest.param(
            *(Decision.DAMAGED, SOURCE, body(OTHER, NOW - 2 * HOUR), UNFINISHED, {}),
            id="a conversion that has failed ends nothing: the destination's is damaged",
        ),
        pytest.param(
            *(Decision.MAYBE_CONVERTED, SOURCE, body(FLIPPED, NOW - MINUTE), UNFINISHED, {}),
            id="as long as the row says",
        ),
        pytest.param(
            *(Decision.DAMAGED, SOURCE, body(FLIPPED, NOW - 2 * HOUR), UNFINISHED, {}),
            id="as long as the row says, and no conversion was noted for hours",
        ),
        pytest.param(
            *(Decision.SOURCE_CHANGED, body(FLIPPED, NOW - HOUR), DESTINATION, UNFINISHED, {}),
            id="it rots at the source before its conversion has ended",
        ),
        pytest.param(
            *(Decision.WRITTEN_THERE, body(FLIPPED, UPLOADED), body((100, "e" * 32), NOW - 2 * HOUR), UNFINISHED, {}),
            id="as long as the row says, and neither has the recorded bytes",
        ),
        # --- the record, and a row that has not changed since ---
        pytest.param(Decision.SOURCE_CHANGED, body(FLIPPED, UPLOADED), DESTINATION, OLD, {}, id="rot at the source"),
        pytest.param(
            Decision.SOURCE_CHANGED,
            body(THIRD, NOW),
            DESTINATION,
            OLD,
            {},
            id="replaced at the source by hand, and no row says so",
        ),
        pytest.param(
            Decision.SOURCE_CHANGED,
            body(FLIPPED, UPLOADED),
            DESTINATION,
            {"size": 100, **OLD},
            {},
            id="rot at the source, as long as the row says",
        ),
        pytest.param(Decision.SOURCE_CHANGED, body(FLIPPED, UPLOADED), DESTINATION, {}, {}, id="a row without times"),
        pytest.param(
            Decision.SOURCE_CHANGED,
            body(FLIPPED, UPLOADED),
            DESTINATION,
            {"written": NIGHT + 5 * MINUTE, "changed": NIGHT + 5 * MINUTE},
            {},
            id="a row whose clock is a little ahead",
        ),
        pytest.param(Decision.DAMAGED, SOURCE, body(FLIPPED, COPIED), OLD, {}, id="rot at the destination"),
        pytest.param(Decision.DAMAGED, SOURCE, body(FLIPPED, NOW), OLD, {}, id="overwritten at the destination"),
        pytest.param(
            Decision.BOTH_CHANGED, body(OTHER, UPLOADED), body(FLIPPED, COPIED), OLD, {}, id="both have changed"
        ),
        pytest.param(
            Decision.SOURCE_CHANGED,
            body((100, None), UPLOADED)._replace(size=90),
            body((100, None), COPIED),
            OLD,
            {},
            id="where MD5s are not known, lengths tell",
        ),
        # --- the record, and a row that may have changed since ---
        pytest.param(
            Decision.OLDER, body(OTHER, NIGHT + HOUR), DESTINATION, SINCE, {}, id="converted at the source, no size"
        ),
        pytest.param(
            Decision.OLDER,
            body(OTHER, NIGHT + HOUR),
            DESTINATION,
            {"written": NIGHT + HOUR, "changed": NIGHT + HOUR},
            {},
            id="a picture that was made again in place",
        ),
        pytest.param(
            Decision.SOURCE_CHANGED,
            body(FLIPPED, UPLOADED),
            DESTINATION,
            {**SINCE, "written": NIGHT - DAY},
            {},
            id="rot at the source of a video whose description was edited since",
        ),
        pytest.param(
            Decision.WRITTEN_THERE, SOURCE, body(OTHER, NIGHT + HOUR), SINCE, {}, id="converted at the destination"
        ),
        pytest.param(
            Decision.WRITTEN_THERE,
            SOURCE,
            body(OTHER, NIGHT + 2 * MINUTE),
            {**SINCE, "written": NIGHT - MINUTE, "changed": NIGHT + 2 * MINUTE},
            {},
            id="its conversion began before the run and ended after it",
        ),
        pytest.param(
            Decision.WRITTEN_THERE,
            SOURCE,
            body(OTHER, NIGHT + MINUTE),
            {**SINCE, "unfinished": True, "changed": NIGHT - DAY},
            {},
            id="its conversion has not ended",
        ),
        pytest.param(
            Decision.WRITTEN_THERE,
            SOURCE,
            body(OTHER, NIGHT + HOUR),
            {"rewritten": True},
            {},
            id="a video whose row has no times",
        ),
        pytest.param(
            Decision.DAMAGED,
            SOURCE,
            body(FLIPPED, NIGHT - HOUR),
            SINCE,
            {},
            id="rot at the destination of what was there before the run",
        ),
        pytest.param(
            Decision.OLDER,
            body(OTHER, NIGHT + HOUR),
            body(THIRD, COPIED),
            SINCE,
            {},
            id="converted at the source, and the destination's is neither",
        ),
        pytest.param(
            Decision.WRITTEN_THERE,
            body(FLIPPED, UPLOADED),
            body(OTHER, NIGHT + HOUR),
            SINCE,
            {},
            id="converted at the destination, and rot at the source",
        ),
        # --- one is the beginning of the other ---
        pytest.param(
            Decision.COMPARE_BODIES,
            SOURCE,
            body((50, None), NOW),
            {},
            {"record": None, "beginning": None},
            id="compare the bodies",
        ),
        pytest.param(
            Decision.DAMAGED, SOURCE, body((50, None), NOW), {}, {"record": None, "beginning": True}, id="cut there"
        ),
        pytest.param(
            Decision.DAMAGED,
            SOURCE,
            body((0, None), NOW),
            SINCE,
            {"beginning": None},
            id="emptied there: no comparison is needed",
        ),
        pytest.param(
            Decision.SOURCE_CUT,
            body((50, None), NOW),
            DESTINATION,
            {},
            {"record": None, "beginning": True},
            id="cut at the source, though it was written later",
        ),
        pytest.param(
            Decision.SOURCE_CUT, body((0, None), NOW), DESTINATION, SINCE, {"beginning": None}, id="emptied here"
        ),
        # --- nothing was recorded ---
        pytest.param(
            Decision.OLDER, body(OTHER, NIGHT), body(RAW, NIGHT - HOUR), {}, {"record": None}, id="older there"
        ),
        pytest.param(
            Decision.WRITTEN_THERE,
            SOURCE,
            body(OTHER, NIGHT + HOUR),
            SINCE,
            {"record": None},
            id="the row speaks of a file that only the destination can have",
        ),
        pytest.param(
            Decision.UNDECIDED,
            SOURCE,
            body(FLIPPED, COPIED),
            OLD,
            {"record": None},
            id="the newer one is unknown",
        ),
        pytest.param(
            Decision.UNDECIDED,
            SOURCE,
            body(FLIPPED, UPLOADED + MINUTE),
            OLD,
            {"record": None},
            id="both as old: clocks differ",
        ),
        pytest.param(
            Decision.UNDECIDED,
            body(RAW, None),
            body(FLIPPED, None),
            OLD,
            {"record": None},
            id="no time is known of either",
        ),
        pytest.param(
            Decision.UNDECIDED,
            SOURCE,
            body(FLIPPED, COPIED),
            {"size": 100, **OLD},
            {},
            id="the record has no MD5 and tells nothing",
        ),
        # --- who knows better ---
        pytest.param(
            Decision.WANTED, SOURCE, body(OTHER, NOW), {"size": 200}, {"overwrite": True}, id="an admin wants it"
        ),
        pytest.param(
            Decision.ROW_CHANGED, SOURCE, body(OTHER, NOW), {"not_found": True}, {}, id="its row is not found"
        ),
    ],
)
def test_what_becomes_of_an_object_whose_bytes_differ(
    expected: Decision, source: StoredBody, destination: StoredBody, row: dict[str, Any], fields: dict[str, Any]
) -> None:
    made = difference(source, destination, row, **fields)
    if expected is Decision.UNDECIDED and made.record is not None:
        made = replace(made, record=replace(RECORDED, md5=None))
    assert decide(made) is expected


@pytest.mark.parametrize("size", [None, 100, 200])
@pytest.mark.parametrize("unfinished", [False, True])
@pytest.mark.parametrize("beginning", [False, True])
@pytest.mark.parametrize("changed", [None, NIGHT - DAY, NIGHT, NOW])
def test_without_a_record_nothing_newer_is_overwritten_unless_it_is_shown_to_be_damaged(
    size: int | None,
    changed: datetime | None,
    *,
    unfinished: bool,
    beginning: bool,
) -> None:
    row = {"size": size, "written": changed, "changed": changed, "rewritten": True, "unfinished": unfinished}
    for there in (OTHER, FLIPPED, (50, None)):
        newer = body(there, NOW - MINUTE)
        decision = decide(difference(SOURCE, newer, row, record=None, beginning=beginning))
        shown = there[0] != 100 and size == 100 and not unfinished
        shown = (
            shown or (there[0] < 100 and beginning and size is None) or (there[0] < 100 and beginning and size == 200)
        )
        assert (decision.action is Action.COPY) is (shown), (there, decision)
