"""Objects that cannot have been copied yet: planned without a request to either storage, and right all the same."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.copy.engine import copy_plan
from mastosync_dagster.plan.decisions import Decision
from mastosync_dagster.plan.items import Batch, ExpectedObject
from mastosync_dagster.plan.planner import PlanCounts, make_plan
from mastosync_dagster.records.manifest import ManifestLine, merge, read_manifest
from mastosync_dagster.records.outcomes import ONLY_AT_DESTINATION, SOURCE_SILENT, Outcome
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.proxy import Answer, Kind, Proxy, Rule, s3_proxy
from mastosync_dagster_tests.support.transfers import FAST, NEVER_CHANGES, storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket

KEY, CACHED = (f"{cache}accounts/avatars/1/original/{NEVER_CHANGES}" for cache in ("", "cache/"))


class TwoBuckets:
    """A source and a destination behind proxies that count."""

    def __init__(self, folder: Path, source: Bucket, destination: Bucket, proxies: tuple[Proxy, Proxy]) -> None:
        self.folder = folder
        self.source, self.destination = source, destination
        self.proxies = proxies

    def run(self, *items: ExpectedObject) -> tuple[PlanCounts, dict[str, ManifestLine]]:
        """Plan and copy; return what the plan counts and the manifest's lines by key."""
        source = storage(self.source, "source", endpoint=self.proxies[0].endpoint)
        destination = storage(self.destination, "destination", endpoint=self.proxies[1].endpoint)
        batch = Batch(items, rows=len(items))
        counts = make_plan([batch], source, destination, self.folder, copy_private=False)
        copy_plan(self.folder, source, destination, FAST, on_progress=lambda _: None, stop=threading.Event())
        return counts, {line.key: line for lines in read_manifest(merge(self.folder)) for line in lines}

    def requests(self) -> list[list[Kind]]:
        """Return the kinds of the requests to each storage, in order."""
        return [[request.kind for request in proxy.requests] for proxy in self.proxies]


@pytest.fixture
def world(tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket) -> Iterator[TwoBuckets]:
    with s3_proxy(source_bucket.server.endpoint) as source, s3_proxy(destination_bucket.server.endpoint) as destination:
        yield TwoBuckets(tmp_path, source_bucket, destination_bucket, (source, destination))


def put(bucket: Bucket, key: str, body: bytes = b"body") -> None:
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=body)


def test_a_new_object_costs_one_get_and_one_put(world: TwoBuckets) -> None:
    put(world.source, KEY)
    counts, lines = world.run(ExpectedObject(KEY, (CACHED,), new=True))
    assert (lines[KEY].outcome, lines[KEY].source_key) == (Outcome.COPIED, KEY)
    assert world.requests() == [[Kind.GET], [Kind.PUT]]
    assert (counts.to_copy, counts.list_requests, counts.head_requests) == (1, 0, 0)


def test_candidates_of_a_new_object_are_tried_too(world: TwoBuckets) -> None:
    put(world.source, CACHED)
    _, lines = world.run(ExpectedObject(KEY, (CACHED,), new=True))
    assert (lines[KEY].outcome, lines[KEY].source_key) == (Outcome.COPIED, CACHED)


def test_one_that_the_source_lacks_is_missing_once_the_destination_has_been_asked(world: TwoBuckets) -> None:
    _, lines = world.run(ExpectedObject(KEY, (CACHED,), new=True))
    assert lines[KEY].outcome is Outcome.MISSING
    # Missing is final, so the source is asked twice.
    assert world.requests() == [[Kind.GET, Kind.GET, Kind.HEAD, Kind.HEAD], [Kind.HEAD]]


def test_one_that_mastodon_wrote_to_the_destination_alone_is_present_and_stays_as_it_is(world: TwoBuckets) -> None:
    put(world.destination, KEY, b"written after the switch")
    _, lines = world.run(ExpectedObject(KEY, (CACHED,), new=True))
    assert (lines[KEY].outcome, lines[KEY].detail) == (Outcome.PRESENT, ONLY_AT_DESTINATION)
    assert Kind.PUT not in world.requests()[1]


