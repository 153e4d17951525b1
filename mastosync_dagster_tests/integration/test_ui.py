"""A real webserver and daemon: a backfill as the UI launches it, and a run that the UI terminates."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.demo.dagster_processes import dagster_ui
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.graphql import Run, Webserver
from mastosync_dagster_tests.support.proxy import Delay, Kind, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mastosync_dagster_tests.support.installation import Installation

pytestmark = pytest.mark.long

FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}


@pytest.fixture
def webserver(world: Installation) -> Iterator[Webserver]:
    home = Path(world.dagster.root_directory)

    with dagster_ui(home, {**os.environ, **world.environment}, home / "ui.log") as ui:
        yield Webserver(ui.url)


def wait_for(seen: Callable[[], list[Run]], enough: Callable[[list[Run]], bool], seconds: float = 90) -> list[Run]:
    """Ask again until there is enough to see."""
    deadline = time.monotonic() + seconds
    while True:
        runs = seen()
        if enough(runs):
            return runs
        assert time.monotonic() < deadline, runs
        time.sleep(0.1)


@pytest.mark.long(cases=0)
def test_a_backfill_of_the_ui_runs_every_partition_with_its_own_config(
    world: Installation, webserver: Webserver
) -> None:
    keys = world.register(FileType.CUSTOM_EMOJIS)[FileType.CUSTOM_EMOJIS]
    # What the dialog's Config section holds: here another bucket, so it shows that the override reaches the runs.
    world.destination.client.create_bucket(Bucket="another-bucket")
    config = {"resources": {"destination": {"config": {"bucket": "another-bucket"}}}}

    backfill = webserver.launch_backfill("custom_emojis", keys, config)
    runs = wait_for(
        lambda: webserver.runs_of_backfill(backfill),
        lambda runs: len(runs) == len(keys) and all(run.status in FINISHED for run in runs),
    )

    assert {(run.partition, run.status) for run in runs} == {(key, "SUCCESS") for key in keys}
    listed = world.destination.client.list_objects_v2(Bucket="another-bucket")
    assert {entry["Key"] for entry in listed["Contents"]} == {
        each.key for each in world.instance.objects_of("custom_emojis")
    }


def test_terminate_stops_within_two_seconds_and_leaves_no_upload_behind(
    world: Installation, webserver: Webserver
) -> None:
    keys = world.register(FileType.MEDIA_ATTACHMENTS)[FileType.MEDIA_ATTACHMENTS]
    seconds = 0.5
    world.source_proxy.set_rules(Rule(Delay(seconds), kinds=frozenset({Kind.GET})))
    backfill = webserver.launch_backfill(
        "media_attachments",
        keys[:1],
        {"ops": {"media_attachments": {"ops": {"copy": {"config": {"concurrency": 2}}}}}},
    )
    (run,) = wait_for(
        lambda: webserver.runs_of_backfill(backfill),
        lambda runs: bool(runs) and world.destination_proxy.count(Kind.PUT) > 0,
    )

    asked = time.monotonic()
    webserver.terminate(run.run_id)
    (run,) = wait_for(lambda: webserver.runs_of_backfill(backfill), lambda runs: runs[0].status in FINISHED)
    took = time.monotonic() - asked

    assert run.status == "CANCELED"
    assert took < seconds + 2
    proxy = world.destination_proxy
    assert proxy.count(Kind.CREATE_UPLOAD) == proxy.count(Kind.COMPLETE_UPLOAD) + proxy.count(Kind.ABORT_UPLOAD)
    # What was done is on record, and what was not is done by a further run.
    world.source_proxy.set_rules()
    assert world.run("sync_media_attachments", keys[0]).success
