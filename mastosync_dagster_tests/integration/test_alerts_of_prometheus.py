"""The alerts of a real Prometheus (``make alerts``): when the daemon is killed, and when runs fail."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.demo.servers.start import free_port
from mastosync_dagster.installation.processes import running
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.prometheus import PROMTOOL, needs_prometheus, prometheus, shortened_rules
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule
from mastosync_dagster_tests.support.terminal import executable
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from mastosync_dagster_tests.support.installation import Installation

pytestmark = pytest.mark.alerts
OLD_SECONDS = 100
"""A night may be so old, in the place of 26 hours: there is one each minute."""
NIGHT = "min(mastosync_last_good_night_timestamp_seconds)"
ALERT = "MastosyncNoGoodNight"
EVER_FIRED = f'count_over_time(ALERTS{{alertname="{ALERT}",alertstate="firing"}}[1h])'


@pytest.mark.timeout(500)
@needs_prometheus
def test_an_alert_fires_within_two_minutes_after_the_daemon_is_killed(
    world: Installation, tmp_path: Path, report: Callable[[object], None]
) -> None:
    home = Path(world.environment["DAGSTER_HOME"])
    # No table fills a range: a night is one run.
    settings = {"MASTOSYNC_NIGHTLY_CRON": "* * * * *", "MASTOSYNC_ROWS_PER_PARTITION": "1000"}
    environment = {**os.environ, **world.environment, **settings}
    switched_on = world.command("dagster", "schedule", "start", "nightly_incremental", "-m", "mastosync_dagster")
    assert switched_on.returncode == 0, switched_on.stderr
    rules, port = shortened_rules(tmp_path, night_seconds=OLD_SECONDS), free_port()
    metrics = [executable("mastosync"), "metrics", f"--port={port}", "--every=3"]
    daemon = [executable("dagster-daemon"), "run", "-m", "mastosync_dagster"]
    with (
        running(daemon, log=home / "daemon.log", cwd=home, env=environment) as process,
        running(metrics, log=home / "metrics.log", env=environment),
        prometheus(tmp_path, rules, port) as asked,
    ):
        wait_until(lambda: bool(asked.values(NIGHT)), 200)
        (first,) = asked.values(NIGHT)
        # As long as the daemon runs, nights follow each other, and the first is older than a night may be: silence.
        wait_until(lambda: time.time() - first > OLD_SECONDS + 10, OLD_SECONDS + 60)
        assert asked.values(f"{NIGHT} > {first}")
        assert asked.values(EVER_FIRED) == []

        killed = time.monotonic()
        os.killpg(process.pid, signal.SIGKILL)
        wait_until(lambda: ALERT in asked.firing(), 120)
        report(f"{ALERT} fires {time.monotonic() - killed:.0f} s after the daemon was killed")
        assert asked.values("mastosync_up") == [1]


@pytest.mark.timeout(400)
@needs_prometheus
def test_a_real_prometheus_reads_every_metric_and_fires_alerts(world: Installation, tmp_path: Path) -> None:
    assert PROMTOOL is not None
    rules = shortened_rules(tmp_path, night_seconds=7200)
    subprocess.run([PROMTOOL, "check", "rules", str(rules)], check=True, capture_output=True)
    port = free_port()
    command = [executable("mastosync"), "metrics", f"--port={port}", "--every=3"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with prometheus(tmp_path, rules, port) as asked:
            asked.wait_for_alerts("MastosyncNeverAGoodNight")
            keys = world.register()[FileType.ACCOUNTS]
            world.source_proxy.set_rules(Rule(Answer(400, "InvalidRequest"), kinds=frozenset({Kind.GET})))
            assert not world.run("sync_accounts", keys[0]).success
            asked.wait_for_alerts("MastosyncNeverAGoodNight", "MastosyncRangesFailed")
            assert not world.run("sync_changes").success
            asked.wait_for_alerts("MastosyncNeverAGoodNight", "MastosyncObjectsFail", "MastosyncRangesFailed")
            world.source_proxy.set_rules()
            assert world.run("sync_accounts", keys[0]).success
            asked.wait_for_alerts("MastosyncNeverAGoodNight", "MastosyncObjectsFail")

            began = time.time()
            assert world.run("sync_changes").success
            night = time.time()
            asked.wait_for_alerts()
            assert len(asked.values("mastosync_objects_done")) == len(FileType)
            assert asked.values("sum(mastosync_objects_left)") == [0]
            (done,), (missing,) = (
                asked.values("sum(mastosync_objects_done)"),
                asked.values("sum(mastosync_objects_missing)"),
            )
            assert (done, missing > 0) == (len(world.instance.objects_of(*FileType)), True)
            assert began - 1 < min(asked.values("mastosync_last_good_night_timestamp_seconds")) <= night
            process.kill()  # Prometheus forgets at once what it has scraped
            asked.wait_for_alerts("MastosyncNotScraped")
    finally:
        process.kill()
        process.wait(30)
