"""Threads for many small requests."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import CancelledError
from threading import Event

import pytest

from mastosync_dagster.pool import Pool

_INTERRUPTED = """
import threading, time
from mastosync_dagster.pool import Pool

def interrupt():
    raise KeyboardInterrupt

with Pool(2, tick=interrupt) as pool:
    pool.map(time.sleep, [60, 60, 60])
"""


def test_results_have_the_order_of_the_arguments_and_threads_a_limit() -> None:
    running: set[int] = set()
    most = 0

    def work(number: int) -> int:
        nonlocal most
        running.add(number)
        most = max(most, len(running))
        time.sleep(0.01)
        running.discard(number)
        return -number

    with Pool(3) as pool:
        assert pool.map(work, range(20)) == [-number for number in range(20)]
        assert pool.map(work, ()) == []
    assert most == 3


def test_after_a_failure_nothing_further_is_started() -> None:
    begun = []

    def fail(number: int) -> None:
        begun.append(number)
        time.sleep(0.02)
        if number == 1:
            raise ValueError(number)

    with Pool(1) as pool:
        with pytest.raises(ValueError, match="1"):
            pool.map(fail, range(100))
        with pytest.raises(CancelledError):
            pool.map(fail, range(100))
    with pytest.raises(CancelledError):
        pool.map(fail, [0])
    assert begun[:2] == [0, 1]
    assert len(begun) < 20


def test_the_end_of_the_block_waits_for_no_request() -> None:
    let_go = Event()
    started = time.monotonic()
    with Pool(2) as pool:
        future = pool.submit(let_go.wait, 60)
    assert time.monotonic() - started < 1
    assert not future.done()
    let_go.set()
    assert future.result(10)


def test_the_end_of_the_process_waits_for_no_request_either() -> None:
    """As of a run that is terminated while a storage does not answer."""
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", _INTERRUPTED], capture_output=True, timeout=50, check=False)
    assert b"KeyboardInterrupt" in ended.stderr
    assert ended.returncode != 0
    assert time.monotonic() - started < 20
