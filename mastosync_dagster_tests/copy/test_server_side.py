"""Between two buckets of one server, the server copies by itself; where it does not, bodies are streamed."""

from __future__ import annotations

import logging
import os
import uuid
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster_tests.support.proxy import Answer, Fault, Kind, Proxy, Reset, Rule, When, s3_proxy
from mastosync_dagster_tests.support.transfers import FAST, NEVER_CHANGES, Transfer, line, storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket

MIB = 1024 * 1024
HEADERS = {"ContentType": "image/png", "CacheControl": "immutable", "ContentDisposition": "inline"}
COPY = frozenset({Kind.COPY})


class OneServer(Transfer):
    """A transfer between two buckets of one server, behind a proxy."""

    proxy: Proxy

    def bodies(self) -> int:
        """Return the number of requests that carried a body through here."""
        return self.proxy.count(Kind.GET, Kind.PUT, Kind.UPLOAD_PART)


@pytest.fixture
def transfer(tmp_path: Path, source_bucket: Bucket) -> Iterator[OneServer]:
    name = f"test-{uuid.uuid4().hex[:12]}"
    source_bucket.client.create_bucket(Bucket=name)
    with s3_proxy(source_bucket.server.endpoint) as proxy:
        one = OneServer(tmp_path, source_bucket, replace(source_bucket, name=name), settings=FAST)
        one.proxy = proxy
        one.source_options = {"endpoint": proxy.endpoint}
        one.destination_options = {"endpoint": proxy.endpoint}
        yield one


@pytest.mark.parametrize("size", [0, 5, 17 * MIB])
def test_bodies_do_not_pass_through_here(transfer: OneServer, size: int) -> None:
    body, key = os.urandom(size), f"media/ü 1+2/{NEVER_CHANGES}"
    planned = transfer.put(key, body, Metadata={"color": "red"}, **HEADERS)
    counts, lines = transfer.run(planned)
    assert (lines[0].outcome, lines[0].size, lines[0].etag) == (Outcome.COPIED, size, planned.etag)
    assert (counts.copied, counts.copied_on_server, counts.stats()["copied_on_server"]) == (1, 1, 1)
    assert (transfer.proxy.count(Kind.COPY), transfer.proxy.count(Kind.HEAD), transfer.bodies()) == (1, 1, 0)
    reply = transfer.destination.client.get_object(Bucket=transfer.destination.name, Key=key)
    assert reply["Body"].read() == body
    assert {name: reply.get(name) for name in HEADERS} == HEADERS
    assert reply["Metadata"]["Color"] == "red"


def test_prefixes_of_one_bucket_are_two_places(transfer: OneServer) -> None:
    transfer.destination = transfer.source
    transfer.source_options["prefix"] = "old/"
    transfer.destination_options["prefix"] = "new/"
    _, lines = transfer.run(transfer.put("a", b"body"))
    assert (lines[0].source_key, lines[0].key, lines[0].outcome) == ("old/a", "new/a", Outcome.COPIED)
    assert transfer.fetched("new/a") == b"body"
    assert transfer.bodies() == 0


def test_an_object_that_is_gone_is_missing_and_candidates_are_tried(transfer: OneServer) -> None:
    transfer.put("cache/b", b"body")
    _, lines = transfer.run(line("a", b"x"), line("b", candidates=["cache/b"]))
    assert [(one.key, one.outcome, one.source_key) for one in lines] == [
        ("a", Outcome.MISSING, None),
        ("b", Outcome.COPIED, "cache/b"),
    ]
    assert transfer.bodies() == 0


def test_what_is_older_than_anything_new_is_not_copied_over_what_is_at_the_destination(transfer: OneServer) -> None:
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    transfer.put(f"a/{NEVER_CHANGES}", b"raw")
    transfer.put(f"b/{NEVER_CHANGES}", b"raw")
    transfer.destination.client.put_object(
        Bucket=transfer.destination.name, Key=f"a/{NEVER_CHANGES}", Body=b"converted at the destination"
    )
    _, lines = transfer.run(*(line(f"{name}/{NEVER_CHANGES}", written_after=later) for name in "ab"))
    assert [each.outcome for each in lines] == [Outcome.PRESENT, Outcome.COPIED]
    assert transfer.fetched(f"a/{NEVER_CHANGES}") == b"converted at the destination"