NOW = datetime.now(timezone.utc)
BEFORE, LATER = NOW - timedelta(hours=1), NOW + timedelta(hours=1)


def test_what_is_older_at_the_source_than_anything_new_is_not_written_over_what_is_at_the_destination(
    world: TwoBuckets,
) -> None:
    # The row's time is that of what Mastodon has written at the destination, after the switch.
    put(world.source, KEY)
    put(world.destination, KEY, b"converted there")
    _, lines = world.run(ExpectedObject(KEY, new=True, written_after=LATER))
    assert (lines[KEY].outcome, lines[KEY].detail) == (Outcome.PRESENT, Decision.WRITTEN_THERE.words)
    assert Kind.PUT not in world.requests()[1]


def test_one_that_was_copied_before_after_all_is_present(world: TwoBuckets) -> None:
    put(world.source, KEY)
    put(world.destination, KEY)
    _, lines = world.run(ExpectedObject(KEY, new=True, written_after=LATER))
    assert (lines[KEY].outcome, lines[KEY].detail) == (Outcome.PRESENT, None)
    assert Kind.PUT not in world.requests()[1]


def test_one_that_the_destination_lacks_is_copied_whenever_it_was_written(world: TwoBuckets) -> None:
    put(world.source, KEY)
    _, lines = world.run(ExpectedObject(KEY, new=True, written_after=LATER))
    assert lines[KEY].outcome is Outcome.COPIED


def test_a_new_object_that_is_new_costs_no_question(world: TwoBuckets) -> None:
    put(world.source, KEY)
    _, lines = world.run(ExpectedObject(KEY, new=True, written_after=BEFORE))
    assert lines[KEY].outcome is Outcome.COPIED
    assert world.requests() == [[Kind.GET], [Kind.PUT]]


def test_a_source_that_may_not_be_listed_says_403_of_what_it_lacks(world: TwoBuckets) -> None:
    world.proxies[0].set_rules(Rule(Answer(403, "AccessDenied")))
    put(world.destination, KEY)
    other = KEY.replace("/1/", "/2/")
    _, lines = world.run(ExpectedObject(KEY, new=True), ExpectedObject(other, new=True))
    assert (lines[KEY].outcome, lines[KEY].detail) == (Outcome.PRESENT, SOURCE_SILENT)
    assert (lines[other].outcome, lines[other].reason) == (Outcome.FAILED, Reason.ACCESS_DENIED)


def test_a_destination_that_does_not_answer_leaves_no_doubt_unsaid(world: TwoBuckets) -> None:
    world.proxies[1].set_rules(Rule(Answer(400, "InvalidRequest"), kinds=frozenset({Kind.HEAD})))
    _, lines = world.run(ExpectedObject(KEY, new=True))
    assert lines[KEY].outcome is Outcome.FAILED


def test_a_private_new_object_does_not_go_where_there_are_no_acls(world: TwoBuckets) -> None:
    put(world.source, KEY)
    _, lines = world.run(ExpectedObject(KEY, private=True, new=True))
    assert (lines[KEY].outcome, lines[KEY].reason) == (Outcome.FAILED, Reason.PRIVATE_NOT_COPIED)
    assert world.requests() == [[], []]


def test_new_and_known_objects_of_a_batch_do_not_disturb_each_other(world: TwoBuckets) -> None:
    known = KEY.replace("/1/", "/2/")
    for key in (KEY, known):
        put(world.source, key)
    put(world.destination, known)
    _, lines = world.run(ExpectedObject(KEY, new=True), ExpectedObject(known))
    assert {key: line.outcome for key, line in lines.items()} == {KEY: Outcome.COPIED, known: Outcome.PRESENT}
    assert sorted(kind.value for kinds in world.requests() for kind in kinds) == ["get", "head", "head", "put"]
