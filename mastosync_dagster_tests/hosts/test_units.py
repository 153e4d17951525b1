"""The units that `mastosync init` writes, under real systemd: restarts, Terminate, hidden processes, hardening."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from benchmarks.hosts.limits import ranges
from benchmarks.hosts.machine import HOME, OPT
from mastosync_dagster_tests.hosts.box import RANGES, UNITS, Box, make_box
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(1800)]

_TERMINATE_SECONDS = 10.0
_MONITORED_SECONDS = 100.0
"""Three looks of Dagster's monitoring at a run: it begins to look 30 s after the daemon, and looks every 30 s."""


@pytest.fixture(scope="module")
def box(opt: Path) -> Iterator[Box]:
    with make_box(opt) as made:
        yield made


def test_each_unit_is_restarted_twice_in_a_backfill_and_every_range_is_materialized(box: Box) -> None:
    launched = box.webserver.launch_backfill("media_attachments", ranges(box.webserver))
    for unit in UNITS * 2:
        box.wait_for_copies()
        box.machine.run("systemctl", "restart", unit)
    box.wait_for_ui()
    box.wait_for_ranges()
    runs = Counter(run.status for run in box.webserver.runs_of_backfill(launched))
    # None needed a retry: a run goes on whatever is restarted.
    assert runs == {"SUCCESS": RANGES}


def test_terminate_reaches_a_run_though_every_unit_has_a_tmp_of_its_own(box: Box) -> None:
    # What is at the destination would not be copied again.
    settings = box.machine.folder / "home" / "mastosync.env"
    settings.write_text(settings.read_text() + "\nDESTINATION_S3_KEY_PREFIX=again\n")
    box.webserver.launch_backfill("media_attachments", ranges(box.webserver)[:1])
    box.wait_for_copies()
    run = box.webserver.newest_run()
    begun = time.monotonic()
    box.webserver.terminate(run.run_id)
    wait_until(lambda: box.statuses()[run.run_id] == "CANCELED", _TERMINATE_SECONDS)
    assert time.monotonic() - begun < _TERMINATE_SECONDS
    copied = box.copied()
    time.sleep(3)
    assert box.copied() == copied


def test_a_daemon_that_sees_no_other_process_calls_no_living_run_dead(box: Box) -> None:
    drop_in = "[Service]\\nProcSubset=pid\\nProtectProc=invisible\\n"
    for unit in UNITS:
        folder = f"/etc/systemd/system/{unit}.service.d"
        box.machine.run("sh", "-c", f"mkdir -p {folder} && printf '{drop_in}' > {folder}/hidden.conf")
    box.machine.run("systemctl", "daemon-reload")
    box.machine.run("systemctl", "restart", *UNITS)
    box.wait_for_ui()
    ended: list[subprocess.CompletedProcess[str]] = []

    def sync() -> None:
        # 12,000 objects at a hundred a second.
        ended.append(
            box.machine.mastosync("sync", "media_attachments", check=False, DESTINATION_S3_KEY_PREFIX="from-a-shell")
        )

    shell = threading.Thread(target=sync)
    shell.start()
    box.wait_for_copies()
    run = box.webserver.newest_run().run_id
    until = time.monotonic() + _MONITORED_SECONDS
    while time.monotonic() < until and shell.is_alive():
        assert box.statuses()[run] in {"STARTED", "SUCCESS"}
        time.sleep(5)
    shell.join()
    assert (ended[0].returncode, box.statuses()[run]) == (0, "SUCCESS"), ended[0].stderr


@pytest.mark.parametrize("unit", UNITS)
def test_the_hardening_is_what_systemd_calls_safe(box: Box, unit: str) -> None:
    output = box.machine.run("systemd-analyze", "security", "--no-pager", unit, check=False).stdout
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", output)
    assert level is not None
    assert float(level[1]) <= 4.0, output


def test_systemd_has_nothing_to_say_about_the_units(box: Box) -> None:
    files = [f"/etc/systemd/system/{unit}.service" for unit in UNITS]
    verified = box.machine.run("systemd-analyze", "verify", *files, check=False)
    assert [line for line in verified.stderr.splitlines() if "mastosync" in line] == []
    assert verified.returncode == 0


def test_nothing_in_the_home_is_for_other_users(box: Box) -> None:
    # As root, with a umask that forbids nothing: commands, units and runs have written by now.
    command = f"umask 000; DAGSTER_HOME={HOME} {OPT}/bin/mastosync status media_attachments"
    box.machine.run("sh", "-c", command, user="mastosync")
    open_ones = box.machine.run("find", str(HOME), "-perm", "/077", "-not", "-path", f"{HOME}/systemd/*").stdout
    assert open_ones.split() == []
    others = box.machine.run("find", str(HOME), "-not", "-user", "mastosync").stdout
    assert others.split() == []


@pytest.mark.parametrize("user", ["root", "other"])
def test_another_user_is_refused_with_the_command_that_works(box: Box, user: str) -> None:
    refused = box.machine.mastosync("ranges", user=user, check=False)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert "belongs to mastosync" in line
    assert "-u mastosync" in line
    assert box.machine.run("find", str(HOME), "-not", "-user", "mastosync").stdout.split() == []
