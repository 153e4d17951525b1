"""What a copy does where a storage falls silent: the table of docs/reliability.md."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.silence.site import Site, make_site, with_destination
from mastosync_dagster_tests.support.network import Line
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster_tests.silence.site import Running

FAR = Line(delay=0.1, loss=0.02)
SYNC = ("mastosync", "sync", "accounts", "custom_emojis", "preview_cards", "--concurrency", "2")
HOSTS = {"s3a": "source", "s3b": "destination"}

pytestmark = [pytest.mark.silence, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def far_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The same instance behind a line of 200 ms that loses two packets of a hundred: a copy takes half a minute."""
    with make_site(tmp_path_factory.mktemp("far"), FAR) as made:
        yield made


def begin_copy(site: Site, home: str) -> tuple[Site, Running]:
    """Begin a copy to an empty destination, and wait until some objects have arrived."""
    fresh = with_destination(site)
    running = fresh.start(*SYNC, home=home)
    wait_until(lambda: fresh.copied() >= 3, 90)
    return fresh, running


def expected(site: Site) -> int:
    """Return how many objects a whole copy brings."""
    return len(site.instance.objects_of("accounts", "custom_emojis", "preview_cards"))


@pytest.mark.parametrize("host", HOSTS)
def test_half_a_minute_of_silence_costs_no_object(far_site: Site, host: str) -> None:
    fresh, running = begin_copy(far_site, f"half-{host}")
    with fresh.network.silent(host):
        time.sleep(30)
    ended = running.end()
    assert ended.status == 0, ended.output
    assert fresh.copied() == expected(fresh)
    assert ended.seconds < 120
    assert ended.output.count("has fallen silent") == 1, ended.output
    assert ended.output.count("answers again") == 1, ended.output


@pytest.mark.parametrize("host", HOSTS)
def test_ten_minutes_of_silence_end_the_run_within_two(far_site: Site, host: str) -> None:
    fresh, running = begin_copy(far_site, f"ten-{host}")
    with fresh.network.silent(host):
        ended = running.end(140)
    assert ended.status == 1, ended.output
    assert "fell silent" in ended.output
    assert fresh.network.address(host) in ended.output


@pytest.mark.parametrize("host", HOSTS)
def test_a_storage_that_never_answers_is_named_soon(site: Site, host: str) -> None:
    with site.network.silent(host):
        running = site.start(*SYNC, home=f"never-{host}")
        ended = running.end(90)
    assert ended.status == 1, ended.output
    assert f"the {HOSTS[host]} cannot be reached" in ended.output, ended.output
    assert ended.seconds < 60, ended.output