def test_an_object_that_the_server_does_not_find_as_a_source_is_streamed(transfer: OneServer) -> None:
    planned = [transfer.put(f"a{number} b", b"body") for number in range(3)]
    transfer.proxy.set_rules(Rule(Answer(404, "NoSuchKey"), kinds=COPY, key="a1"))
    counts, lines = transfer.run(*planned)
    assert [one.outcome for one in lines] == [Outcome.COPIED] * 3
    assert counts.copied_on_server == 2
    assert transfer.fetched("a1 b") == b"body"


def test_an_object_replaced_since_the_plan_is_copied_as_it_is_now(transfer: OneServer) -> None:
    planned = transfer.put("a", b"old body")
    now = transfer.put("a", b"new")
    _, lines = transfer.run(planned)
    assert (lines[0].outcome, lines[0].size, lines[0].etag) == (Outcome.COPIED, 3, now.etag)
    assert transfer.fetched("a") == b"new"


@pytest.mark.parametrize(
    "fault", [Answer(503, "SlowDown"), Answer(200, "InternalError"), Reset(When.BEFORE), Reset(When.AFTER)]
)
def test_transient_faults_are_repeated(transfer: OneServer, fault: Fault) -> None:
    planned = transfer.put(NEVER_CHANGES, b"body")
    transfer.proxy.set_rules(Rule(fault, kinds=COPY, times=1))
    counts, lines = transfer.run(planned)
    assert (lines[0].outcome, lines[0].detail) == (Outcome.COPIED, None)
    assert (counts.copied_on_server, transfer.bodies()) == (1, 0)
    assert sum(counts.destination.retries.values()) == 1


@pytest.mark.parametrize(
    ("answer", "times"),
    [
        (Answer(501, "NotImplemented"), 1),
        (Answer(403, "AccessDenied"), 2),  # a refusal may pass: it is asked for once more
        (Answer(405), 1),
    ],
)
def test_a_server_that_does_not_copy_by_itself_is_not_asked_again_by_a_worker_and_named_once(
    transfer: OneServer, caplog: pytest.LogCaptureFixture, answer: Answer, times: int
) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(40)]
    transfer.proxy.set_rules(Rule(answer, kinds=COPY))
    with caplog.at_level(logging.WARNING, logger="mastosync_dagster"):
        counts, _ = transfer.run(*planned)
    assert (counts.copied, counts.copied_on_server, counts.stopped) == (40, 0, None)
    assert transfer.proxy.count(Kind.COPY) <= times * transfer.settings.concurrency
    assert [record.getMessage() for record in caplog.records if "does not copy by itself" in record.getMessage()] == [
        record.getMessage() for record in caplog.records
    ]
    assert len(caplog.records) == 1


def test_a_single_object_that_is_refused_is_streamed(transfer: OneServer) -> None:
    planned = [transfer.put(key, b"body") for key in ("a", "b", "c")]
    transfer.settings = replace(transfer.settings, concurrency=1)
    transfer.proxy.set_rules(Rule(Answer(400, "InvalidRequest"), kinds=COPY, key="b"))
    counts, _ = transfer.run(*planned)
    assert (counts.copied, counts.copied_on_server) == (3, 2)
    assert transfer.keys() == {"a", "b", "c"}


def test_a_copy_that_cannot_be_found_is_made_by_streaming(transfer: OneServer) -> None:
    planned = transfer.put("a", b"body")
    transfer.settings = replace(transfer.settings, max_attempts=2)
    transfer.proxy.set_rules(Rule(Answer(404, "NoSuchKey"), kinds=frozenset({Kind.HEAD})))
    counts, lines = transfer.run(planned)
    assert (lines[0].outcome, counts.copied_on_server) == (Outcome.COPIED, 0)
    assert transfer.proxy.count(Kind.PUT) == 1


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({}, True),
        ({"bucket": "another", "prefix": "x/", "permission": "public-read"}, True),
        ({"access_key_id": "another"}, False),
        ({"secret_access_key": "another"}, False),
        ({"session_token": "token"}, False),
        ({"profile": "another"}, False),
        ({"endpoint_url": "http://127.0.0.1:1"}, False),
    ],
)
def test_one_server_is_one_endpoint_under_the_same_credentials(
    source_bucket: Bucket, settings: dict[str, Any], *, same: bool
) -> None:
    assert storage(source_bucket, "source").same_server(storage(source_bucket, "destination", **settings)) == same
