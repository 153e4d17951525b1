"""The night, as a real dagster-daemon does it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.installation.processes import running
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.watermarks import NIGHT, range_reads

if TYPE_CHECKING:
    from collections.abc import Callable

    from mastosync_dagster_tests.support.life import Life

pytestmark = pytest.mark.long

ACCOUNTS = FileType.ACCOUNTS
SECONDS = 240.0
FINISHED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}


def wait_for(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
        time.sleep(0.25)


@pytest.mark.timeout(SECONDS + 120)
def test_the_night_happens(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    life.copy_everything()
    living, dagster = life.living, life.world.dagster
    before = set(dagster.get_dynamic_partitions("accounts_ids"))
    life.set_rows_per_partition(3)
    for _ in range(4):
        living.sign_up()
    living.post_picture()
    living.add_emoji()
    monkeypatch.setenv("MASTOSYNC_NIGHTLY_CRON", "* * * * *")  # every minute is a night
    home = Path(life.world.environment["DAGSTER_HOME"])
    switched_on = life.world.command("dagster", "schedule", "start", "nightly_incremental", "-m", "mastosync_dagster")
    assert switched_on.returncode == 0, switched_on.stderr

    def ranges() -> set[str]:
        return set(dagster.get_dynamic_partitions("accounts_ids")) - before

    def night() -> list[dg.DagsterRun]:
        return list(dagster.get_runs(dg.RunsFilter(tags={NIGHT: ["changes", "range"]})))

    def is_over() -> bool:
        reads = range_reads(dagster, ACCOUNTS, S3Bucket.destination().settings().identity)
        ended = [run for run in night() if run.job_name == "sync_changes" and run.status in FINISHED]
        return bool(ended) and bool(ranges()) and ranges() <= reads.keys()

    log = home / "daemon.log"
    command = [str(Path(sys.executable).with_name("dagster-daemon")), "run", "-m", "mastosync_dagster"]
    with running(command, log=log, cwd=home, env={**os.environ, "DAGSTER_HOME": str(home)}):
        wait_for(is_over, log)

    runs = [run for run in night() if run.status in FINISHED]
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    (first,) = [run for run in runs if run.job_name == "sync_changes"][-1:]
    assert first.tags["dagster/schedule_name"] == "nightly_incremental"
    assert life.differences() == []
    assert life.copied_too_often() == {}
