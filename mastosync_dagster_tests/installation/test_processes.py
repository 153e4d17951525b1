"""Processes of the demo end with it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from mastosync_dagster.installation.processes import StopRequested, running, stop_requests, uninterrupted
from mastosync_dagster.installation.services import ServiceError
from mastosync_dagster.installation.ui import _alone
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def _wait_for_lines(log: Path, count: int) -> list[str]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        lines = log.read_text().splitlines() if log.exists() else []
        if len(lines) >= count:
            return lines
        time.sleep(0.02)
    raise AssertionError(f"{log} has no {count} lines")


def _gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_service_that_outlives_its_command_keeps_the_home_from_a_second_one(tmp_path: Path) -> None:
    with _alone(tmp_path) as lock:
        survivor = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    try:
        with pytest.raises(ServiceError, match="If it was killed, its services end within"), _alone(tmp_path):
            pass
    finally:
        survivor.kill()
        survivor.wait()
    with _alone(tmp_path):
        pass


def test_a_process_has_the_descriptors_that_it_is_given(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-c", f"import os; os.write({writing}, b'here\\n')"]
    with running(command, log=tmp_path / "log", pass_fds=[writing]):
        assert os.read(reading, 10) == b"here\n"
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("error", [KeyboardInterrupt, StopRequested(signal.SIGTERM), ValueError])
def test_a_process_and_what_it_left_behind_end_with_the_block(
    tmp_path: Path, error: BaseException | type[BaseException]
) -> None:
    log = tmp_path / "log"
    # The first child outlives its parent, which ends at SIGTERM.
    command = ["sh", "-c", "sleep 600 & echo $!; sleep 600 & echo $!; echo $$; wait"]
    pids: list[int] = []

    def work() -> None:
        with running(command, log=log):
            pids.extend(map(int, _wait_for_lines(log, 3)))
            raise error

    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind):
        work()
    assert len(pids) == 3
    # A signal to somebody else's child arrives when the machine has time for it.
    wait_until(lambda: all(_gone(pid) for pid in pids), 5)


@pytest.mark.long
def test_a_process_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(["sh", "-c", "trap '' TERM; echo ready; while true; do sleep 1; done"], log=log, grace=0.3) as process:
        _wait_for_lines(log, 1)
    assert process.returncode == -signal.SIGKILL


def test_a_process_is_stopped_by_the_signal_it_wants(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = ["import signal, sys, time", "signal.signal(signal.SIGINT, lambda *_: sys.exit(7))", "print(1, flush=True)"]
    with running(
        [sys.executable, "-c", "\n".join([*lines, "time.sleep(600)"])], log=log, stop_by=signal.SIGINT
    ) as process:
        _wait_for_lines(log, 1)
    assert process.returncode == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_stops_and_no_further_one_disturbs_the_stopping(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stopped = False
    with stop_requests():
        try:
            signal.raise_signal(number)
        except StopRequested as request:
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGINT)
            stopped = request.signal is number
    assert stopped
    assert signal.getsignal(number) is before


def test_the_end_of_a_terminal_that_nohup_has_let_ignore_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests():
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(StopRequested):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_waits_until_a_process_is_known() -> None:
    steps = []

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            steps.append("the block goes on to its end")
        steps.append("not reached")

    with stop_requests(), pytest.raises(StopRequested):
        work()
    assert steps == ["the block goes on to its end"]
