"""Dagster's own processes die: a run that died with them becomes a failure, and is started once more."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from mastosync_dagster.demo.comparison import compare
from mastosync_dagster.demo.dagster_processes import Ui, dagster_ui
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.faults.world import VIDEO_MIB
from mastosync_dagster_tests.support.graphql import Webserver
from mastosync_dagster_tests.support.proxy import Delay, Kind, Rule
from mastosync_dagster_tests.support.run_processes import holder_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import dagster as dg

    from mastosync_dagster_tests.faults.world import FaultyInstallation, Original

pytestmark = pytest.mark.timeout(300)

_PROJECT = Path(__file__).parents[2]
PARTITION = "1-9223372036854775807"
RETRIES = "EVENT_LOG_CONSUMER_CURSOR-PIPELINE_FAILURE"
SMALL, LARGE = "custom_emojis", "media_attachments"
"""File types without and with an object that goes in parts."""
SLOW = Rule(Delay(0.5), kinds=frozenset({Kind.GET}))
SLOW_PARTS = Rule(Delay(2), kinds=frozenset({Kind.UPLOAD_PART}))


@pytest.fixture
def world(some: Original, make_world: Callable[[Original], FaultyInstallation], tmp_path: Path) -> FaultyInstallation:
    made = make_world(some)
    settings = (_PROJECT / "dagster.yaml").read_text()
    (tmp_path / "dagster.yaml").write_text(re.sub(r"poll_interval_seconds: \d+", "poll_interval_seconds: 2", settings))
    for asset in (SMALL, LARGE):
        made.dagster.add_dynamic_partitions(f"{asset}_ids", [PARTITION])
    return made


def serve(tmp_path: Path) -> contextlib.AbstractContextManager[Ui]:
    return dagster_ui(tmp_path, dict(os.environ), tmp_path / "ui.log")


def wait_for(world: FaultyInstallation, enough: Callable[[list[dg.DagsterRun]], bool]) -> list[dg.DagsterRun]:
    """Wait until the history of runs, newest first, is as wanted."""
    deadline = time.monotonic() + 200
    while True:
        runs = list(world.dagster.get_runs())
        if enough(runs):
            return runs
        assert time.monotonic() < deadline, [(run.run_id, run.status, run.tags) for run in runs]
        time.sleep(0.3)


def knows_what_is_old(world: FaultyInstallation) -> bool:
    """Whether the daemon has looked for failed runs before.

    The first time ever it passes over what it finds (dagster/_daemon/auto_run_reexecution/event_log_consumer.py), so a
    run that fails within the first seconds of a new Dagster home is not started again.
    """
    return bool(world.dagster.daemon_cursor_storage.get_cursor_values({RETRIES}))


def start_and_kill(world: FaultyInstallation, ui: Ui, kill: Callable[[int], None], asset: str = SMALL) -> None:
    """Have the UI start a run, and kill something when it copies; the argument is the run's process id."""
    world.source_proxy.set_rules(SLOW)
    world.destination_proxy.set_rules(SLOW_PARTS)
    few = {"concurrency": 2, "single_put_mb": VIDEO_MIB}
    Webserver(ui.url).launch_backfill(asset, [PARTITION], {"ops": {asset: {"ops": {"copy": {"config": few}}}}})
    writes = Kind.UPLOAD_PART if asset == LARGE else Kind.PUT
    (run,) = wait_for(world, lambda _: world.destination_proxy.count(writes) > 0 and knows_what_is_old(world))
    kill(holder_of(Path(world.dagster.root_directory), run.run_id).pid)
    world.source_proxy.set_rules()
    world.destination_proxy.set_rules()


def messages(world: FaultyInstallation, run: dg.DagsterRun) -> list[str]:
    """Return what a run says of its failures."""
    records = world.dagster.all_logs(run.run_id)
    return [str(record.dagster_event) for record in records if record.dagster_event and record.dagster_event.is_failure]


def check_retried_once(world: FaultyInstallation) -> None:
    again, first = wait_for(world, lambda runs: len(runs) == 2 and all(run.is_finished for run in runs))
    assert [first.status.value, again.status.value] == ["FAILURE", "SUCCESS"], messages(world, again)
    assert again.parent_run_id == first.run_id
    expected = world.original.instance.objects_of(SMALL)
    assert compare(world.destination.server, world.destination.name, expected).differences == ()


@pytest.mark.long(cases=0)
def test_a_run_whose_process_is_killed_fails_and_is_started_once_more(
    world: FaultyInstallation, tmp_path: Path
) -> None:
    with serve(tmp_path) as ui:
        start_and_kill(world, ui, lambda pid: os.kill(pid, signal.SIGKILL))
        check_retried_once(world)


@pytest.mark.faults
def test_a_machine_that_goes_down_leaves_no_run_that_goes_on_for_ever(
    world: FaultyInstallation, tmp_path: Path
) -> None:
    with serve(tmp_path) as ui:

        def kill_everything(_: int) -> None:
            mother = psutil.Process(ui.process.pid)
            for process in (mother, *mother.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

        start_and_kill(world, ui, kill_everything)
    (run,) = world.dagster.get_runs()
    assert not run.is_finished
    with serve(tmp_path):
        check_retried_once(world)


@pytest.mark.faults
@pytest.mark.parametrize("who", ["dagster-webserver|dagster_webserver", "dagster._daemon"])
def test_a_run_outlives_the_webserver_and_the_daemon(world: FaultyInstallation, tmp_path: Path, who: str) -> None:
    with serve(tmp_path) as ui:

        def kill_some(_: int) -> None:
            found = [
                process
                for process in psutil.Process(ui.process.pid).children(recursive=True)
                if re.search(who, " ".join(process.cmdline()))
            ]
            assert found
            for process in found:
                process.kill()

        start_and_kill(world, ui, kill_some)
        (run,) = wait_for(world, lambda runs: all(run.is_finished for run in runs))
    assert run.status.value == "SUCCESS"


@pytest.mark.faults
@pytest.mark.parametrize("asset", [SMALL, LARGE])
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_says_so(
    world: FaultyInstallation, tmp_path: Path, signal_number: signal.Signals, asset: str
) -> None:
    with serve(tmp_path) as ui:
        start_and_kill(world, ui, lambda pid: os.kill(pid, signal_number), asset)
        runs = wait_for(world, lambda runs: all(run.is_finished for run in runs))
    assert runs[-1].status.value in {"CANCELED", "FAILURE"}
    assert not list((tmp_path / "storage" / "mastosync-runs").iterdir())
    expected = world.original.instance.objects_of(asset)
    store = manifest_store(world.dagster, S3Bucket.destination())
    (kept,) = (kept for kept in store.in_order(asset) if kept.run_id == runs[-1].run_id)
    lines = [line for batch in store.read(kept) for line in batch]
    assert {each.key for each in expected} <= {line.key for line in lines}
    assert len(lines) == len({line.key for line in lines})
    assert Reason.NOT_ATTEMPTED in {line.reason for line in lines}
    assert world.open_uploads() == []
    assert world.run(f"sync_{asset}", PARTITION, {}).success
    assert compare(world.destination.server, world.destination.name, expected).differences == ()
