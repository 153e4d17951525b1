"""Twenty nights in a row, and the pings that a monitor gets of each: start, success, failure, or nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._core.scheduler.instigation import TickStatus

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.servers.start import free_port
from mastosync_dagster.installation.services import Services, serve
from mastosync_dagster.metrics.collector import read
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.graphql import Webserver
from mastosync_dagster_tests.support.installation import PROJECT, Installation
from mastosync_dagster_tests.support.listener import Listener, http_listener
from mastosync_dagster_tests.support.living import LivingInstance
from mastosync_dagster_tests.support.proxy import Answer, Delay, Kind, Rule
from mastosync_dagster_tests.support.run_processes import holder_of
from mastosync_dagster_tests.support.terminal import executable
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


START, SUCCESS, FAIL = "/start", "", "/fail"
SCHEDULER, RETRIES = "SCHEDULER", "EVENT_LOG_CONSUMER_CURSOR-PIPELINE_FAILURE"
"""Dagster's names for the daemon of schedules, and for what the one of retries has seen."""
START_SECONDS, SECONDS = timedelta(seconds=100), 240.0
"""What a scheduler needs until it looks at its schedules, on a busy machine; and everything else."""


@dataclass
class Scene:
    """An instance whose nights have a monitor. Each night has something new to copy.

    Attributes:
        stack: What ends the services that a night has started.
        cron: When their night is.
    """

    world: Installation
    living: LivingInstance
    monitor: Listener
    stack: contextlib.ExitStack
    cron: str = ""
    webserver: Webserver = field(default_factory=lambda: Webserver(""))

    def serve(self) -> Services:
        """Start code server, webserver and daemon."""
        home = Path(self.world.dagster.root_directory)
        environment = {**os.environ, "MASTOSYNC_NIGHTLY_CRON": self.cron}
        served = self.stack.enter_context(serve(home, environment, port=free_port(), logs=home / "logs"))
        self.webserver = Webserver(served.url)
        return served

    def launch(self) -> str:
        """Launch a night in the UI, and wait until it copies; return its run."""
        proxy = self.world.destination_proxy
        before = proxy.count(Kind.PUT)
        proxy.set_rules(Rule(Delay(5), kinds=frozenset({Kind.PUT})))
        run = self.webserver.launch("sync_changes", {"ops": {"plan_changes": {"config": {"changed_since": "last"}}}})
        wait_until(lambda: proxy.count(Kind.PUT) > before, SECONDS)
        return run

    def newest(self) -> dg.DagsterRun:
        """Return the newest run."""
        (run,) = self.world.dagster.get_runs(limit=1)
        return run

    def has_looked_since(self, since: float) -> bool:
        """Return whether the sensor of failed runs has looked since."""
        dagster = self.world.dagster
        return any(
            tick.status is not TickStatus.STARTED
            for state in dagster.all_instigator_state()
            if state.instigator_name == "alert_on_failure"
            for tick in dagster.get_ticks(state.instigator_origin_id, state.selector_id, after=since)
        )

    def nights(self) -> dict[str, float]:
        """Return when the last good night of each file type was, as the metrics say."""
        return dict(read(self.world.dagster).nights)

    def command(self, expected: int, **environment: str) -> None:
        """Run the command of the night in this process."""
        outcome = CliRunner(env=environment).invoke(main, ["night"])
        assert outcome.exit_code == expected, outcome.output

    def run(self, *, succeeds: bool, **config: object) -> None:
        """Execute the job as somebody launches it in the UI."""
        plan = {
            "ops": {"plan_changes": {"config": {"wait_seconds": 1, **config}}},
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        }
        assert self.world.run("sync_changes", config=plan).success is succeeds


def good(scene: Scene) -> None:
    scene.command(0)


def good_in_the_ui(scene: Scene) -> None:
    scene.run(succeeds=True, changed_since="last")


def an_object_fails(scene: Scene) -> None:
    scene.world.source_proxy.set_rules(Rule(Answer(400, "InvalidRequest"), kinds=frozenset({Kind.GET})))
    scene.command(1)


def the_destination_refuses(scene: Scene) -> None:
    scene.world.destination_proxy.set_rules(Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.PUT})))
    scene.command(1)


def there_is_no_database(scene: Scene) -> None:
    scene.command(1, DATABASE_URL=f"postgresql://x:y@127.0.0.1:{free_port()}/z")


def the_bucket_is_absent(scene: Scene) -> None:
    scene.command(1, S3_BUCKET="absent")


def the_database_goes_after_the_start(scene: Scene) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", f"postgresql://x:y@127.0.0.1:{free_port()}/z")
        scene.run(succeeds=False, changed_since="last")


def a_trial(scene: Scene) -> None:
    scene.run(succeeds=True, changed_since="last", limit=1)


def one_file_type(scene: Scene) -> None:
    scene.run(succeeds=True, changed_since="last", file_types=["accounts"])


def less_than_the_settings_want(scene: Scene) -> None:
    scene.run(succeeds=True, changed_since="last", local_only=True)


