"""What networks and servers do to a copy, and what becomes of the objects."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.proxy import (
    Answer,
    Cut,
    Delay,
    Fault,
    Flip,
    Kind,
    Proxy,
    Reset,
    Rule,
    Stall,
    When,
    WrongEtag,
    s3_proxy,
)
from mastosync_dagster_tests.support.transfers import FAST, NEVER_CHANGES, Transfer, line, open_uploads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket

MIB = 1024 * 1024
SMALL = os.urandom(40_000)
LARGE = os.urandom(11 * MIB + 123)
"""Three parts."""

GET = frozenset({Kind.GET})
HEAD = frozenset({Kind.HEAD})
PUT = frozenset({Kind.PUT})
PART = frozenset({Kind.UPLOAD_PART})
CREATE = frozenset({Kind.CREATE_UPLOAD})
COMPLETE = frozenset({Kind.COMPLETE_UPLOAD})


class Faulty(Transfer):
    """A transfer through a proxy before each storage."""

    at_source: Proxy
    at_destination: Proxy

    def uploads(self) -> list[str]:
        """Return the keys of uploads in parts that were left behind."""
        return open_uploads(self.destination)


@pytest.fixture
def transfer(tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket) -> Iterator[Faulty]:
    with contextlib.ExitStack() as stack:
        faulty = Faulty(tmp_path, source_bucket, destination_bucket, settings=replace(FAST, large_object_mb=8))
        faulty.at_source = stack.enter_context(s3_proxy(source_bucket.server.endpoint))
        faulty.at_destination = stack.enter_context(s3_proxy(destination_bucket.server.endpoint))
        short = {"read_timeout": 1.0, "upload_timeout": 2.0}
        faulty.source_options = {"endpoint": faulty.at_source.endpoint, **short}
        faulty.destination_options = {"endpoint": faulty.at_destination.endpoint, **short}
        yield faulty


@pytest.mark.long(cases=4)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Answer(500, "InternalError"), Reason.SERVER_ERROR),
        (Answer(502), Reason.SERVER_ERROR),
        (Answer(503, "SlowDown"), Reason.THROTTLED),
        (Answer(429, "TooManyRequests", retry_after=0), Reason.THROTTLED),
        (Reset(When.BEFORE), Reason.CONNECTION),
        (Reset(When.DURING), Reason.CONNECTION),
        (Reset(When.AFTER), Reason.CONNECTION),
        (Cut(20_000), Reason.CONNECTION),
        (Cut(20_000, announced=False), Reason.CHECKSUM_MISMATCH),
        (Flip(20_000), Reason.CHECKSUM_MISMATCH),
        (Stall(), Reason.TIMEOUT),
        (Stall(20_000), Reason.TIMEOUT),
        (WrongEtag("0" * 32), Reason.CHECKSUM_MISMATCH),
    ],
)
def test_a_transient_fault_of_the_source_is_repeated(transfer: Faulty, fault: Fault, reason: Reason) -> None:
    planned = transfer.put("a.png", SMALL)
    transfer.at_source.set_rules(Rule(fault, kinds=GET, times=1))
    counts, lines = transfer.run(planned)
    assert [(one.outcome, one.reason, one.detail) for one in lines] == [(Outcome.COPIED, None, None)]
    assert transfer.fetched("a.png") == SMALL
    assert (counts.source.retries, counts.destination.retries) == ({reason.value: 1}, {})
    assert transfer.at_destination.count(Kind.PUT) == 1


@pytest.mark.long(cases=3)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Answer(500, "InternalError"), Reason.SERVER_ERROR),
        (Answer(503, "SlowDown"), Reason.THROTTLED),
        (Answer(429, "TooManyRequests", retry_after=0), Reason.THROTTLED),
        (Reset(When.BEFORE), Reason.CONNECTION),
        (Reset(When.DURING), Reason.CONNECTION),
        (Reset(When.AFTER), Reason.CONNECTION),
        (Flip(20_000, request=True), Reason.CHECKSUM_MISMATCH),
        (Stall(), Reason.TIMEOUT),
        (WrongEtag("0" * 32), Reason.CHECKSUM_MISMATCH),
    ],
)
def test_a_transient_fault_of_the_destination_is_repeated(transfer: Faulty, fault: Fault, reason: Reason) -> None:
    planned = transfer.put(NEVER_CHANGES, SMALL)
    transfer.at_destination.set_rules(Rule(fault, kinds=PUT, times=1))
    counts, lines = transfer.run(planned)
    assert [(one.outcome, one.reason, one.detail) for one in lines] == [(Outcome.COPIED, None, None)]
    assert transfer.fetched(NEVER_CHANGES) == SMALL
    assert (counts.source.retries, counts.destination.retries) == ({}, {reason.value: 1})
    assert transfer.at_source.count(Kind.GET) == 1


@pytest.mark.parametrize("fault", [Answer(200, "InternalError"), WrongEtag(None)])
def test_where_the_reply_to_a_put_proves_nothing_the_object_is_looked_at(transfer: Faulty, fault: Fault) -> None:
    planned = transfer.put("a.png", SMALL)
    transfer.at_destination.set_rules(Rule(fault, kinds=PUT, times=1))
    counts, lines = transfer.run(planned)
    assert [(one.outcome, one.reason, one.detail) for one in lines] == [(Outcome.COPIED, None, None)]
    assert transfer.fetched("a.png") == SMALL
    assert transfer.at_destination.count(Kind.HEAD) >= 1
    repeated = isinstance(fault, Answer)
    assert transfer.at_destination.count(Kind.PUT) == 1 + repeated
    assert sum(counts.destination.retries.values()) == repeated


def test_an_object_that_is_kept_with_another_length_is_written_again(transfer: Faulty) -> None:
    planned = transfer.put(NEVER_CHANGES, SMALL)
    # Without an ETag in the reply, the object is looked at: and is empty.
    looked_at = Rule(Answer(200), kinds=frozenset({Kind.HEAD}), times=1)
    transfer.at_destination.set_rules(Rule(WrongEtag(None), kinds=PUT, times=1), looked_at)
    counts, lines = transfer.run(planned)
    assert [one.outcome for one in lines] == [Outcome.COPIED]
    assert transfer.fetched(NEVER_CHANGES) == SMALL
    assert transfer.at_destination.count(Kind.PUT) == 2
    assert counts.destination.retries == {Reason.SIZE_MISMATCH.value: 1}


@pytest.mark.parametrize(
    ("at", "rule"),
    [
        ("source", Rule(Answer(503, "SlowDown"), kinds=GET, times=1)),
        ("source", Rule(Reset(When.DURING), kinds=GET, times=1)),
        ("source", Rule(Cut(6 * MIB), kinds=GET, times=1)),
        ("source", Rule(Flip(6 * MIB), kinds=GET, times=1)),
        ("source", Rule(Stall(6 * MIB), kinds=GET, times=1)),
        ("source", Rule(WrongEtag("0" * 32), kinds=GET, times=1)),
        ("source", Rule(Answer(200, "InternalError"), kinds=GET, times=1)),
        ("destination", Rule(Answer(503, "SlowDown"), kinds=CREATE, times=1)),
        ("destination", Rule(Reset(When.AFTER), kinds=CREATE, times=1)),
        ("destination", Rule(Answer(500, "InternalError"), kinds=PART, times=2)),
        ("destination", Rule(Reset(When.DURING), kinds=PART, skip=1, times=1)),
        ("destination", Rule(Reset(When.AFTER), kinds=PART, skip=2, times=1)),
        ("destination", Rule(Flip(1 * MIB, request=True), kinds=PART, skip=1, times=1)),
        ("destination", Rule(Answer(503, "SlowDown"), kinds=COMPLETE, times=1)),
        ("destination", Rule(Answer(200, "InternalError"), kinds=COMPLETE, times=1)),
        ("destination", Rule(Reset(When.AFTER), kinds=COMPLETE, times=1)),
    ],
)
def test_a_large_object_survives_transient_faults(transfer: Faulty, at: str, rule: Rule) -> None:
    planned = transfer.put("a.mp4", LARGE)
    (transfer.at_source if at == "source" else transfer.at_destination).set_rules(rule)
    _, lines = transfer.run(planned)
    assert [(one.outcome, one.reason, one.detail) for one in lines] == [(Outcome.COPIED, None, None)]
    assert transfer.fetched("a.mp4") == LARGE
    assert transfer.uploads() == []


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("etag", [None, '"5f3e1c-8e"'], ids=["no ETag", "an ETag of another kind"])
@pytest.mark.parametrize("seen", [True, False], ids=["seen by the plan", "not seen"])
def test_an_error_page_with_status_200_is_not_taken_for_the_object(
    transfer: Faulty, body: bytes, etag: str | None, *, seen: bool
) -> None:
    planned = transfer.put("a.mp4", body)
    if not seen:
        planned = planned._replace(size=None, etag=None)
    transfer.at_source.set_rules(Rule(Answer(200, "InternalError", etag=etag), kinds=GET, times=1))
    _, lines = transfer.run(planned)
    assert [(one.outcome, one.size) for one in lines] == [(Outcome.COPIED, len(body))]
    assert transfer.fetched("a.mp4") == body
    assert transfer.uploads() == []


def test_an_object_that_the_plan_has_found_is_not_missing_because_of_one_wrong_word(transfer: Faulty) -> None:
    planned = transfer.put("a.mp4", SMALL)
    transfer.at_source.set_rules(Rule(Answer(404, "NoSuchKey"), kinds=GET | HEAD, times=1, per_key=True))
    _, lines = transfer.run(planned)
    assert [one.outcome for one in lines] == [Outcome.COPIED]
    assert transfer.fetched("a.mp4") == SMALL


@pytest.mark.parametrize(
    ("at", "fault", "kinds", "reason"),
    [
        ("source", Answer(500, "InternalError"), GET, Reason.SERVER_ERROR),
        ("source", Answer(403, "AccessDenied"), GET, Reason.ACCESS_DENIED),
        ("source", Answer(403, "InvalidObjectState"), GET, Reason.OBJECT_ARCHIVED),
        ("source", Flip(5), GET, Reason.CHECKSUM_MISMATCH),
        ("source", Cut(5), GET, Reason.CONNECTION),
        ("destination", Answer(503, "SlowDown"), PUT, Reason.THROTTLED),
        ("destination", Flip(5, request=True), PUT, Reason.CHECKSUM_MISMATCH),
        ("destination", Answer(400, "KeyTooLongError"), PUT, Reason.INVALID_KEY),
    ],
)
def test_a_fault_that_stays_fails_its_object_alone(
    transfer: Faulty, at: str, fault: Fault, kinds: frozenset[Kind], reason: Reason
) -> None:
    planned = [transfer.put("bad", SMALL), transfer.put("good", SMALL)]
    transfer.settings = replace(transfer.settings, max_attempts=3, concurrency=1)
    (transfer.at_source if at == "source" else transfer.at_destination).set_rules(Rule(fault, kinds=kinds, key="bad"))
    counts, lines = transfer.run(*planned)
    assert [(one.key, one.outcome, one.reason) for one in lines] == [
        ("bad", Outcome.FAILED, reason),
        ("good", Outcome.COPIED, None),
    ]
    assert (counts.failed, counts.stopped) == (1, None)
    assert lines[0].detail


def test_a_large_object_that_fails_leaves_no_upload_behind(transfer: Faulty) -> None:
    planned = transfer.put("a.mp4", LARGE)
    transfer.settings = replace(transfer.settings, max_attempts=2, single_put_mb=0)
    transfer.at_destination.set_rules(Rule(Answer(500, "InternalError"), kinds=PART, skip=2))
    _, lines = transfer.run(planned)
    assert [(one.outcome, one.reason) for one in lines] == [(Outcome.FAILED, Reason.SERVER_ERROR)]
    assert transfer.keys() == set()
    assert transfer.uploads() == []


def test_a_large_object_is_read_on_from_where_it_broke(transfer: Faulty) -> None:
    transfer.at_source.set_rules(Rule(Cut(6 * MIB), kinds=GET, times=1))
    transfer.run(transfer.put("a.mp4", LARGE))
    ranges = [request.headers.get("range") for request in transfer.at_source.requests if request.kind is Kind.GET]
    assert ranges[0] is None
    assert ranges[1] is not None


@pytest.mark.long(cases=5)
@pytest.mark.parametrize("single_put_mb", [0, 200], ids=["in parts", "streamed"])
@pytest.mark.parametrize(
    "fault",
    [
        Cut(0),
        Cut(6 * MIB),
        Cut(6 * MIB, announced=False),
        Flip(6 * MIB),
        Stall(6 * MIB),
        Reset(When.DURING),
        Reset(When.AFTER),
        WrongEtag("0" * 32),
    ],
    ids=str,
)
def test_a_large_object_arrives_whole_whatever_happens_to_it_at_the_source(
    transfer: Faulty, fault: Fault, single_put_mb: int
) -> None:
    transfer.settings = replace(transfer.settings, single_put_mb=single_put_mb)
    planned = transfer.put("a.mp4", LARGE)
    transfer.at_source.set_rules(Rule(fault, kinds=GET, times=1))
    _, lines = transfer.run(planned)
    assert [(one.outcome, one.reason, one.detail) for one in lines] == [(Outcome.COPIED, None, None)]
    assert transfer.fetched("a.mp4") == LARGE
    assert transfer.uploads() == []


def test_a_large_object_of_which_the_destination_shows_another_body_is_written_again(transfer: Faulty) -> None:
    planned = transfer.put("a.mp4", LARGE)
    transfer.at_destination.set_rules(Rule(WrongEtag("0" * 32), kinds=PUT, times=1))
    counts, lines = transfer.run(planned)
    assert [one.outcome for one in lines] == [Outcome.COPIED]
    assert counts.destination.retries == {Reason.CHECKSUM_MISMATCH.value: 1}
    assert transfer.at_destination.count(Kind.PUT) == 2
    assert transfer.fetched("a.mp4") == LARGE


@pytest.mark.long
def test_a_limit_of_bytes_a_second_holds_for_streamed_objects_at_both_storages(transfer: Faulty) -> None:
    limits = (
        replace(transfer.settings, source_bytes_per_second=len(LARGE) / 2),
        replace(transfer.settings, destination_bytes_per_second=len(LARGE) / 2),
    )
    for number, limited in enumerate(limits):
        transfer.settings = limited
        started = time.monotonic()
        _, lines = transfer.run(transfer.put(f"{number}.mp4", LARGE))
        assert [one.outcome for one in lines] == [Outcome.COPIED]
        # A second's worth is given in advance.
        assert time.monotonic() - started >= 0.9


def test_an_empty_object_that_has_a_body_by_now_and_does_not_say_how_long_is_copied(transfer: Faulty) -> None:
    transfer.put("a.png", SMALL)
    transfer.at_source.set_rules(Rule(Cut(len(SMALL), announced=False), kinds=GET))
    _, lines = transfer.run(line("a.png", b""))
    assert [(one.outcome, one.size) for one in lines] == [(Outcome.COPIED, len(SMALL))]
    assert transfer.fetched("a.png") == SMALL


@pytest.mark.parametrize("single_put_mb", [0, 200], ids=["in parts", "streamed"])
def test_a_large_object_that_is_damaged_at_every_reading_is_never_published(
    transfer: Faulty, single_put_mb: int
) -> None:
    transfer.settings = replace(transfer.settings, single_put_mb=single_put_mb, max_attempts=3)
    planned = transfer.put("a.mp4", LARGE)
    transfer.at_source.set_rules(Rule(Flip(6 * MIB), kinds=GET))
    _, lines = transfer.run(planned)
    assert [(one.outcome, one.reason) for one in lines] == [(Outcome.FAILED, Reason.CHECKSUM_MISMATCH)]
    assert transfer.keys() == set()
    assert transfer.uploads() == []


def test_a_server_says_how_long_to_wait(transfer: Faulty) -> None:
    planned = transfer.put("a.png", SMALL)
    # The first refusal is seen by a client that hides the header.
    transfer.at_destination.set_rules(Rule(Answer(503, "SlowDown", retry_after=1), kinds=PUT, times=2))
    transfer.run(planned)
    times = [request.at for request in transfer.at_destination.requests if request.kind is Kind.PUT]
    assert len(times) == 3
    assert times[2] - times[1] >= 1


@pytest.mark.parametrize("at", ["source", "destination"])
def test_one_key_whose_signature_a_server_computes_otherwise_fails_alone(transfer: Faulty, at: str) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(30)]
    proxy = transfer.at_source if at == "source" else transfer.at_destination
    proxy.set_rules(Rule(Answer(403, "SignatureDoesNotMatch"), kinds=GET | PUT, key="a/17$"))
    counts, lines = transfer.run(*planned)
    assert counts.stopped is None
    assert [one.key for one in lines if one.outcome is not Outcome.COPIED] == ["a/17"]
    assert [one.reason for one in lines if one.reason] == [Reason.BAD_CREDENTIALS]


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("at", ["source", "destination"])
def test_a_server_that_throttles_gets_fewer_requests_at_once(transfer: Faulty, at: str) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(200)]
    transfer.settings = replace(transfer.settings, concurrency=16, max_attempts=20)
    proxy = transfer.at_source if at == "source" else transfer.at_destination
    kinds = GET if at == "source" else PUT
    proxy.set_rules(
        Rule(Delay(0.01)), Rule(Answer(503, "SlowDown"), kinds=kinds, skip=40, times=80), Rule(Answer(429), times=0)
    )
    counts, _ = transfer.run(*planned)
    throttled, other = counts.source, counts.destination
    if at == "destination":
        throttled, other = other, throttled
    assert counts.copied == 200
    assert (throttled.lowest_window, throttled.reductions >= 2) == (4, True)
    assert (other.window, other.reductions) == (16, 0)
    assert throttled.retries == {"throttled": 80}
    assert counts.stats()[f"{at}_window_reductions"] == throttled.reductions


@pytest.mark.long
def test_objects_are_read_while_others_are_written_and_neither_storage_gets_more_than_its_limit(
    transfer: Faulty,
) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(40)]
    transfer.settings = replace(transfer.settings, concurrency=4)
    for proxy, kinds in ((transfer.at_source, GET), (transfer.at_destination, PUT)):
        proxy.set_rules(Rule(Delay(0.2), kinds=kinds))
    transfer.run(*planned)
    gets = [request.at for request in transfer.at_source.requests if request.kind is Kind.GET]
    puts = [request.at for request in transfer.at_destination.requests if request.kind is Kind.PUT]
    assert len(gets) == len(puts) == 40
    assert transfer.at_source.most_in_flight == transfer.at_destination.most_in_flight == 4
    # Four are read and written, and while they are written four more are read.
    assert sum(at < puts[0] + 0.15 for at in gets) >= 8


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("known", [True, False])
def test_bodies_that_wait_for_memory_and_for_places_do_not_wait_for_each_other(
    transfer: Faulty, *, known: bool
) -> None:
    transfer.settings = replace(transfer.settings, concurrency=4, memory_mb=24, large_object_mb=8)
    planned = [transfer.put(f"a/{number}", bytes([number]) * 6 * MIB) for number in range(16)]
    planned += [transfer.put(f"b/{number}", bytes([number]) * 12 * MIB) for number in range(4)]
    transfer.at_destination.set_rules(Rule(Delay(0.1)))
    counts, _ = transfer.run(*(one if known else one._replace(size=None, etag=None) for one in planned))
    assert counts.copied == 20


def test_without_adaptation_the_window_stays(transfer: Faulty) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(40)]
    transfer.settings = replace(transfer.settings, adaptive=False)
    transfer.at_source.set_rules(Rule(Answer(503, "SlowDown"), times=10))
    counts, _ = transfer.run(*planned)
    assert (counts.source.window, counts.source.lowest_window, counts.source.reductions) == (8, 8, 0)


@pytest.mark.parametrize(
    ("at", "settings", "reason", "words"),
    [
        ("source", {"secret_access_key": "wrong"}, Reason.BAD_CREDENTIALS, "AWS_SECRET_ACCESS_KEY"),
        ("destination", {"secret_access_key": "wrong"}, Reason.BAD_CREDENTIALS, "DESTINATION_AWS_SECRET_ACCESS_KEY"),
        ("source", {"bucket": "no-such-bucket"}, Reason.NO_SUCH_BUCKET, "S3_BUCKET"),
        ("destination", {"bucket": "no-such-bucket"}, Reason.NO_SUCH_BUCKET, "DESTINATION_S3_BUCKET"),
        ("source", {"ca_file": "/no/such/file"}, Reason.CONNECTION, "resources.source.config.ca_file"),
    ],
)
def test_what_no_retry_can_cure_ends_the_run_at_once(
    transfer: Faulty, at: str, settings: dict[str, object], reason: Reason, words: str
) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(100)]
    options = transfer.source_options if at == "source" else transfer.destination_options
    options.update(settings)
    started = time.monotonic()
    counts, lines = transfer.run(*planned)
    assert time.monotonic() - started < 5
    assert counts.stopped is not None
    assert (counts.stopped.reason, counts.stopped.permanent) == (reason, True)
    assert words in str(counts.stopped)
    assert "wrong" not in str(counts.stopped)
    assert len(lines) == counts.failed == 100
    assert {one.reason for one in lines} <= {reason, Reason.NOT_ATTEMPTED}


def test_a_destination_that_may_not_be_written_ends_the_run_before_any_success(transfer: Faulty) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(50)]
    transfer.at_destination.set_rules(Rule(Answer(403, "AccessDenied"), kinds=PUT))
    counts, _ = transfer.run(*planned)
    assert counts.stopped is not None
    assert counts.stopped.reason is Reason.ACCESS_DENIED
    # Each of the objects that are in work, twice as many as are being written, is refused twice at most.
    assert transfer.at_destination.count(Kind.PUT) <= 4 * transfer.settings.concurrency


@pytest.mark.parametrize("answer", [Answer(403, "AccessDenied"), Answer(404), Answer(301, "PermanentRedirect")])
def test_one_refusal_before_any_success_does_not_end_the_run(transfer: Faulty, answer: Answer) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(20)]
    transfer.at_destination.set_rules(Rule(answer, kinds=PUT, times=1))
    counts, lines = transfer.run(*planned)
    assert counts.stopped is None
    assert {one.outcome for one in lines} == {Outcome.COPIED}


def test_a_source_that_may_not_be_read_ends_the_run_after_a_hundred_objects(transfer: Faulty) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(150)]
    transfer.at_source.set_rules(Rule(Answer(403, "AccessDenied"), kinds=GET))
    counts, lines = transfer.run(*planned)
    assert counts.stopped is not None
    assert "100 objects in a row" in str(counts.stopped)
    assert sum(one.reason is Reason.NOT_ATTEMPTED for one in lines) >= 30


def test_a_refused_acl_ends_the_run_and_names_the_setting(transfer: Faulty) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(50)]
    transfer.destination_options["permission"] = "public-read"
    transfer.at_destination.set_rules(Rule(Answer(400, "AccessControlListNotSupported"), kinds=PUT))
    counts, _ = transfer.run(*planned)
    assert counts.stopped is not None
    assert counts.stopped.reason is Reason.ACL_REFUSED
    assert "DESTINATION_S3_PERMISSION" in str(counts.stopped)
    assert transfer.keys() == set()
