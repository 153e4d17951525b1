"""What proxies answer in a storage's place, and servers that know S3 badly: nothing wrong is published."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.living import md5
from mastosync_dagster_tests.support.proxy import Cut, Kind, NewHeaders, Page, Proxy, Reset, Rule, When, s3_proxy
from mastosync_dagster_tests.support.transfers import FAST, NEVER_CHANGES, Transfer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket

MIB = 1024 * 1024
SMALL = os.urandom(40_000)
LARGE = os.urandom(11 * MIB + 123)
READ = frozenset({Kind.GET, Kind.HEAD})
GET = frozenset({Kind.GET})


class Proxied(Transfer):
    """A transfer with a proxy before the source."""

    at_source: Proxy


@pytest.fixture
def transfer(tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket) -> Iterator[Proxied]:
    settings = replace(FAST, large_object_mb=8, max_attempts=3)
    with contextlib.ExitStack() as stack:
        proxied = Proxied(tmp_path, source_bucket, destination_bucket, settings=settings)
        proxied.at_source = stack.enter_context(s3_proxy(source_bucket.server.endpoint))
        proxied.source_options = {"endpoint": proxied.at_source.endpoint, "read_timeout": 5.0}
        yield proxied


def no_length(etag: str | None) -> NewHeaders:
    """Leave the length out, as a proxy does that rewrites bodies, and the ETag with it or instead of it."""
    return NewHeaders((("content-length", None), ("etag", etag)))


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("etag", ['"opaque-1"', 'W/"opaque"', None])
def test_an_object_whose_length_nobody_names_is_copied_whole(transfer: Proxied, body: bytes, etag: str | None) -> None:
    planned = transfer.put("a.png", body)._replace(etag=etag)
    transfer.at_source.set_rules(Rule(no_length(etag), kinds=READ))
    _, lines = transfer.run(planned)
    assert [(one.outcome, one.size) for one in lines] == [(Outcome.COPIED, len(body))]
    assert transfer.fetched("a.png") == body


def test_where_neither_plan_nor_answer_names_a_length_nothing_is_published(transfer: Proxied) -> None:
    planned = transfer.put("a.png", LARGE)._replace(size=None, etag=None)
    transfer.at_source.set_rules(Rule(no_length('"opaque-1"'), kinds=READ))
    _, (one,) = transfer.run(planned)
    assert one.outcome is Outcome.FAILED
    assert "no Content-Length" in (one.detail or "")
    assert not transfer.keys()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("planned_bytes", [len(LARGE) - 1, len(LARGE) + 1])
def test_a_body_without_a_length_that_is_not_as_planned_is_not_published(transfer: Proxied, planned_bytes: int) -> None:
    planned = transfer.put("a.png", LARGE)._replace(size=planned_bytes, etag=None)
    transfer.at_source.set_rules(Rule(no_length(None), kinds=READ))
    _, (one,) = transfer.run(planned)
    assert one.outcome is Outcome.FAILED
    assert not transfer.keys()


def test_a_destination_that_names_no_length_fails_the_object_alone(
    transfer: Proxied, destination_bucket: Bucket
) -> None:
    planned = [transfer.put(f"{number}.mp4", body) for number, body in enumerate((LARGE, SMALL))]
    with s3_proxy(destination_bucket.server.endpoint) as proxy:
        transfer.destination_options = {"endpoint": proxy.endpoint}
        # The answer to the first PUT is lost, so that the object is asked for.
        lost = Rule(Reset(When.AFTER), kinds=frozenset({Kind.PUT}), key="0.mp4", times=1)
        proxy.set_rules(lost, Rule(no_length(None), kinds=frozenset({Kind.HEAD}), key="0.mp4", skip=1))
        counts, lines = transfer.run(*planned)
    assert (counts.copied, counts.stopped) == (1, None)
    assert "no Content-Length" in (lines[0].detail or "")


def test_a_length_that_a_proxy_has_merged_out_of_two_is_one(transfer: Proxied) -> None:
    planned = transfer.put("a.png", SMALL)._replace(etag=None)
    merged = NewHeaders((("content-length", f"{len(SMALL)}, {len(SMALL)}"), ("etag", None)))
    transfer.at_source.set_rules(Rule(merged, kinds=READ))
    _, lines = transfer.run(planned)
    assert [(one.outcome, one.detail) for one in lines] == [(Outcome.COPIED, None)]
    assert transfer.fetched("a.png") == SMALL


@pytest.mark.parametrize("etag", [None, '"65a1-7f3"', f'"{md5(Page(200).text.encode())}"'])
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_a_page_that_a_proxy_sends_for_every_object_is_none(transfer: Proxied, body: bytes, etag: str | None) -> None:
    listed, unlisted = transfer.put("a.png", body), transfer.put("b.png", body)._replace(size=None, etag=None)
    transfer.at_source.set_rules(Rule(Page(200, etag=etag), kinds=READ))
    _, lines = transfer.run(listed, unlisted)
    assert [one.outcome for one in lines] == [Outcome.FAILED, Outcome.FAILED]
    assert all("a page in HTML" in (one.detail or "") for one in lines)
    assert not transfer.keys()


@pytest.mark.parametrize("etag", [None, '"65a1-7f3"'])
def test_nor_is_a_text_of_another_length(transfer: Proxied, etag: str | None) -> None:
    planned = transfer.put("a.png", SMALL)
    transfer.at_source.set_rules(Rule(Page(200, "Back soon.", etag=etag, content_type="text/plain"), kinds=READ))
    _, (one,) = transfer.run(planned)
    assert (one.outcome, one.reason) == (Outcome.FAILED, Reason.CHANGED_DURING_COPY)
    assert not transfer.keys()


@pytest.mark.parametrize(
    "text", ["404 page not found\n", "<html><body><h1>404 Not Found</h1></body></html>", "<html><div id=app></html>"]
)
def test_what_a_proxy_says_of_an_object_makes_none_missing(transfer: Proxied, text: str) -> None:
    planned = [transfer.put(f"{number}.png", SMALL) for number in range(4)]
    planned.append(planned[0]._replace(key="u.png", source_key="u.png", size=None, etag=None))
    transfer.at_source.set_rules(Rule(Page(404, text), kinds=READ))
    counts, lines = transfer.run(*planned)
    assert (counts.missing, counts.failed) == (0, 5)
    assert {one.reason for one in lines} == {Reason.SERVER_ERROR}
    assert all("a proxy before the source" in (one.detail or "") for one in lines)


@pytest.mark.parametrize(
    "fields",
    [
        (("etag", '"another"'),),
        (("content-range", f"bytes 0-{len(LARGE) - 5 * MIB - 1}/{len(LARGE)}"),),
        (("content-range", f"bytes {5 * MIB}-{len(LARGE)}/{len(LARGE) + 1}"),),
    ],
    ids=["another object", "another range", "another length"],
)
def test_the_rest_of_another_object_is_not_put_behind_the_beginning_of_one(
    transfer: Proxied, fields: tuple[tuple[str, str | None], ...]
) -> None:
    planned = transfer.put(NEVER_CHANGES, LARGE)
    transfer.at_source.set_rules(Rule(Cut(5 * MIB), kinds=GET, times=1), Rule(NewHeaders(fields), kinds=GET, times=1))
    _, lines = transfer.run(planned)
    assert [(one.outcome, one.detail) for one in lines] == [(Outcome.COPIED, None)]
    assert transfer.fetched(NEVER_CHANGES) == LARGE
    # What had come was given up.
    assert transfer.at_source.count(Kind.GET) == 3


@pytest.mark.parametrize("etag", ['"ABC-KMS"', '"abc-kms"', 'W/"abc"'])
def test_a_body_that_breaks_off_is_read_on_from_there_however_its_etag_is_spelled(transfer: Proxied, etag: str) -> None:
    planned = transfer.put(NEVER_CHANGES, LARGE)._replace(etag=None)
    named = NewHeaders((("etag", etag),))
    transfer.at_source.set_rules(Rule(replace(named, after=5 * MIB), kinds=GET, times=1), Rule(named, kinds=READ))
    _, lines = transfer.run(planned)
    assert [(one.outcome, one.detail) for one in lines] == [(Outcome.COPIED, None)]
    assert transfer.fetched(NEVER_CHANGES) == LARGE
    sent = [each.headers.get("if-match") for each in transfer.at_source.requests if each.kind is Kind.GET]
    assert sent == [None, None if etag.startswith("W/") else etag]


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_a_part_that_nobody_has_asked_for_is_named(transfer: Proxied, body: bytes) -> None:
    planned = transfer.put("a.png", body)
    transfer.at_source.set_rules(Rule(Page(206), kinds=GET))
    _, (one,) = transfer.run(planned)
    assert "it answers with HTTP 206, which was not asked for" in (one.detail or "")
    assert not transfer.keys()
