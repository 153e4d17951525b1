"""Two runs, each a process, and a provider that counts the requests of the account: both slow down by its answers."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.demo.instance.cases import CASES
from mastosync_dagster.installation.processes import running
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.installation import Installation, Original, make_world
from mastosync_dagster_tests.support.proxy import Answer, Delay, Rule
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server
    from mastosync_dagster_tests.support.corners import Bucket

PER_SECOND = 60.0
"""About what smaller accounts are allowed."""
FAR = Rule(Delay(0.05))
THROTTLED = Rule(Answer(503, "SlowDown"), above=PER_SECOND)
WARM_UP_SECONDS = 12.0
MEASURED_SECONDS = 12.0


@pytest.fixture
def world(
    postgres_server: PostgresServer,
    source_server: S3Server,
    destination_bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Installation]:
    """An instance with two ID ranges of media, of some 1,200 objects each."""
    original = Original.generated(postgres_server, source_server, cases=CASES, rows=2600)
    with make_world(original, destination_bucket, tmp_path / "home", monkeypatch) as made:
        monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "720")
        yield made


@pytest.mark.long(cases=0)
@pytest.mark.timeout(300)
def test_runs_of_one_account_slow_down_together_and_none_starves(
    world: Installation, tmp_path: Path, report: Callable[[object], None]
) -> None:
    keys = world.register(FileType.MEDIA_ATTACHMENTS)[FileType.MEDIA_ATTACHMENTS][:2]
    world.destination_proxy.set_rules(FAR, THROTTLED)
    of_run = {
        key: {each.key for each in world.instance.objects_of("media_attachments") if low <= each.row_id < high}
        for key in keys
        for low, high in [tuple(map(int, key.split("-")))]
    }
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(sync(key, tmp_path / f"{key}.log")) for key in keys]

        def copied() -> list[int]:
            there = list_keys(world.destination.server, world.destination.name)
            return [len(there & of_run[key]) for key in keys]

        wait_until(lambda: min(copied()) > 0, 90)
        time.sleep(WARM_UP_SECONDS)
        world.destination_proxy.forget()
        begun, before = time.monotonic(), copied()
        time.sleep(MEASURED_SECONDS)
        took, after = time.monotonic() - begun, copied()
        asked, throttled = len(world.destination_proxy.requests), world.destination_proxy.used[THROTTLED]
        assert [run.poll() for run in runs] == [None, None], "the measurement was to end before the runs"
        rates = [(late - early) / took for early, late in zip(before, after, strict=True)]
    report(
        f"{asked / took:.0f} requests a second of {PER_SECOND:.0f}, {throttled / asked:.1%} of them throttled,"
        f" {' and '.join(f'{rate:.0f}' for rate in rates)} objects a second"
    )
    assert throttled <= 0.05 * asked
    assert asked - throttled >= 0.7 * PER_SECOND * took
    assert min(rates) >= 0.25 * sum(rates)


@contextlib.contextmanager
def sync(key: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Sync an ID range of the media in a process of its own."""
    command = [str(Path(sys.executable).with_name("dagster")), "job", "execute", "-m", "mastosync_dagster"]
    command += ["-j", "sync_media_attachments", "--tags", json.dumps({"dagster/partition": key})]
    with running(command, log=log) as process:
        yield process
