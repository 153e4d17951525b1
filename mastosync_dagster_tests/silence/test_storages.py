"""What a copy does where a storage falls silent: the table of docs/reliability.md."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.summaries import COUNTERS, with_counters
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.silence.site import SLOWLY, SYNC, Ended, Site, make_site
from mastosync_dagster_tests.support.network import Line
from mastosync_dagster_tests.support.waiting import slowdown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FAR = Line(delay=0.1, loss=0.02)
CONCURRENCY = 2
COMMAND = (*SYNC, "--concurrency", str(CONCURRENCY))
HOSTS = {"s3a": "source", "s3b": "destination"}
SECONDS = 2.0
SAID_SECONDS = 30.0
"""Within so many a command has begun, and said that a storage is waited for."""
SILENT_SECONDS = 30
LONGER_SECONDS = 45.0
"""How much longer a copy takes at most for half a minute of silence."""
NEVER_SAID_SECONDS = 15.0
BEGUN_SECONDS = 8.0

pytestmark = [pytest.mark.silence, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def far_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The same instance behind a line of 200 ms that loses two packets of a hundred: a copy takes half a minute."""
    with make_site(tmp_path_factory.mktemp("far"), FAR) as made:
        yield made


@pytest.fixture(scope="module")
def usual_copy(far_site: Site) -> tuple[Site, Ended]:
    """A copy that nothing disturbs."""
    fresh, running = far_site.begin_copy(*COMMAND, home="far")
    return fresh, running.end()


def newest_counters(home: Path) -> Mapping[str, int]:
    """Return the counters of the newest run in a home."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs(limit=1)
        outputs = [
            entry.get_dagster_event().step_output_data.metadata
            for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_OUTPUT)
        ]
    (found,) = [
        with_counters({name: value.value for name, value in metadata.items()})
        for metadata in outputs
        if COUNTERS in metadata
    ]
    return {name: value for name, value in found.items() if isinstance(value, int)}


@pytest.mark.parametrize("host", HOSTS)
def test_half_a_minute_of_silence_costs_no_object(far_site: Site, usual_copy: tuple[Site, Ended], host: str) -> None:
    fresh, running = far_site.begin_copy(*COMMAND, home=f"half-{host}")
    with fresh.network.silent(host):
        time.sleep(SILENT_SECONDS)
    ended = running.end()
    assert ended.status == 0, ended.output
    assert fresh.copied() == fresh.expected
    usual = usual_copy[1].seconds * slowdown()
    assert SILENT_SECONDS + ended.seconds < usual + LONGER_SECONDS, (usual, ended)
    assert ended.output.count("has fallen silent") == 1, ended.output
    assert ended.output.count("answers again") == 1, ended.output


def test_a_far_and_lossy_line_costs_no_second_request(far_site: Site, usual_copy: tuple[Site, Ended]) -> None:
    fresh, ended = usual_copy
    assert ended.status == 0, ended.output
    assert fresh.copied() == fresh.expected
    counters = newest_counters(far_site.home("far"))
    again = {name: count for name, count in counters.items() if name.endswith("_retries") or name == "hedged"}
    assert set(again.values()) == {0}, again


@pytest.mark.parametrize("host", HOSTS)
def test_ten_minutes_of_silence_end_the_run_within_two(far_site: Site, host: str) -> None:
    fresh, running = far_site.begin_copy(*COMMAND, home=f"ten-{host}")
    with fresh.network.silent(host):
        ended = running.end(120 * slowdown())
    assert ended.status == 1, ended.output
    assert "fell silent" in ended.output
    assert fresh.network.address(host) in ended.output
    lines = fresh.manifest(f"ten-{host}")
    there = [line for line in lines if line.outcome is not Outcome.MISSING]
    assert len({line.key for line in there}) == len(there) == fresh.expected
    assert sum(line.outcome is Outcome.COPIED for line in there) <= fresh.copied()
    left = [line.reason for line in there if line.outcome is not Outcome.COPIED]
    assert left.count(Reason.NOT_ATTEMPTED) >= len(left) - CONCURRENCY, left


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("seconds", [1, 6])
def test_ctrl_c_ends_a_silent_copy_within_two_seconds(site: Site, host: str, seconds: int) -> None:
    """Right after the storage has fallen silent, and when that is known."""
    fresh, running = site.begin_copy(*COMMAND, home=f"ctrl-c-{host}-{seconds}", **SLOWLY)
    with fresh.network.silent(host):
        time.sleep(seconds)
        before = slowdown()
        ended = running.signal(signal.SIGINT, 60)
        most = SECONDS * max(before, slowdown())
    assert ended.status == 128 + signal.SIGINT, ended.output
    said = re.search(r"([0-9,]+) of [0-9,]+ objects are copied and stay", ended.output)
    assert said, ended.output
    # What has arrived, and the answer has not, is there too.
    assert 0 <= fresh.copied() - int(said[1]) <= CONCURRENCY, (fresh.copied(), ended.output)
    assert ended.seconds < most, (most, ended)


def test_ctrl_c_ends_a_silent_listing_within_two_seconds(site: Site) -> None:
    """What is asked gets through, and the answer does not."""
    with site.network.silent("s3a", "-m", "length", "--length", "1001:65535"):
        running = site.start(*COMMAND, home="ctrl-c-listing")
        said = running.wait_for("has not answered")
        assert time.monotonic() - running.started < SAID_SECONDS * slowdown()
        before = slowdown()
        ended = running.signal(signal.SIGINT, 60)
        most = SECONDS * max(before, slowdown())
    assert site.network.address("s3a") in said
    assert ended.status == 128 + signal.SIGINT, ended.output
    assert ended.seconds < most, (most, ended)


def test_check_takes_ten_seconds_for_a_line_of_a_storage_that_never_answers(site: Site) -> None:
    usual = site.run("mastosync", "check", home="never-check")
    with site.network.silent("s3a"):
        ended = site.run("mastosync", "check", home="never-check")
    assert ended.status == 1
    failed = [line for line in ended.output.splitlines() if line.startswith("failed")]
    assert failed, ended.output
    assert all(site.network.address("s3a") in line for line in failed), ended.output
    assert ended.seconds < usual.seconds + 10 * len(failed) * slowdown(), (usual, ended)


@pytest.mark.parametrize("host", HOSTS)
def test_a_storage_that_never_answers_is_named_soon(site: Site, host: str) -> None:
    with site.network.silent(host):
        running = site.start(*COMMAND, home=f"never-{host}")
        said = running.wait_for(site.network.address(host))
        said_after = time.monotonic() - running.started
        ended = running.end(90)
        slow = slowdown()
    assert said_after < (NEVER_SAID_SECONDS + BEGUN_SECONDS) * slow, said
    ended.output = said + ended.output
    assert ended.status == 1, ended.output
    address = re.escape(site.network.address(host))
    assert re.search(rf"the {HOSTS[host]} \({address}:\d+\) cannot be reached", ended.output), ended.output
    assert said_after + ended.seconds < 60 * slow, ended.output
