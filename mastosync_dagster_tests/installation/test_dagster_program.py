"""The services ask seldom, for what is set by names of Dagster's constants is what Dagster reads; and load little."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

READ = """
import sys, types
from mastosync_dagster.installation import dagster_program
def read():
    from dagster._daemon import controller, sensor
    from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
    from dagster._daemon.freshness import FreshnessDaemon
    from dagster._grpc import server_watcher
    print(controller.RELOAD_WORKSPACE_INTERVAL, sensor.MIN_INTERVAL_LOOP_TIME, server_watcher.WATCH_INTERVAL)
    print(FreshnessDaemon().interval_seconds, EventLogConsumerDaemon().interval_seconds)
    # What dagster.yaml has each service load.
    import dagster, mastosync_dagster.launcher
    useless = {"boto3", "dagster_aws", "pyarrow", "pycurl", "pygments.lexers.lisp", "rich.console"}
    print(sorted(useless & sys.modules.keys()))
# In the place of the daemon's loop, which has no end.
cli = sys.modules["dagster._daemon.cli"] = types.ModuleType("dagster._daemon.cli")
cli.main = read
sys.argv = ["program", "daemon", "run"]
dagster_program.main()
"""


def test_a_daemon_that_is_started_as_a_service_asks_seldom_and_loads_little() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_INTERVAL_SECONDS")}
    ended = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=True, env=environment)
    assert ended.stdout.splitlines() == ["86400 20 5", "600 15", "[]"]


def test_a_service_collects_its_garbage_though_python_would_wait_for_more() -> None:
    collected = """
        import time, weakref
        class Garbage:
            pass
        def read():
            for _ in range(2):
                garbage = Garbage()
                garbage.itself = garbage
                left = weakref.ref(garbage)
                del garbage
                while left() is not None:
                    time.sleep(0.01)
            print("collected")
        dagster_program._LOADED_SECONDS = dagster_program._GARBAGE_SECONDS = 0.05
        gc.disable()
    """
    begin, _, rest = READ.partition("def read():")
    script = f"{begin}\nimport gc\n{textwrap.dedent(collected)}# In the place{rest.partition('# In the place')[2]}"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.splitlines() == ["collected"]


@pytest.mark.long
def test_a_code_server_with_a_wrong_setting_says_so_in_one_sentence(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "mastosync_dagster.installation.dagster_program", "code"]
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), "MASTOSYNC_NIGHTLY_CRON": "at night"}
    ended = subprocess.run(
        [*program, "--socket", str(tmp_path / "code.sock"), "-m", "mastosync_dagster"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=60,
    )
    assert ended.returncode == 1
    said = [line for line in ended.stderr.splitlines() if "INFO" not in line]
    assert said == ["MASTOSYNC_NIGHTLY_CRON must be five cron fields, such as '0 3 * * *' for three o'clock."]


DEFINITIONS = """
import sys
import mastosync_dagster
assert mastosync_dagster.defs
print(sorted({"paramiko", "apprise", "pyarrow", "mastosync_dagster.copy.engine"} & sys.modules.keys()))
"""


def test_definitions_load_without_what_only_runs_need() -> None:
    ended = subprocess.run([sys.executable, "-c", DEFINITIONS], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
