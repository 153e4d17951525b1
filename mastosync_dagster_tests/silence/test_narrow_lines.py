"""A line that is slow is not taken for one that is silent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.silence.site import SYNC, make_site
from mastosync_dagster_tests.support.network import Line
from mastosync_dagster_tests.support.waiting import slowdown

if TYPE_CHECKING:
    from pathlib import Path

NARROW = Line(delay=0.01, rate=125_000, queue=1.0)
"""1 Mbit/s, either way."""
LARGE_BYTES = 50_000_000
"""More than is held in memory: it is read while it is written."""

pytestmark = [pytest.mark.silence, pytest.mark.timeout(900)]


def test_a_narrow_line_is_not_taken_for_a_silent_one(tmp_path: Path) -> None:
    """A large object among some hundred small ones, with 64 requests in flight, over 1 Mbit/s."""
    with make_site(tmp_path, NARROW) as narrow:
        large = next(each for each in narrow.instance.objects_of("accounts") if not each.private)
        with narrow.network.inside("s3a"):
            narrow.source.client.put_object(
                Bucket=narrow.source.name, Key=large.source_key, Body=bytes(LARGE_BYTES), ContentType=large.content_type
            )
        ended = narrow.start(*SYNC, "--concurrency", "64", home="narrow").end(800)
        assert ended.status == 0, ended.output
        assert narrow.copied() == narrow.expected
        assert "silent" not in ended.output
        assert "time" not in ended.output
        # Both ways at once, and no byte of it twice.
        assert ended.seconds > LARGE_BYTES / 125_000
        assert ended.seconds < 1.4 * LARGE_BYTES / 125_000 * slowdown()
