"""Whether a run lives is known of every process, visible or not, and of every end that one can have."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import psutil
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType

from mastosync_dagster.records.store import FolderManifests
from mastosync_dagster.runs import run_lock, work_folder
from mastosync_dagster.runs.dead_runs import close_dead_runs
from mastosync_dagster.runs.outbox import Outbox
from mastosync_dagster.runs.run_lock import PROCESS_TAG, RunState, hold, let_go, lock, state
from mastosync_dagster_tests.support.run_processes import HOLD, run_process, some_job
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

HIDDEN = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""A process that is started so sees nobody else, and is another number than the one that others see."""

ASK = """
import sys
import dagster as dg
from mastosync_dagster.runs.run_lock import state
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    print(state(instance, instance.get_run_by_id(sys.argv[2])).value)
"""

WITH_CHILDREN = HOLD.replace(
    '    print("held", flush=True)\n',
    "    import os, subprocess, time\n"
    "    nothing = {name: subprocess.DEVNULL for name in ('stdin', 'stdout', 'stderr')}\n"
    "    subprocess.Popen(['sleep', '100'], close_fds=False, **nothing)\n"
    "    if os.fork() == 0:\n"
    "        [os.close(each) for each in range(3)]\n"
    "        time.sleep(100)\n"
    '    print("held", flush=True)\n',
)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


def report(instance: dg.DagsterInstance, run_id: str, kind: DagsterEventType) -> dg.DagsterRun:
    """Have the history say something of a run."""
    instance.report_dagster_event(DagsterEvent(kind.value, job_name=some_job.name), run_id)
    found = instance.get_run_by_id(run_id)
    assert found is not None
    return found


def started_run(instance: dg.DagsterInstance, **tags: str) -> dg.DagsterRun:
    run = instance.create_run_for_job(some_job, tags=tags)
    return report(instance, run.run_id, DagsterEventType.PIPELINE_START)


