"""At most one worker has a run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import redis

from mastosync_dagster.environment import SettingsError
from mastosync_dagster.machines.leases import Leases
from mastosync_dagster_tests.support.redis_server import NEEDS_REDIS
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster_tests.support.redis_server import RedisServer


@pytest.mark.long
@NEEDS_REDIS
def test_one_holder_has_a_lease_as_long_as_it_renews_it(broker: RedisServer) -> None:
    leases = Leases(broker.url, seconds=1)
    assert leases.take("run", "first")
    assert not leases.take("run", "second")
    until = time.monotonic() + 2
    while time.monotonic() < until:
        assert leases.take("run", "first")
        time.sleep(leases.renew_seconds)
    assert leases.holder("run") == "first"
    wait_until(lambda: leases.holder("run") is None)
    assert leases.take("run", "second")
    assert not leases.take("run", "first")


@NEEDS_REDIS
def test_only_who_has_a_lease_gives_it_back(broker: RedisServer) -> None:
    leases = Leases(broker.url)
    assert leases.take("run", "first")
    leases.give_back("run", "second")
    assert leases.holder("run") == "first"
    leases.give_back("run", "first")
    assert leases.holder("run") is None


@NEEDS_REDIS
def test_a_silent_broker_is_an_error_and_no_lease(broker: RedisServer) -> None:
    leases = Leases(broker.url)
    broker.kill()
    for ask in (lambda: leases.take("run", "first"), lambda: leases.holder("run")):
        with pytest.raises(redis.RedisError):
            ask()


@pytest.mark.parametrize("url", ["amqp://guest@localhost", "localhost:6379", ""])
def test_another_broker_is_refused_by_the_variable_s_name(url: str) -> None:
    with pytest.raises(SettingsError, match="CELERY_BROKER must be the URL of a Redis server"):
        Leases(url)


_WATCHED = """
import sys, threading
from mastosync_dagster.machines.run_process import begin_watch
begin_watch(sys.stdin.fileno(), 1.0)
threading.Event().wait()
"""


@contextlib.contextmanager
def watched() -> Iterator[subprocess.Popen[bytes]]:
    """Have a process that ends with its worker, which is this one."""
    with subprocess.Popen([sys.executable, "-c", _WATCHED], stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def beat(process: subprocess.Popen[bytes], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.stdin is not None
        os.write(process.stdin.fileno(), b"\n")
        time.sleep(0.1)


@pytest.mark.long
def test_a_run_s_process_ends_when_its_worker_is_gone_or_stands_still() -> None:
    with watched() as process:
        beat(process, 2.5)
        assert process.poll() is None
        assert process.wait(10) == -signal.SIGALRM
    with watched() as process:
        beat(process, 0.5)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == -signal.SIGKILL


def test_a_run_s_process_does_not_survive_a_pause_of_its_machine() -> None:
    with watched() as process:
        beat(process, 1)
        process.send_signal(signal.SIGSTOP)
        beat(process, 1.5)
        process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            beat(process, 3)
        assert process.poll() == -signal.SIGALRM


_BUSY = """
import os, sys
from mastosync_dagster.machines.run_process import begin_watch
begin_watch(sys.stdin.fileno(), 1.0)
while True:
    os.write(sys.stdout.fileno(), b".")
"""


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("blocked", [False, True])
def test_after_a_pause_a_run_s_process_sends_nothing_more(tmp_path: Path, *, blocked: bool) -> None:
    sent = tmp_path / "sent"
    if blocked:  # whoever starts a worker may have done so
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    try:
        pause_and_look(sent)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})


def pause_and_look(sent: Path) -> None:
    for _ in range(3):
        with (
            sent.open("wb") as file,
            subprocess.Popen([sys.executable, "-c", _BUSY], stdin=subprocess.PIPE, stdout=file) as process,
        ):
            beat(process, 1)
            process.send_signal(signal.SIGSTOP)
            beat(process, 1.5)
            before = sent.stat().st_size
            process.send_signal(signal.SIGCONT)
            assert process.wait(10) < 0
            assert before > 0
            assert sent.stat().st_size == before
