"""Workers in containers, as docs/deploy.md has them: killed, paused and cut off in the middle of a backfill."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.containers.deployment import WITH_MASTODON, Deployment, crash, documented
from mastosync_dagster_tests.containers.engine import docker, make_images, unavailable
from mastosync_dagster_tests.containers.instance import NETWORK, Mastodon, mastodon
from mastosync_dagster_tests.machines.farm import ASSET, all_succeeded, slowly
from mastosync_dagster_tests.support.waiting import slowdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.machines, pytest.mark.timeout(5400)]

_ROWS = 1000
_RANGES = int(os.environ.get("RANGES", "60"))
_OF_MEDIA = 0.55
"""The share of the rows that are of the asset."""
_FILES = (*WITH_MASTODON, "deploy/compose.celery.yaml", "deploy/compose.celery.mastodon.yaml")
_EVERY_SECONDS = 15.0
_AWAY_SECONDS = 60.0
_BACKFILL_SECONDS = 3000.0
TERMINATED_SECONDS = 10.0
STANDS_STILL_SECONDS = 20.0


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mastodon]:
    if reason := unavailable():
        pytest.skip(reason)
    make_images("redis")
    with mastodon(
        tmp_path_factory.mktemp("instance"), rows=_ROWS, rows_per_range=int(_ROWS * _OF_MEDIA / _RANGES)
    ) as made:
        yield made


@pytest.fixture(scope="module")
def deployment(instance: Mastodon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(tmp_path_factory.mktemp("mastosync"), instance, _FILES)
    made.unpack()
    settings = made.folder / "deploy" / "celery" / "dagster.yaml"
    text = settings.read_text()
    assert "max_concurrent_runs: 4" in text
    assert "limit: 3" in text
    settings.write_text(
        text.replace("max_concurrent_runs: 4", "max_concurrent_runs: 5").replace("limit: 3", "limit: 4")
    )
    files = [line for line in documented("With Docker") if "docker compose" not in line and ".env" in line]
    workers = [line for line in documented("Many machines") if "deploy/" in line]
    try:
        made.follow([*files, *workers])
        yield made
    finally:
        made.remove()


def ranges(deployment: Deployment) -> list[str]:
    """Return the ID ranges that are registered."""
    listed = deployment.run_documented(
        f"docker compose -f deploy/compose.yaml exec code mastosync ranges --all {ASSET}"
    )
    return [line.split()[0] for line in listed.splitlines() if line.startswith("  ")]


def workers(deployment: Deployment, count: int) -> list[str]:
    """Have so many workers; return their containers."""
    deployment.compose("up", "-d", "--no-recreate", "--scale", f"worker={count}")
    found = deployment.containers("worker")
    assert len(found) == count
    return found


def networks(container: str) -> list[str]:
    names = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"
    return docker("inspect", "--format", names, container).split()


def cut_off(container: str) -> Callable[[], None]:
    """Take a container out of its networks; return what brings it back."""
    left = networks(container)
    assert NETWORK in left
    for network in left:
        docker("network", "disconnect", network, container)

    def back() -> None:
        for network in left:
            docker("network", "connect", network, container)

    return back


def pause(container: str) -> Callable[[], None]:
    """Let a container stand still; return what lets it go on."""
    docker("pause", container)

    def back() -> None:
        docker("unpause", container)

    return back


def harass(containers: list[str], rounds: int, *, first: dict[int, Callable[[str], Callable[[], None]]]) -> None:
    """Kill a random container every quarter of a minute.

    Args:
        containers: Workers.
        rounds: How many times.
        first: What is done to the first one in which rounds, for a minute; another one is killed then.
    """
    chosen, back, until = random.Random(1), None, 0.0
    for number in range(rounds):
        time.sleep(_EVERY_SECONDS)
        if back is not None and time.monotonic() >= until:
            back()
            back = None
        if number in first:
            assert back is None
            back, until = first[number](containers[0]), time.monotonic() + _AWAY_SECONDS - 1
        crash(chosen.choice(containers[1:] if back is not None else containers))
    if back is not None:
        time.sleep(max(0.0, until - time.monotonic()))
        back()


def test_whatever_becomes_of_workers_and_broker_every_range_materializes(
    deployment: Deployment, report: Callable[[object], None]
) -> None:
    partitions = ranges(deployment)
    assert len(partitions) >= _RANGES
    begun = time.monotonic()
    two = workers(deployment, 2)
    backfill = deployment.webserver.launch_backfill(ASSET, partitions, slowly(4))
    deployment.wait_for_runs(backfill, lambda _: deployment.mastodon.copied > 5)
    harass(two, 11, first={0: pause, 5: cut_off})
    deployment.crash("redis")
    harass(workers(deployment, 4), 8, first={})
    runs = deployment.wait_for_runs(backfill, lambda runs: all_succeeded(runs, partitions), _BACKFILL_SECONDS)
    ended = Counter(run.status for run in runs)
    report(f"{len(partitions)} ID ranges in {time.monotonic() - begun:.0f} s, 19 kills: {dict(ended)}")
    assert ended.keys() <= {"SUCCESS", "FAILURE"}
    assert ended["FAILURE"] > 0
    assert ended["SUCCESS"] == len(partitions)
    compared = deployment.mastodon.compare(ASSET)
    assert compared.differences == ()
    assert compared.equal > 100


def test_terminate_stops_a_copy_and_starts_nothing_again(
    deployment: Deployment, report: Callable[[object], None]
) -> None:
    deployment.mastodon.empty_destination()
    registered = ranges(deployment)
    # One in the middle is full, and so slow a run outlasts the click however small a range is.
    partition = registered[len(registered) // 2]
    backfill = deployment.webserver.launch_backfill(ASSET, [partition], slowly(0.2))
    (run,) = deployment.wait_for_runs(backfill, lambda _: deployment.mastodon.copied > 1)
    allowed, clicked = TERMINATED_SECONDS * slowdown(), time.monotonic()
    deployment.webserver.terminate(run.run_id)
    deployment.wait_for_runs(backfill, lambda runs: runs[0].status == "CANCELED", allowed)
    took, copied = time.monotonic() - clicked, deployment.mastodon.copied
    report(f"Terminate: canceled after {took:.1f} s ({allowed:.0f} s were allowed)")
    time.sleep(STANDS_STILL_SECONDS)
    assert deployment.mastodon.copied == copied
    assert len(deployment.webserver.runs_of_backfill(backfill)) == 1