def now(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found


def state_now(instance: dg.DagsterInstance, run: dg.DagsterRun) -> RunState:
    return state(instance, now(instance, run))


def skip_without_namespaces() -> None:
    if (
        shutil.which("unshare") is None
        or subprocess.run([*HIDDEN, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("this machine allows no PID namespaces (unshare --pid), so no process can be hidden")


def test_a_run_lives_until_its_process_is_killed(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = started_run(instance)
    assert state(instance, run) is RunState.NOT_BEGUN
    with run_process(str(tmp_path), run.run_id) as process:
        assert state_now(instance, run) is RunState.ALIVE
        process.kill()
        process.wait()
        assert state_now(instance, run) is RunState.DEAD


def test_a_process_that_cannot_be_seen_lives_until_it_is_killed(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    skip_without_namespaces()
    run = started_run(instance)
    with run_process(str(tmp_path), run.run_id, within=HIDDEN) as process:
        assert state_now(instance, run) is RunState.ALIVE
        process.kill()
        process.wait()
        # The kernel ends what is in the namespace shortly after the one that holds it.
        wait_until(lambda: state_now(instance, run) is RunState.DEAD)


@pytest.mark.long
def test_one_who_sees_no_other_process_knows_the_living_from_the_dead(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    skip_without_namespaces()
    living, dead = started_run(instance), started_run(instance)
    with run_process(str(tmp_path), dead.run_id) as process:
        process.kill()
        process.wait()
    states = []
    with run_process(str(tmp_path), living.run_id):
        for run in (living, dead):
            command = [*HIDDEN, sys.executable, "-c", ASK, str(tmp_path), run.run_id]
            states.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    assert states == [RunState.ALIVE.value, RunState.DEAD.value]


def test_a_child_that_lives_longer_does_not_keep_its_parent_alive(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = started_run(instance)
    with run_process(str(tmp_path), run.run_id, script=WITH_CHILDREN) as process:
        children = psutil.Process(process.pid).children()
        assert state_now(instance, run) is RunState.ALIVE
        process.kill()
        process.wait()
        assert [child.is_running() for child in children] == [True, True]
        assert state_now(instance, run) is RunState.DEAD
        for child in children:
            child.kill()


def test_a_run_that_is_started_once_more_has_not_begun_with_the_tags_of_the_first(instance: dg.DagsterInstance) -> None:
    again = started_run(instance, **{PROCESS_TAG: "the first one"})
    assert state(instance, again) is RunState.NOT_BEGUN
    hold(instance, again.run_id)
    assert state_now(instance, again) is RunState.ALIVE
    assert now(instance, again).tags[PROCESS_TAG] == again.run_id


@pytest.mark.parametrize(
    ("tag", "more"),
    [
        (PROCESS_TAG, ""),
        # Of earlier versions.
        ("mastosync/process", ""),
        ("mastosync/process", "|another-machine|0e5d|17|42"),
    ],
)
def test_a_run_that_has_begun_and_whose_lock_is_not_here_is_unknown(
    instance: dg.DagsterInstance, tag: str, more: str
) -> None:
    run = started_run(instance)
    instance.add_run_tags(run.run_id, {tag: run.run_id + more})
    assert state_now(instance, run) is RunState.UNKNOWN
    close_dead_runs(instance)
    assert not now(instance, run).is_finished


def test_runs_of_one_process_live_no_longer_than_the_history_says(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    first, second = started_run(instance), started_run(instance)
    hold(instance, first.run_id)
    let_go(instance, first.run_id)
    # In between it can still be killed, and has to be found dead.
    assert state_now(instance, first) is RunState.ALIVE
    report(instance, first.run_id, DagsterEventType.PIPELINE_SUCCESS)
    hold(instance, second.run_id)
    # Somebody forces the end of one that still works.
    report(instance, second.run_id, DagsterEventType.PIPELINE_CANCELED)
    assert state_now(instance, first) is not RunState.ALIVE
    assert state_now(instance, second) is RunState.ALIVE
    assert [path.name for path in (tmp_path / "storage" / "mastosync-locks").iterdir()] == [second.run_id]


def test_nobody_executes_a_run_that_another_process_executes(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = started_run(instance)
    with run_process(str(tmp_path), run.run_id), pytest.raises(dg.Failure, match="Another process"):
        lock(instance, run.run_id)


def test_without_locks_nobody_is_taken_for_dead_and_the_run_says_so(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    run = started_run(instance)
    work_folder.create_work_folder(instance, run.run_id, print)
    assert state_now(instance, run) is RunState.UNKNOWN
    assert list((tmp_path / "storage" / "mastosync-locks").iterdir()) == []
    assert any("no file locks" in str(entry.dagster_event) for entry in instance.all_logs(run.run_id))


@pytest.mark.long(cases=0)
def test_the_next_run_calls_failed_who_has_died_and_cancelled_who_was_to_end(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    dead, ending, living, waiting = (started_run(instance) for _ in range(4))
    for run in (dead, ending):
        with run_process(str(tmp_path), run.run_id) as process:
            process.kill()
            process.wait()
    report(instance, ending.run_id, DagsterEventType.PIPELINE_CANCELING)
    with run_process(str(tmp_path), living.run_id):
        work_folder.create_work_folder(instance, started_run(instance).run_id, print)
        found = [now(instance, run).status.value for run in (dead, ending, living, waiting)]
    assert found == ["FAILURE", "CANCELED", "STARTED", "STARTED"]
    assert any("is gone" in str(entry.dagster_event) for entry in instance.all_logs(dead.run_id))


def test_the_folder_and_the_manifest_of_a_run_stay_its_own_while_its_process_lives_whatever_the_history_says(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    forced = started_run(instance)
    script = HOLD.replace(
        "import hold", "import hold\nfrom mastosync_dagster.runs.work_folder import create_work_folder"
    )
    script = script.replace("hold(instance, sys.argv[2])", "create_work_folder(instance, sys.argv[2], print)")
    store, waiting = FolderManifests(tmp_path / "manifests"), tmp_path / "storage" / "mastosync-unpublished"
    outbox = Outbox(instance, pytest.fail)
    (waiting / f"accounts~1-9~{forced.run_id}").write_bytes(b"")
    with run_process(str(tmp_path), forced.run_id, script=script) as process:
        report(instance, forced.run_id, DagsterEventType.PIPELINE_CANCELED)
        work_folder.create_work_folder(instance, started_run(instance).run_id, print)
        outbox.publish_waiting(store)
        assert work_folder.work_folder(instance, forced.run_id).is_dir()
        assert store.runs("late-accounts") == set()
        process.kill()
        process.wait()
    work_folder.create_work_folder(instance, started_run(instance).run_id, print)
    outbox.publish_waiting(store)
    assert not work_folder.work_folder(instance, forced.run_id).exists()
    assert store.runs("late-accounts") == {forced.run_id}
    assert not (tmp_path / "storage" / "mastosync-locks" / forced.run_id).exists()


def test_a_lock_that_is_older_than_its_run_is_left_alone(instance: dg.DagsterInstance) -> None:
    lock(instance, "not-yet-on-record")
    run_lock.remove_old(instance)
    assert (Path(instance.storage_directory()) / "mastosync-locks" / "not-yet-on-record").exists()
