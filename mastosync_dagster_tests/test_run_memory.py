"""Memory as a budget: what follows from it, who waits for it, and what is said of a run that was killed for it."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dagster._core.events import DagsterEvent, DagsterEventType

from mastosync_dagster.environment import SettingsError
from mastosync_dagster.memory import RunMemory, run_memory, usable_mb
from mastosync_dagster.runs import work_folder
from mastosync_dagster.runs.dead_runs import close_dead_runs
from mastosync_dagster.runs.run_lock import living_before
from mastosync_dagster.sync.config import CopyConfig
from mastosync_dagster_tests.support.run_processes import HOLD, run_process, some_job

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg


def started_run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    run = instance.create_run_for_job(some_job)
    event = DagsterEvent(DagsterEventType.PIPELINE_START.value, job_name=run.job_name)
    instance.run_storage.handle_run_event(run.run_id, event)
    return run


@pytest.mark.parametrize(
    ("memory", "budget"),
    [
        ("64", RunMemory(1, 16, 16)),
        ("256", RunMemory(1, 86, 64)),
        ("512", RunMemory(1, 128, 64)),
        ("1000", RunMemory(3, 128, 64)),
        ("100000", RunMemory(4, 128, 64)),
    ],
)
def test_runs_and_what_each_holds_follow_from_one_setting(
    memory: str, budget: RunMemory, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASTOSYNC_CONCURRENCY", raising=False)
    monkeypatch.setenv("MASTOSYNC_MEMORY_MB", memory)
    assert run_memory() == budget
    settings = CopyConfig().copy_settings()
    assert (settings.memory_mb, settings.concurrency) == (budget.bodies_mb, budget.concurrency)
    queue = instance.get_concurrency_config().run_queue_config
    assert queue is not None
    assert (queue.max_concurrent_runs, queue.max_user_code_failure_retries) == (budget.runs, 240)
    assert queue.tag_concurrency_limits


def test_a_memory_that_is_none_is_refused_by_the_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTOSYNC_MEMORY_MB", "much")
    with pytest.raises(SettingsError, match="MASTOSYNC_MEMORY_MB must be a whole number"):
        run_memory()


@pytest.mark.parametrize(
    ("groups", "file", "limit", "expected"),
    [
        ("0::/system.slice/a.service\n", "sys/fs/cgroup/system.slice/memory.max", str(512 * 2**20), 512),
        ("0::/host/docker/1\n", "sys/fs/cgroup/memory.max", str(256 * 2**20), 256),
        ("4:cpu,memory:/a/b\n0::/\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes", str(300 * 2**20), 300),
        ("0::/\n", "sys/fs/cgroup/memory.max", "max", None),
        ("4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes", str(2**63 - 4096), None),
    ],
)
def test_a_limit_of_a_cgroup_counts_in_both_versions_and_at_every_level(
    groups: str, file: str, limit: str, expected: int | None, tmp_path: Path
) -> None:
    for name, text in (("proc/self/cgroup", groups), (file, limit)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    assert usable_mb(tmp_path) == (expected or machine)


@pytest.mark.long
def test_a_run_without_room_waits_and_says_so_until_an_earlier_one_has_ended(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_MEMORY_MB", "300")
    first, second, messages = started_run(instance), started_run(instance), list[str]()
    with run_process(str(tmp_path), first.run_id) as process:

        def warn(text: str) -> None:
            assert len(living_before(instance, second.run_id)) == 1
            messages.append(text)
            process.kill()

        work_folder.create_work_folder(instance, second.run_id, warn)
    (message,) = messages
    assert message.startswith("Waiting for memory, which is enough for 1 at a time")
    assert "MASTOSYNC_MEMORY_MB" in message


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A cgroup in which a process that takes 100 MB more is killed."""
    base = Path("/sys/fs/cgroup")
    version_1 = (base / "memory").is_dir()
    folder = base / ("memory" if version_1 else "") / f"mastosync-test-{secrets.token_hex(4)}"
    try:
        folder.mkdir()
        limit = folder / ("memory.limit_in_bytes" if version_1 else "memory.max")
        limit.write_text(str(250 * 2**20))
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip("this system lets nobody make a cgroup with a limit")
    with contextlib.suppress(OSError):  # no swap to go on in
        (folder / ("memory.memsw.limit_in_bytes" if version_1 else "memory.swap.max")).write_text(
            str(250 * 2**20) if version_1 else "0"
        )
    yield folder
    folder.rmdir()


@pytest.mark.long
def test_a_run_that_the_kernel_kills_for_memory_is_called_so_with_what_to_lower(
    instance: dg.DagsterInstance, tmp_path: Path, small_cgroup: Path
) -> None:
    killed, gone = started_run(instance), started_run(instance)
    script = HOLD.replace(
        "import sys\n",
        f"import sys, os\nopen({str(small_cgroup / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n",
        1,
    ).replace("    sys.stdin.read()\n", "    sys.stdin.readline()\n    bytearray(600 * 2**20)\n    sys.stdin.read()\n")
    with run_process(str(tmp_path), killed.run_id, script=script) as process:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        process.wait(60)
    with run_process(str(tmp_path), gone.run_id) as process:
        process.kill()
        process.wait()
    close_dead_runs(instance)
    texts = ["\n".join(str(entry) for entry in instance.all_logs(run.run_id)) for run in (killed, gone)]
    assert "killed, probably for memory: lower MASTOSYNC_MEMORY_MB" in texts[0]
    assert "killed" not in texts[1]
    assert "is gone" in texts[1]
