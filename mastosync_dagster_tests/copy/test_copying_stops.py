"""A copy that is stopped ends soon, leaves nothing half done, and says so of every object."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pycurl
import pytest
from botocore.exceptions import BotoCoreError

from mastosync_dagster.copy import engine as copying
from mastosync_dagster.copy.results import ResultWriter
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.plan import COPIED
from mastosync_dagster.s3 import storage as storage_module
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.proxy import Answer, Delay, Kind, Proxy, Rule, Stall, s3_proxy
from mastosync_dagster_tests.support.transfers import FAST, NEVER_CHANGES, Transfer, open_uploads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster.copy.engine import CopyProgress
    from mastosync_dagster.records.manifest import ManifestWriter
    from mastosync_dagster.s3.signing import Credentials
    from mastosync_dagster_tests.support.corners import Bucket

MIB = 1024 * 1024


class Interrupt(BaseException):
    """What Dagster raises in the main thread when a run is terminated."""


class Stoppable(Transfer):
    """A transfer whose destination is behind a proxy."""

    proxy: Proxy

    def uploads(self) -> list[str]:
        """Return the keys of uploads in parts that were left behind."""
        return open_uploads(self.destination)

    def stop_when(self, *kinds: Kind) -> list[float]:
        """Stop the copy when a request of some kind is in flight. Returns a list that gets the time."""
        times: list[float] = []

        def watch() -> None:
            while not self.proxy.count(*kinds):
                time.sleep(0.01)
            times.append(time.monotonic())
            self.stop.set()

        threading.Thread(target=watch, daemon=True).start()
        return times


@pytest.fixture
def transfer(tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket) -> Iterator[Stoppable]:
    with s3_proxy(destination_bucket.server.endpoint) as proxy:
        stoppable = Stoppable(tmp_path, source_bucket, destination_bucket, settings=replace(FAST, large_object_mb=8))
        stoppable.proxy = proxy
        stoppable.destination_options = {"endpoint": proxy.endpoint}
        yield stoppable


def test_a_stop_ends_the_copy_with_the_requests_in_flight(transfer: Stoppable) -> None:
    planned = [transfer.put(f"a/{number:03}", b"body") for number in range(200)]
    transfer.proxy.set_rules(Rule(Delay(0.5)))
    times = transfer.stop_when(Kind.PUT)
    counts, lines = transfer.run(*planned)
    assert time.monotonic() - times[0] < 0.5 + 2
    assert len(lines) == 200
    assert 0 < counts.copied <= 2 * transfer.settings.concurrency
    copied = {one.key for one in lines if one.outcome is Outcome.COPIED}
    # On a busy machine a PUT outlasts the time that it is given, and the server finishes it nevertheless.
    assert copied <= transfer.keys()
    assert len(transfer.keys() - copied) <= transfer.settings.concurrency
    left = [one for one in lines if one.outcome is not Outcome.COPIED]
    # rclone's server fails a request now and then by itself; after the stop it is not repeated.
    spontaneous = [one for one in left if one.reason is Reason.SERVER_ERROR]
    assert len(spontaneous) <= 2
    assert {(one.outcome, one.reason) for one in left if one not in spontaneous} == {
        (Outcome.FAILED, Reason.NOT_ATTEMPTED)
    }
    assert counts.failed == len(left)


def test_a_stop_ends_waits_between_attempts(transfer: Stoppable) -> None:
    planned = [transfer.put(f"a/{number}/{NEVER_CHANGES}", b"body") for number in range(20)]
    transfer.settings = replace(transfer.settings, backoff_seconds=60)
    transfer.proxy.set_rules(Rule(Answer(503, "SlowDown")))
    times = transfer.stop_when(Kind.PUT)
    _, lines = transfer.run(*planned)
    assert time.monotonic() - times[0] < 2
    assert {one.reason for one in lines} == {Reason.NOT_ATTEMPTED}


def test_a_stop_in_the_middle_of_a_large_object_leaves_no_upload_behind(transfer: Stoppable) -> None:
    transfer.settings = replace(transfer.settings, single_put_mb=0)
    planned = [transfer.put(f"a/{number}.mp4", os.urandom(11 * MIB)) for number in range(3)]
    transfer.proxy.set_rules(Rule(Delay(0.5), kinds=frozenset({Kind.UPLOAD_PART})))
    times = transfer.stop_when(Kind.UPLOAD_PART)
    counts, lines = transfer.run(*planned)
    assert time.monotonic() - times[0] < 0.5 + 2
    assert [one.reason for one in lines] == [Reason.NOT_ATTEMPTED] * 3
    assert counts.copied == 0
    assert transfer.uploads() == []
    assert transfer.keys() == set()


@pytest.mark.long
def test_a_stop_waits_for_an_upload_to_be_removed(transfer: Stoppable) -> None:
    transfer.settings = replace(transfer.settings, single_put_mb=0)
    planned = [transfer.put(f"a/{number}.mp4", os.urandom(11 * MIB)) for number in range(2)]
    transfer.proxy.set_rules(
        Rule(Delay(0.5), kinds=frozenset({Kind.UPLOAD_PART})), Rule(Delay(2.0), kinds=frozenset({Kind.ABORT_UPLOAD}))
    )
    times = transfer.stop_when(Kind.UPLOAD_PART)
    _, lines = transfer.run(*planned)
    assert time.monotonic() - times[0] < 8
    assert [one.reason for one in lines] == [Reason.NOT_ATTEMPTED] * 2
    assert transfer.uploads() == []


def test_a_process_that_may_open_no_more_files_says_so_and_every_object_has_a_line(
    transfer: Stoppable, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(5)]

    def nothing_left() -> pycurl.CurlMulti:
        raise pycurl.error("initializing curl-multi failed")  # what it says then

    monkeypatch.setattr(pycurl, "CurlMulti", nothing_left)
    counts, lines = transfer.run(*planned)
    assert counts.stopped is not None
    assert "ulimit -n" in str(counts.stopped)
    assert [one.reason for one in lines] == [Reason.NOT_ATTEMPTED] * 5


def test_credentials_that_cannot_be_had_are_named_and_every_object_has_a_line(
    transfer: Stoppable, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = [transfer.put(f"a/{number:04}", b"body") for number in range(5)]
    monkeypatch.setattr(copying, "_CANARY_OBJECTS", 1)

    def gone() -> Credentials:
        raise BotoCoreError

    monkeypatch.setattr(storage_module, "credential_provider", lambda _: gone)
    counts, lines = transfer.run(*planned)
    assert len(lines) == 5
    assert {one.reason for one in lines} <= {Reason.BAD_CREDENTIALS, Reason.NOT_ATTEMPTED}
    assert lines[0].reason is Reason.BAD_CREDENTIALS
    assert counts.failed == 5


@pytest.mark.long
def test_an_interrupt_of_the_main_thread_goes_on_upwards_when_all_is_written_down(transfer: Stoppable) -> None:
    planned = [transfer.put(f"a/{number:03}", b"body") for number in range(200)]
    planned.append(transfer.put("b.mp4", os.urandom(11 * MIB)))
    transfer.proxy.set_rules(Rule(Delay(0.3)))
    interrupted: list[float] = []

    def interrupt(progress: CopyProgress) -> None:
        if progress.copied:
            interrupted.append(time.monotonic())
            raise Interrupt

    transfer.on_progress = interrupt
    with pytest.raises(Interrupt):
        transfer.run(*planned)
    assert time.monotonic() - interrupted[0] < 0.3 + 2
    lines = transfer.result()
    assert len(lines) == 201
    copied = {one.key for one in lines if one.outcome is Outcome.COPIED}
    # A PUT that is cut off when its body has been sent: nobody knows here whether the server has finished it.
    assert copied <= transfer.keys()
    assert len(transfer.keys() - copied) <= transfer.settings.concurrency
    assert {one.reason for one in lines} == {None, Reason.NOT_ATTEMPTED}
    assert transfer.uploads() == []


def test_a_request_that_hangs_is_left_behind(transfer: Stoppable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_GRACE_SECONDS", 0.5)
    planned = [transfer.put(f"a/{number}", b"body") for number in range(3)]
    transfer.proxy.set_rules(Rule(Stall(), kinds=frozenset({Kind.PUT})))
    times = transfer.stop_when(Kind.PUT)
    counts, lines = transfer.run(*planned)
    assert time.monotonic() - times[0] < 2
    assert [(one.reason, one.detail) for one in lines] == [(Reason.NOT_ATTEMPTED, copying.STILL_IN_FLIGHT)] * 3
    assert counts.failed == 3
    transfer.proxy.close_connections()


def test_an_upload_that_cannot_be_removed_is_named(transfer: Stoppable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_GRACE_SECONDS", 0.3)
    monkeypatch.setattr(copying, "_CLEAN_UP_SECONDS", 0.3)
    transfer.settings = replace(transfer.settings, single_put_mb=5)
    planned = [transfer.put("a.mp4", os.urandom(11 * MIB)), transfer.put("b", b"body")]
    transfer.proxy.set_rules(Rule(Stall(), kinds=frozenset({Kind.PUT, Kind.UPLOAD_PART, Kind.ABORT_UPLOAD})))
    transfer.stop_when(Kind.UPLOAD_PART)
    _, lines = transfer.run(*planned)
    assert {one.key: one.detail for one in lines} == {
        "a.mp4": copying.STILL_IN_FLIGHT + copying.UPLOAD_LEFT,
        "b": copying.STILL_IN_FLIGHT,
    }
    transfer.proxy.close_connections()


def test_what_ends_while_it_is_left_behind_has_one_line(transfer: Stoppable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_GRACE_SECONDS", 0.3)
    drain = ResultWriter._drain

    def drain_and_wait(results: ResultWriter, writer: ManifestWriter) -> None:
        drain(results, writer)
        if results._finish.is_set():
            time.sleep(1.5)

    monkeypatch.setattr(ResultWriter, "_drain", drain_and_wait)
    planned = [transfer.put(f"a/{number:02}", b"body") for number in range(20)]
    transfer.proxy.set_rules(Rule(Delay(1), kinds=frozenset({Kind.PUT})))
    transfer.stop_when(Kind.PUT)
    counts, lines = transfer.run(*planned)
    assert [one.key for one in lines] == sorted(one.key for one in planned)
    assert counts.failed == sum(one.outcome is Outcome.FAILED for one in lines)


@pytest.mark.long
def test_signals_that_do_not_end_cost_no_line(transfer: Stoppable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_HURRY_SECONDS", 1.0)
    planned = [transfer.put(f"a/{number}", b"body") for number in range(20)]
    transfer.proxy.set_rules(Rule(Stall(), kinds=frozenset({Kind.PUT})))

    def interrupt(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        started = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 1.5, 0.3)
        with pytest.raises(Interrupt):
            transfer.run(*planned)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 6
    lines = transfer.result()
    assert [one.key for one in lines] == sorted(one.key for one in planned)
    assert {one.reason for one in lines} == {Reason.NOT_ATTEMPTED}
    transfer.proxy.close_connections()


def test_what_on_progress_raises_ends_the_copy(transfer: Stoppable) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(3)]
    transfer.proxy.set_rules(Rule(Delay(1.5)))

    def fail(_: CopyProgress) -> None:
        raise OSError("the log is full")

    transfer.on_progress = fail
    with pytest.raises(OSError, match="the log is full"):
        transfer.run(*planned)
    assert len(transfer.result()) == 3


def test_a_result_that_cannot_be_written_ends_the_copy(transfer: Stoppable) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(3)]
    (transfer.folder / f".{COPIED}").mkdir()
    with pytest.raises(OSError, match="copied"):
        transfer.run(*planned)