def the_scheduler_is_gone(scene: Scene) -> None:
    """Kill the daemon before the night that it was to begin."""
    switched_on = scene.world.command("dagster", "schedule", "start", "nightly_incremental", "-m", "mastosync_dagster")
    assert switched_on.returncode == 0, switched_on.stderr
    due = (datetime.now(timezone.utc) + START_SECONDS).replace(second=0, microsecond=0) + timedelta(minutes=1)
    scene.cron = f"{due.minute} {due.hour} * * *"
    before, dagster = scene.newest(), scene.world.dagster
    *_, daemon = scene.serve().all
    wait_until(lambda: dagster.get_daemon_statuses([SCHEDULER])[SCHEDULER].healthy is True, SECONDS)
    daemon.process.kill()
    assert datetime.now(timezone.utc) < due
    # The night after this one shows that it was due.
    time.sleep((due - datetime.now(timezone.utc)).total_seconds() + 10)
    assert scene.newest().run_id == before.run_id
    scene.stack.close()


def the_scheduler_is_back(scene: Scene) -> None:
    """Start the daemon again: it begins the night that was due."""
    before = scene.newest()
    scene.serve()
    wait_until(lambda: scene.newest().run_id != before.run_id and scene.newest().is_finished, SECONDS)
    assert scene.newest().tags["dagster/schedule_name"] == "nightly_incremental"


def killed_and_started_again(scene: Scene) -> None:
    """Kill the process of a night of the daemon: it goes on from there, and ends before anybody tells of the death."""
    dagster = scene.world.dagster
    # Before it has looked for the first time, it starts nothing again.
    wait_until(lambda: bool(dagster.daemon_cursor_storage.get_cursor_values({RETRIES})), SECONDS)
    run = scene.launch()
    os.kill(holder_of(Path(dagster.root_directory), run).pid, signal.SIGKILL)
    scene.world.destination_proxy.set_rules()
    wait_until(lambda: scene.newest().parent_run_id == run and scene.newest().is_success, SECONDS)
    # The sensor that sees the death looks every two minutes.
    ended = time.time()
    wait_until(lambda: scene.has_looked_since(ended), SECONDS)


def terminated(scene: Scene) -> None:
    """End a night of the daemon in the UI, and then the services."""
    scene.webserver.terminate(scene.launch())
    wait_until(lambda: scene.newest().is_finished, SECONDS)
    assert scene.newest().status is dg.DagsterRunStatus.CANCELED
    scene.stack.close()


def killed(scene: Scene) -> None:
    """Kill the process of a night while it copies."""
    proxy = scene.world.destination_proxy
    before = proxy.count(Kind.PUT)
    proxy.set_rules(Rule(Delay(5), kinds=frozenset({Kind.PUT})))
    process = subprocess.Popen(
        [executable("mastosync"), "night"],
        cwd=PROJECT,
        env={**os.environ, **scene.world.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: proxy.count(Kind.PUT) > before, 200)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)


def the_monitor_is_busy_at_the_start(scene: Scene) -> None:
    scene.monitor.answers = [503]
    scene.command(0)


def the_monitor_is_busy_at_the_end(scene: Scene) -> None:
    scene.monitor.answers = [200, 503]
    scene.command(0)


NIGHTS: list[tuple[Callable[[Scene], None], list[str]]] = [
    (good, [START, SUCCESS]),
    (good_in_the_ui, [START, SUCCESS]),
    (an_object_fails, [START, FAIL]),
    (good, [START, SUCCESS]),
    (a_trial, []),
    (less_than_the_settings_want, [START]),
    (there_is_no_database, [START, FAIL]),
    (good, [START, SUCCESS]),
    (the_scheduler_is_gone, []),
    (the_scheduler_is_back, [START, SUCCESS]),
    (killed_and_started_again, [START, SUCCESS]),
    (terminated, [START, FAIL]),
    (the_bucket_is_absent, [FAIL]),
    (the_destination_refuses, [START, FAIL]),
    (the_monitor_is_busy_at_the_end, [START, SUCCESS, SUCCESS]),
    (killed, [START]),
    (one_file_type, []),
    (the_database_goes_after_the_start, [START, FAIL]),
    (the_monitor_is_busy_at_the_start, [START, SUCCESS]),
    (good_in_the_ui, [START, SUCCESS]),
]


@pytest.fixture
def scene(world: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr("mastosync_dagster.alerts.requests._PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "1000")  # no table fills a range, whose runs would be nights too
    living = LivingInstance.of(world.database, world.source, world.instance.objects_of(*FileType))
    with http_listener() as monitor, contextlib.ExitStack() as stack:
        monkeypatch.setenv("MASTOSYNC_PING_URL", monitor.url)
        yield Scene(world, living, monitor, stack)


@pytest.mark.alerts
@pytest.mark.timeout(1800)
def test_a_monitor_gets_the_right_ping_of_each_of_twenty_nights(scene: Scene, report: Callable[[object], None]) -> None:
    wrong, before = [], scene.nights()
    for number, (night, expected) in enumerate(NIGHTS, 1):
        scene.living.sign_up()
        night(scene)
        scene.world.source_proxy.set_rules()
        scene.world.destination_proxy.set_rules()
        after = scene.nights()
        moved = bool(after) and all(after[name] != before.get(name) for name in after)
        # A success is reported exactly where the replica is as new as the night.
        if scene.monitor.paths != expected or moved is not (SUCCESS in expected):
            wrong.append(f"{number} {night.__name__}: pings {scene.monitor.paths}, not {expected}; is current: {moved}")
        scene.monitor.requests.clear()
        before = after
    assert len(NIGHTS) == 20
    assert not wrong, "\n".join(wrong)
    report(f"reported rightly: {len(NIGHTS) - len(wrong)} of {len(NIGHTS)} nights")
