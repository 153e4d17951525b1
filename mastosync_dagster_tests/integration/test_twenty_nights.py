"""Twenty nights in a row, and the pings that a monitor gets of each: start, success, failure, or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from click.testing import CliRunner

from mastosync_dagster.alerts import alert_on_failure
from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.servers.start import free_port
from mastosync_dagster.metrics.collector import read
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.runs.dead_runs import close_dead_runs
from mastosync_dagster_tests.support.installation import PROJECT, Installation
from mastosync_dagster_tests.support.listener import Listener, http_listener
from mastosync_dagster_tests.support.living import LivingInstance
from mastosync_dagster_tests.support.proxy import Answer, Delay, Kind, Rule
from mastosync_dagster_tests.support.terminal import executable
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.long

START, SUCCESS, FAIL = "/start", "", "/fail"


@dataclass
class Scene:
    """An instance whose nights have a monitor. Each night has something new to copy."""

    world: Installation
    living: LivingInstance
    monitor: Listener

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


def nobody_is_there(_: Scene) -> None:
    """Neither the daemon nor the machine runs."""


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


def killed_and_found_dead(scene: Scene) -> None:
    """Let the daemon find that the process of a night is gone, and its sensor see the failure."""
    killed(scene)
    dagster = scene.world.dagster
    close_dead_runs(dagster)
    (run,) = dagster.get_runs(limit=1)
    (entry,) = dagster.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    context = dg.build_run_status_sensor_context(
        sensor_name="alert_on_failure",
        dagster_event=entry.get_dagster_event(),
        dagster_instance=dagster,
        dagster_run=run,
    )
    alert_on_failure(context.for_run_failure())


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
    (killed_and_found_dead, [START, FAIL]),
    (good, [START, SUCCESS]),
    (nobody_is_there, []),
    (the_bucket_is_absent, [FAIL]),
    (the_destination_refuses, [START, FAIL]),
    (the_monitor_is_busy_at_the_end, [START, SUCCESS, SUCCESS]),
    (killed, [START]),
    (good, [START, SUCCESS]),
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
    with http_listener() as monitor:
        monkeypatch.setenv("MASTOSYNC_PING_URL", monitor.url)
        yield Scene(world, living, monitor)


@pytest.mark.timeout(900)
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
