"""Carrying out a plan between two real servers: what arrives, what is said of it, and how it ends."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.records.manifest import ManifestLine
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.proxy import Kind, s3_proxy
from mastosync_dagster_tests.support.transfers import FAST, Transfer, line

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster.copy.engine import CopyProgress
    from mastosync_dagster_tests.support.corners import Bucket

MIB = 1024 * 1024
HEADERS = {
    "ContentType": "image/png",
    "CacheControl": "public, max-age=315576000, immutable",
    "ContentDisposition": 'inline; filename="a.png"',
    "ContentEncoding": "identity",
    "ContentLanguage": "de",
    "Metadata": {"color": "red", "shape": "round"},
}


@pytest.fixture
def transfer(tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket) -> Transfer:
    return Transfer(tmp_path, source_bucket, destination_bucket)


def headers(transfer: Transfer, key: str) -> dict[str, object]:
    reply = transfer.destination.client.head_object(Bucket=transfer.destination.name, Key=key)
    shown: dict[str, object] = {name: reply.get(name) for name in HEADERS}
    # The server capitalizes the names of metadata.
    shown["Metadata"] = {name.lower(): value for name, value in reply["Metadata"].items()}
    return shown


@pytest.mark.parametrize("size", [0, 1, 16_384, 5 * MIB, 16 * MIB, 16 * MIB + 1, 23 * MIB + 4711])
def test_body_headers_and_metadata_arrive_unchanged(transfer: Transfer, size: int) -> None:
    body = os.urandom(size)
    planned = transfer.put("media/original/a.png", body, **HEADERS)
    counts, lines = transfer.run(planned._replace(row_id=7))
    assert transfer.fetched("media/original/a.png") == body
    assert headers(transfer, "media/original/a.png") == HEADERS
    assert lines == [
        ManifestLine(
            group="media_attachments",
            row_id=7,
            part="file/original",
            key="media/original/a.png",
            source_key="media/original/a.png",
            outcome=Outcome.COPIED,
            reason=None,
            detail=None,
            size=size,
            etag=hashlib.md5(body, usedforsecurity=False).hexdigest(),
            private=False,
        )
    ]
    assert (counts.copied, counts.missing, counts.failed, counts.bytes, counts.stopped) == (1, 0, 0, size, None)


@pytest.mark.long
def test_each_of_many_objects_gets_one_line(transfer: Transfer) -> None:
    bodies = {f"accounts/avatars/{number:04}/original/ü {number}.gif": os.urandom(number) for number in range(300)}
    planned = [transfer.put(key, body)._replace(row_id=number) for number, (key, body) in enumerate(bodies.items())]
    counts, lines = transfer.run(*planned)
    assert [(one.key, one.row_id, one.outcome) for one in lines] == [
        (key, number, Outcome.COPIED) for number, key in enumerate(bodies)
    ]
    assert {key: transfer.fetched(key) for key in bodies} == bodies
    assert (counts.copied, counts.bytes) == (300, sum(map(len, bodies.values())))


def test_prefixes_stand_before_the_keys_of_each_storage(transfer: Transfer) -> None:
    transfer.source_options = {"prefix": "old/"}
    transfer.destination_options = {"prefix": "new-"}
    _, lines = transfer.run(transfer.put("a/b.png", b"body"))
    assert (lines[0].source_key, lines[0].key) == ("old/a/b.png", "new-a/b.png")
    assert transfer.keys() == {"new-a/b.png"}


def test_an_object_that_is_gone_is_missing_and_the_others_are_copied(transfer: Transfer) -> None:
    counts, lines = transfer.run(line("gone", b"body"), transfer.put("here", b"body"))
    assert [(one.key, one.outcome, one.reason, one.detail, one.source_key) for one in lines] == [
        ("gone", Outcome.MISSING, None, "deleted between plan and copy", None),
        ("here", Outcome.COPIED, None, None, "here"),
    ]
    assert (counts.copied, counts.missing, counts.failed) == (1, 1, 0)


@pytest.mark.parametrize(
    ("stored", "keep_found_key", "outcome", "source_key", "key"),
    [
        ("a", False, Outcome.COPIED, "a", "a"),
        ("cache/a", False, Outcome.COPIED, "cache/a", "a"),
        ("cache/b", False, Outcome.COPIED, "cache/b", "a"),
        ("cache/b", True, Outcome.COPIED, "cache/b", "cache/b"),
        ("elsewhere", False, Outcome.MISSING, None, "a"),
    ],
)
def test_candidates_are_tried_in_order_where_the_plan_has_not_found_the_object(
    transfer: Transfer, stored: str, outcome: Outcome, source_key: str | None, key: str, *, keep_found_key: bool
) -> None:
    transfer.put(stored, b"body")
    _, lines = transfer.run(line("a", candidates=["cache/a", "cache/b"], keep_found_key=keep_found_key))
    assert [(one.outcome, one.source_key, one.key) for one in lines] == [(outcome, source_key, key)]
    assert transfer.keys() == ({key} if outcome is Outcome.COPIED else set())


def test_the_first_candidate_that_exists_is_taken(transfer: Transfer) -> None:
    transfer.put("two", b"second")
    transfer.put("three", b"third")
    _, lines = transfer.run(line("one", candidates=["two", "three"]))
    assert lines[0].source_key == "two"
    assert transfer.fetched("one") == b"second"


def test_an_absence_that_is_known_to_be_harmless_is_called_so(transfer: Transfer) -> None:
    _, lines = transfer.run(line("a", may_be_absent=True))
    assert (lines[0].outcome, lines[0].detail) == (Outcome.MISSING, "known to be harmless")


@pytest.mark.parametrize("size", [3, 17 * MIB])
def test_an_object_replaced_since_the_plan_is_copied_as_it_is_now(transfer: Transfer, size: int) -> None:
    planned = transfer.put("a", b"old body")
    body = os.urandom(size)
    transfer.put("a", body)
    _, lines = transfer.run(planned)
    assert (lines[0].outcome, lines[0].size) == (Outcome.COPIED, size)
    assert transfer.fetched("a") == body


def test_a_large_object_of_unknown_size_is_streamed(transfer: Transfer) -> None:
    body = os.urandom(17 * MIB)
    transfer.put("a", body)
    _, lines = transfer.run(line("b", candidates=["a"]))
    assert (lines[0].outcome, lines[0].source_key, lines[0].size) == (Outcome.COPIED, "a", 17 * MIB)
    assert transfer.fetched("b") == body


def test_an_empty_plan_leaves_an_empty_result(transfer: Transfer) -> None:
    counts, lines = transfer.run()
    assert (counts.copied, lines) == (0, [])


@pytest.mark.long(cases=0)
def test_progress_is_reported_and_ends_with_the_total(transfer: Transfer) -> None:
    heard: list[CopyProgress] = []
    transfer.on_progress = heard.append
    transfer.settings = replace(transfer.settings, source_requests_per_second=5)
    transfer.run(*(transfer.put(f"a/{number}", b"body") for number in range(12)), line("gone", b"x"))
    assert len(heard) >= 2
    assert [one.done for one in heard] == sorted(one.done for one in heard)
    last = heard[-1]
    assert (last.total, last.total_bytes, last.done, last.copied, last.missing, last.bytes) == (13, 49, 13, 12, 1, 48)


def test_a_copy_of_less_than_a_second_has_a_rate(transfer: Transfer) -> None:
    heard: list[CopyProgress] = []
    transfer.on_progress = heard.append
    transfer.run(*(transfer.put(f"a/{number}", b"body") for number in range(12)))
    last = heard[-1]
    assert last.objects_per_second == pytest.approx(12 / last.seconds, rel=0.1)
    assert last.bytes_per_second == pytest.approx(48 / last.seconds, rel=0.1)


def test_a_stop_before_the_beginning_attempts_nothing(transfer: Transfer) -> None:
    planned = [transfer.put(f"a/{number}", b"body") for number in range(100)]
    transfer.stop.set()
    counts, lines = transfer.run(*planned)
    assert (counts.copied, counts.failed, len(lines)) == (0, 100, 100)
    assert {one.reason for one in lines} == {Reason.NOT_ATTEMPTED}
    assert transfer.keys() == set()


@pytest.mark.long
def test_every_body_is_sent_with_its_md5_as_a_bucket_with_object_lock_wants_it(
    tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket
) -> None:
    with s3_proxy(destination_bucket.server.endpoint) as proxy:
        transfer = Transfer(tmp_path, source_bucket, destination_bucket)
        transfer.destination_options = {"endpoint": proxy.endpoint}
        transfer.settings = replace(FAST, single_put_mb=20)
        planned = [
            transfer.put(f"a/{number}", os.urandom(size))
            for number, size in enumerate([0, 100, 300_000, 12 * MIB, 18 * MIB, 30 * MIB])
        ]
        counts, _ = transfer.run(*planned)
        assert counts.copied == len(planned)
        writes = [request for request in proxy.requests if request.method == "PUT" and request.kind is not Kind.OTHER]
        assert {request.kind for request in writes} == {Kind.PUT, Kind.UPLOAD_PART}
        assert [request.key for request in writes if "content-md5" not in request.headers] == []
