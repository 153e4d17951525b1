"""What a plan makes of what both storages have."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mastosync_dagster.plan.decisions import Known, Row
from mastosync_dagster.plan.items import Batch, ExpectedObject
from mastosync_dagster.plan.planner import SOURCE_DIFFERS, PlanCounts, make_plan
from mastosync_dagster.records.manifest import ManifestLine, read_manifest
from mastosync_dagster.records.outcomes import HARMLESS, NO_ACLS, ONLY_AT_DESTINATION, SOURCE_SILENT, Outcome
from mastosync_dagster.records.plan import DECIDED, PlannedCopy, read_plan
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.listing import KeyRange
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.proxy import Answer, Kind, Proxy, Rule, ShortList, s3_proxy
from mastosync_dagster_tests.support.transfers import put_many, storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket

PREFIX = "media/files/"
CACHED = f"cache/{PREFIX}"
RANGES = (KeyRange(PREFIX, PREFIX, "media/files0"), KeyRange(CACHED, CACHED, "cache/media/files0"))
MD5_OF_BODY = "841a2d689ad86bd1611447453c22c6fc"


class TwoBuckets:
    """Two buckets behind proxies that count, and a folder for plans."""

    def __init__(self, folder: Path, source: Bucket, destination: Bucket, proxies: tuple[Proxy, Proxy]) -> None:
        self.folder = folder
        self.buckets = (source, destination)
        self.proxies = proxies
        self.source = storage(source, "source", endpoint=proxies[0].endpoint)
        self.destination = storage(destination, "destination", endpoint=proxies[1].endpoint)

    def set_destination(self, **settings: object) -> None:
        """Change settings of the destination."""
        endpoint = self.proxies[1].endpoint
        self.destination = storage(self.buckets[1], "destination", endpoint=endpoint, **settings)

    def at_source(self, *keys: str, body: bytes = b"body") -> None:
        """Put objects."""
        for key in keys:
            self.buckets[0].client.put_object(Bucket=self.buckets[0].name, Key=key, Body=body)

    def at_destination(self, *keys: str, body: bytes = b"body") -> None:
        """Put objects."""
        for key in keys:
            self.buckets[1].client.put_object(Bucket=self.buckets[1].name, Key=key, Body=body)

    def plan(
        self, *items: ExpectedObject, ranges: tuple[KeyRange, ...] = RANGES, copy_private: bool = False
    ) -> PlanCounts:
        """Plan one batch."""
        return self.plan_batches([Batch(items, ranges, rows=len(items))], copy_private=copy_private)

    def plan_batches(self, batches: Iterable[Batch], *, copy_private: bool = False) -> PlanCounts:
        """Plan, and check what holds of every plan."""
        counts = make_plan(batches, self.source, self.destination, self.folder, copy_private=copy_private)
        decided, planned = self.decided(), self.planned()
        assert counts.to_copy == len(planned)
        assert counts.bytes_to_copy == sum(line.size or 0 for line in planned)
        for outcome in (Outcome.PRESENT, Outcome.MISSING, Outcome.FAILED):
            assert getattr(counts, outcome.value) == sum(line.outcome is outcome for line in decided)
        assert counts.objects == len(decided) + len(planned)
        assert len({line.key for line in decided} | {line.key for line in planned}) == counts.objects
        return counts

    def decided(self) -> list[ManifestLine]:
        """Return the manifest lines of what needs no copy."""
        return [line for lines in read_manifest(self.folder / DECIDED) for line in lines]

    def planned(self) -> list[PlannedCopy]:
        """Return what is to be copied."""
        return [line for lines in read_plan(self.folder) for line in lines]

    def remarks(self) -> list[tuple[str, str | None, Outcome, str | None]]:
        """Return key, source key, outcome and detail of what needs no copy."""
        return [(line.key, line.source_key, line.outcome, line.detail) for line in self.decided()]

    def requests(self) -> list[dict[Kind, int]]:
        """Return the number of requests to each storage by kind."""
        return [{kind: proxy.count(kind) for kind in Kind if proxy.count(kind)} for proxy in self.proxies]


@pytest.fixture
def world(tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket) -> Iterator[TwoBuckets]:
    with s3_proxy(source_bucket.server.endpoint) as source, s3_proxy(destination_bucket.server.endpoint) as destination:
        yield TwoBuckets(tmp_path, source_bucket, destination_bucket, (source, destination))


def test_an_object_that_nothing_decides_has_failed_also_if_its_acl_is_set_first(world: TwoBuckets) -> None:
    world.set_destination(permission="public-read")
    world.at_source(key("a"), body=b"one")
    world.at_destination(key("a"), body=b"two")
    items = (item("a", check_acl=True),)
    batch = Batch(items, RANGES, rows=1)
    counts = make_plan(
        [batch],
        world.source,
        world.destination,
        world.folder,
        copy_private=False,
        knowledge=lambda objects: [Known(Row(), None)] * len(objects),
    )
    assert (counts.failed, counts.present, counts.to_copy, counts.to_set_acls) == (1, 0, 0, 1)


def key(name: str) -> str:
    return f"{PREFIX}{name}"


def cached(name: str) -> str:
    return f"{CACHED}{name}"


def item(name: str, **fields: Any) -> ExpectedObject:
    return ExpectedObject(key(name), group="media", row_id=7, part="file/original", **fields)


# What both storages have


def test_what_is_equal_is_present_and_what_is_absent_or_differs_is_copied(world: TwoBuckets) -> None:
    world.at_source(key("absent"), key("equal"), key("longer"), key("other"))
    world.at_destination(key("equal"))
    world.at_destination(key("longer"), body=b"bodies")
    world.at_destination(key("other"), body=b"BODY")
    counts = world.plan(item("absent"), item("equal"), item("longer"), item("other"))
    # The name of what is absent is not one that Mastodon gives: the listing alone does not decide.
    assert counts == PlanCounts(
        rows=4, objects=4, to_copy=3, present=1, bytes_to_copy=12, list_requests=4, head_requests=1
    )
    assert [(line.key, line.source_key, line.size, line.etag) for line in world.planned()] == [
        (key(name), key(name), 4, MD5_OF_BODY) for name in ("absent", "longer", "other")
    ]
    # Whether the ETags are MD5s is asked once more, at the one that differs by its ETag alone.
    assert world.requests() == [{Kind.LIST: 2, Kind.HEAD: 1}, {Kind.LIST: 2, Kind.HEAD: 2}]


def test_what_is_as_long_as_it_must_be_is_not_overwritten_with_what_is_not(world: TwoBuckets) -> None:
    for name in ("right-there", "right-here", "unknown"):
        world.at_source(key(name), body=b"cut")
        world.at_destination(key(name), body=b"whole")
    counts = world.plan(item("right-there", size=5), item("right-here", size=3), item("unknown"))
    assert (counts.present, counts.to_copy) == (1, 2)
    assert world.remarks() == [(key("right-there"), None, Outcome.PRESENT, SOURCE_DIFFERS)]
    assert {line.key for line in world.planned()} == {key("right-here"), key("unknown")}


def test_nor_is_it_overwritten_because_a_verification_wants_it_copied_again(world: TwoBuckets) -> None:
    world.at_source(key("cut-at-source"), key("equal"), body=b"cut")
    world.at_destination(key("cut-at-source"), body=b"whole")
    world.at_destination(key("equal"), body=b"cut")
    world.plan(item("cut-at-source", size=5, again=True), item("equal", size=3, again=True))
    assert world.remarks() == [(key("cut-at-source"), None, Outcome.PRESENT, SOURCE_DIFFERS)]
    assert [line.key for line in world.planned()] == [key("equal")]


def test_a_private_object_that_lies_where_no_acl_keeps_it_so_is_reported(world: TwoBuckets) -> None:
    world.set_destination(permission="")
    world.at_source(key("a"), key("b"))
    world.at_destination(key("a"), key("b"))
    world.plan(item("a", private=True), item("b"))
    assert [(line.key, line.outcome, line.detail) for line in world.decided()] == [
        (key("a"), Outcome.PRESENT, NO_ACLS),
        (key("b"), Outcome.PRESENT, None),
    ]


def test_lines_show_what_is_known_with_full_keys(world: TwoBuckets) -> None:
    world.source = storage(world.buckets[0], "source", prefix="old/")
    world.set_destination(prefix="new/", permission="public-read")
    world.at_source(f"old/{key('a')}", f"old/{cached('b')}")
    world.at_destination(f"new/{key('a')}")
    world.plan(item("a", private=True), item("b", candidates=(cached("b"),), private=True, may_be_absent=True))
    assert world.decided() == [
        ManifestLine(
            group="media",
            row_id=7,
            part="file/original",
            key=f"new/{key('a')}",
            source_key=f"old/{key('a')}",
            outcome=Outcome.PRESENT,
            reason=None,
            detail=None,
            size=4,
            etag=MD5_OF_BODY,
            private=True,
            remote=False,
        )
    ]
    assert world.planned() == [
        PlannedCopy(
            key=key("b"),
            source_key=cached("b"),
            candidates=[],
            size=4,
            etag=MD5_OF_BODY,
            private=True,
            keep_found_key=False,
            may_be_absent=True,
            group="media",
            row_id=7,
            part="file/original",
            remote=False,
        )
    ]


def test_what_the_source_lacks_is_missing_or_only_at_the_destination(world: TwoBuckets) -> None:
    world.at_destination(key("new"))
    counts = world.plan(item("gone"), item("new"), item("never", may_be_absent=True))
    assert world.remarks() == [
        (key("gone"), None, Outcome.MISSING, None),
        (key("new"), None, Outcome.PRESENT, ONLY_AT_DESTINATION),
        (key("never"), None, Outcome.MISSING, HARMLESS),
    ]
    assert (counts.missing, counts.present) == (2, 1)


def test_nothing_is_missing_on_the_word_of_a_listing_alone(world: TwoBuckets) -> None:
    world.at_source("elsewhere/a", "elsewhere/b")
    items = (
        ExpectedObject("elsewhere/a"),
        ExpectedObject("elsewhere/gone", candidates=("elsewhere/b",)),
        ExpectedObject("elsewhere/lost"),
    )
    counts = world.plan(*items)
    assert [(line.key, line.source_key) for line in world.planned()] == [
        ("elsewhere/a", "elsewhere/a"),
        ("elsewhere/gone", "elsewhere/b"),
    ]
    assert (counts.missing, counts.head_requests) == (1, 5 + 3)


EMPTY_LISTING = Rule(ShortList(0), kinds=frozenset({Kind.LIST}))
"""A listing that shows nothing, and says that it is complete."""


def test_what_only_the_destination_has_is_not_missing_because_its_listing_lacks_it(world: TwoBuckets) -> None:
    world.at_source(key("other"))
    world.at_destination(key("kept"))
    world.proxies[1].set_rules(EMPTY_LISTING)
    world.plan(item("kept"), item("nowhere"), item("harmless", may_be_absent=True))
    assert [(line.key, line.outcome, line.detail) for line in world.decided()] == [
        (key("kept"), Outcome.PRESENT, ONLY_AT_DESTINATION),
        (key("nowhere"), Outcome.MISSING, None),
        (key("harmless"), Outcome.MISSING, HARMLESS),
    ]
    assert world.proxies[1].count(Kind.HEAD) == 2


def test_what_the_destination_has_is_compared_although_the_listing_of_the_source_lacks_it(world: TwoBuckets) -> None:
    names = [f"{number:02d}" for number in range(30)]
    world.at_source(*map(key, names), body=b"whole")
    world.at_destination(*map(key, names), body=b"whole")
    world.at_destination(key("07"), body=b"who")
    for listed in (0, 1, 29):
        world.proxies[0].set_rules(Rule(ShortList(listed), kinds=frozenset({Kind.LIST})))
        counts = world.plan(*map(item, names))
        assert [line.key for line in world.planned()] == [key("07")]
        assert (counts.present, counts.only_at_destination) == (29, 0)


def test_what_only_the_destination_has_costs_a_few_requests_a_batch(world: TwoBuckets) -> None:
    """After the switch, the source lacks everything that is new."""
    names = [f"{number:03d}" for number in range(300)]
    world.at_source(cached("old"))
    world.at_destination(*map(key, names))
    counts = world.plan(*map(item, names), item("old", candidates=(cached("old"),)), item("lost"))
    assert (counts.only_at_destination, counts.to_copy, counts.missing) == (300, 1, 1)
    assert world.proxies[0].count(Kind.HEAD) <= 10 + 4


def test_an_older_object_is_not_taken_because_a_listing_lacks_the_one_that_is_wanted(world: TwoBuckets) -> None:
    world.at_source(key("a"), body=b"older")
    world.at_source(cached("a"), body=b"wanted")
    wanted = ExpectedObject(cached("a"), candidates=(key("a"),))
    for ranges in (RANGES, RANGES[::-1]):
        world.proxies[0].set_rules(Rule(Answer(200, "InternalError"), kinds=frozenset({Kind.LIST}), times=1))
        world.plan(wanted, ranges=ranges)
        assert [(line.source_key, line.size) for line in world.planned()] == [(cached("a"), 6)]


def test_nor_is_what_is_as_long_as_it_must_be_overwritten_for_that(world: TwoBuckets) -> None:
    world.at_source(key("damaged"), key("whole"), body=b"cut")
    world.at_destination(key("damaged"), body=b"whole")
    world.proxies[1].set_rules(EMPTY_LISTING)
    world.plan(item("damaged", size=5), item("whole", size=3))
    assert world.remarks() == [(key("damaged"), None, Outcome.PRESENT, SOURCE_DIFFERS)]
    assert [line.key for line in world.planned()] == [key("whole")]
    assert world.proxies[1].count(Kind.HEAD) == 2


def test_what_is_left_out_and_gives_no_answer_has_failed(world: TwoBuckets) -> None:
    world.at_destination(key("there"))
    world.proxies[1].set_rules(Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.HEAD}), key="silent"))
    counts = world.plan(*(item(name, acl_only=True) for name in ("there", "silent", "gone")), ranges=())
    assert (counts.objects, counts.acl_only, counts.present, counts.failed) == (2, 2, 1, 1)
    assert [(line.key, line.outcome, line.reason) for line in world.decided() if line.outcome is Outcome.FAILED] == [
        (key("silent"), Outcome.FAILED, Reason.ACCESS_DENIED)
    ]


def test_a_candidate_goes_to_the_derived_key_and_that_of_an_unfinished_row_to_its_own(world: TwoBuckets) -> None:
    world.at_source(cached("a"), key("b.mp4"), key("c.mp4"), key("c.mov"))
    world.plan(
        item("a", candidates=(cached("a"),)),
        item("b.mov", candidates=(key("b.mp4"),), keep_found_key=True),
        item("c.mov", candidates=(key("c.mp4"),), keep_found_key=True),
    )
    assert sorted((line.key, line.source_key) for line in world.planned()) == [
        (key("a"), cached("a")),
        (key("b.mp4"), key("b.mp4")),
        (key("c.mov"), key("c.mov")),
    ]
    world.at_destination(key("a"), key("b.mp4"))
    counts = world.plan(
        item("a", candidates=(cached("a"),)), item("b.mov", candidates=(key("b.mp4"),), keep_found_key=True)
    )
    assert counts.to_copy == 0
    assert world.remarks() == [
        (key("a"), cached("a"), Outcome.PRESENT, None),
        (key("b.mp4"), key("b.mp4"), Outcome.PRESENT, None),
    ]


@pytest.mark.parametrize(
    ("permission", "copy_private", "copied"),
    [
        ("public-read", False, True),
        ("private", False, False),
        ("authenticated-read", False, False),
        ("private", True, True),
        (None, False, False),
        ("", False, False),
        (None, True, True),
    ],
)
def test_private_objects_do_not_go_where_they_cannot_stay_private(
    world: TwoBuckets, *, permission: str | None, copy_private: bool, copied: bool
) -> None:
    world.set_destination(permission=permission)
    world.at_source(key("a"), key("b"))
    world.at_destination(key("b"))
    world.plan(item("a", private=True), item("b", private=True), item("gone", private=True), copy_private=copy_private)
    outcomes = {line.key: (line.outcome, line.reason) for line in world.decided()}
    assert outcomes.pop(key("b")) == (Outcome.PRESENT, None)
    assert outcomes.pop(key("gone")) == (Outcome.MISSING, None)
    assert outcomes == ({} if copied else {key("a"): (Outcome.FAILED, Reason.PRIVATE_NOT_COPIED)})
    assert [line.private for line in world.planned()] == [True] * copied


def test_an_etag_that_is_no_md5_is_no_difference(world: TwoBuckets, moto_bucket: Bucket) -> None:
    upload: dict[str, Any] = {"Bucket": moto_bucket.name, "Key": key("a")}
    number = moto_bucket.client.create_multipart_upload(**upload)["UploadId"]
    part = moto_bucket.client.upload_part(**upload, UploadId=number, PartNumber=1, Body=b"body")
    moto_bucket.client.complete_multipart_upload(
        **upload,
        UploadId=number,
        MultipartUpload={"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]},
    )
    world.destination = storage(moto_bucket, "destination")
    world.at_source(key("a"))
    assert world.plan(item("a")).present == 1


def test_a_bucket_whose_etags_only_look_like_md5s_is_not_copied_again_and_again(
    world: TwoBuckets, moto_bucket: Bucket
) -> None:
    names = [f"{number:02d}" for number in range(20)]
    world.at_source(*map(key, names))
    for name in names:
        # moto's ETags stay MD5s: another body of the same size stands for the ETag of an encrypted one.
        moto_bucket.client.put_object(
            Bucket=moto_bucket.name, Key=key(name), Body=b"BODY", ServerSideEncryption="aws:kms"
        )
    with s3_proxy(moto_bucket.server.endpoint) as proxy:
        world.destination = storage(moto_bucket, "destination", endpoint=proxy.endpoint)
        counts = world.plan(*map(item, names))
        assert (counts.present, counts.to_copy) == (20, 0)
        assert proxy.count(Kind.HEAD) == 1


def test_damaged_objects_are_copied_again_without_a_question_each(world: TwoBuckets) -> None:
    names = [f"{number:02d}" for number in range(30)]
    world.at_source(*map(key, names))
    world.at_destination(*map(key, names), body=b"BODY")
    assert world.plan(*map(item, names)).to_copy == 30


# How they are asked


@pytest.mark.long
def test_a_repeated_plan_asks_for_pages_and_never_for_an_object(world: TwoBuckets) -> None:
    names = [f"{number // 1000:03d}/{number % 1000:03d}/a" for number in range(3000)]
    for bucket in world.buckets:
        put_many(bucket, [key(name) for name in names], b"x")
    for proxy in world.proxies:
        proxy.forget()
    batches = []
    for first in range(3):
        start, end = f"{PREFIX}{first:03d}/", f"{PREFIX}{first:03d}0"
        ranges = (KeyRange(PREFIX, start, end), KeyRange(CACHED, f"cache/{start}", f"cache/{end}"))
        batches.append(Batch(tuple(map(item, names[first * 1000 : first * 1000 + 1000])), ranges, rows=500))
    counts = world.plan_batches(batches)
    assert (counts.present, counts.rows) == (3000, 1500)
    assert counts.head_requests == 0
    for requests in world.requests():
        assert set(requests) == {Kind.LIST}
        assert requests[Kind.LIST] <= 9
    assert counts.list_requests == sum(requests[Kind.LIST] for requests in world.requests())


def test_without_ranges_each_object_is_asked_for(world: TwoBuckets) -> None:
    world.at_source(key("a"), cached("b"))
    world.at_destination(key("a"), key("only"))
    counts = world.plan(
        item("a"),
        item("b", candidates=(cached("b"),)),
        item("gone", candidates=(cached("gone"),)),
        item("only"),
        ranges=(),
    )
    assert {line[0]: line[2] for line in world.remarks()} == {
        key("a"): Outcome.PRESENT,
        key("gone"): Outcome.MISSING,
        key("only"): Outcome.PRESENT,
    }
    assert [line.source_key for line in world.planned()] == [cached("b")]
    assert world.requests() == [{Kind.HEAD: 7}, {Kind.HEAD: 4}]
    assert (counts.list_requests, counts.head_requests) == (0, 11)


NOT_LISTED = Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.LIST}))
ABSENT_IS_DENIED = Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.HEAD}), key="absent")
"""Without the right to list a bucket, S3 answers 403 for objects that are not there."""


@pytest.mark.parametrize("source_listed", [True, False])
@pytest.mark.parametrize("destination_listed", [True, False])
def test_a_storage_that_may_not_be_listed_is_asked_for_each_object(
    world: TwoBuckets, *, source_listed: bool, destination_listed: bool
) -> None:
    world.at_source(key("equal"), key("differs"), key("to-copy-absent"))
    world.at_source(cached("moved"))
    world.at_destination(key("equal"), key("only"))
    world.at_destination(key("differs"), body=b"longer")
    for listed, proxy in zip((source_listed, destination_listed), world.proxies, strict=True):
        proxy.set_rules(*(() if listed else (NOT_LISTED,)))
    for _ in range(2):
        counts = world.plan(
            item("equal"),
            item("differs"),
            item("to-copy-absent"),
            item("moved", candidates=(cached("moved"),)),
            item("only"),
            item("gone"),
        )
        assert {line[0]: line[2] for line in world.remarks()} == {
            key("equal"): Outcome.PRESENT,
            key("only"): Outcome.PRESENT,
            key("gone"): Outcome.MISSING,
        }
        assert {line.key: (line.source_key, line.size) for line in world.planned()} == {
            key("differs"): (key("differs"), 4),
            key("to-copy-absent"): (key("to-copy-absent"), 4),
            key("moved"): (cached("moved"), 4),
        }
        assert (counts.source_listed, counts.destination_listed) == (source_listed, destination_listed)


def test_once_refused_a_storage_is_not_asked_for_a_listing_again(world: TwoBuckets) -> None:
    world.proxies[1].set_rules(NOT_LISTED)
    batches = [Batch((item(str(number)),), RANGES, rows=1) for number in range(6)]
    world.at_source(*(key(str(number)) for number in range(6)))
    counts = world.plan_batches(batches)
    assert counts.to_copy == 6
    assert world.proxies[1].count(Kind.LIST) <= 6  # two batches are asked for before the answer is in


def test_a_source_that_denies_what_it_lacks_leaves_it_to_the_copy(world: TwoBuckets) -> None:
    world.proxies[0].set_rules(NOT_LISTED, ABSENT_IS_DENIED)
    world.at_source(cached("b-absent-here"))
    world.at_source(cached("c"))
    world.at_destination(key("absent-but-there"))
    counts = world.plan(
        item("a-absent", candidates=(cached("a-absent"),), may_be_absent=True),
        item("c-absent", candidates=(cached("c"),)),
        item("absent-but-there"),
        item("gone"),
    )
    assert world.remarks() == [
        (key("absent-but-there"), None, Outcome.PRESENT, SOURCE_SILENT),
        (key("gone"), None, Outcome.MISSING, None),
    ]
    assert [(line.key, line.source_key, line.candidates, line.size) for line in world.planned()] == [
        (key("a-absent"), key("a-absent"), [cached("a-absent")], None),
        (key("c-absent"), cached("c"), [], 4),
    ]
    assert (counts.bytes_to_copy, counts.source_listed) == (4, False)


def test_a_destination_that_denies_what_it_lacks_gets_it(world: TwoBuckets) -> None:
    world.proxies[1].set_rules(NOT_LISTED, ABSENT_IS_DENIED)
    world.at_source(key("absent"), key("there"))
    world.at_destination(key("there"))
    counts = world.plan(item("absent"), item("there"))
    assert [line.key for line in world.planned()] == [key("absent")]
    assert counts.present == 1


def test_both_storages_may_deny(world: TwoBuckets) -> None:
    for proxy in world.proxies:
        proxy.set_rules(NOT_LISTED, ABSENT_IS_DENIED)
    world.at_source(key("there"))
    counts = world.plan(item("absent", private=True), item("there"))
    assert [(line.key, line.reason) for line in world.decided()] == [(key("absent"), Reason.PRIVATE_NOT_COPIED)]
    assert [line.key for line in world.planned()] == [key("there")]
    assert not counts.source_listed
    assert not counts.destination_listed


def test_a_head_that_stays_without_an_answer_fails_its_object_alone(world: TwoBuckets) -> None:
    world.proxies[0].set_rules(Rule(Answer(418), key="odd"))
    world.at_source(key("odd"), cached("odd"), key("even"))
    world.plan(item("odd", candidates=(cached("odd"),)), item("even"), ranges=())
    (line,) = world.decided()
    assert (line.outcome, line.reason) == (Outcome.FAILED, Reason.UNEXPECTED)
    assert "HTTP 418" in (line.detail or "")
    assert [one.key for one in world.planned()] == [key("even")]


def test_odd_keys_are_planned_like_others(world: TwoBuckets, moto_bucket: Bucket) -> None:
    odd = ("a//b", "./c")
    for name in odd:
        moto_bucket.client.put_object(Bucket=moto_bucket.name, Key=key(name), Body=b"body")
    world.source = storage(moto_bucket, "source")
    counts = world.plan(*map(item, odd))
    assert [line.source_key for line in world.planned()] == [key(name) for name in odd]
    counts = world.plan(*map(item, odd), item("gone//x"), ranges=())
    assert (counts.to_copy, counts.missing) == (2, 1)


# One object, several items


def test_items_of_one_key_are_one_object_and_private_if_any_is(world: TwoBuckets) -> None:
    world.set_destination(permission="public-read")
    world.at_source(key("a"), key("b"), key("c"))
    counts = world.plan_batches(
        [
            Batch((item("a"), item("a", private=True), item("b")), RANGES, rows=3),
            Batch((item("b", private=True), item("c")), RANGES, rows=2),
            Batch((item("c"),), RANGES, rows=1),
        ]
    )
    assert [(line.key, line.private) for line in world.planned()] == [
        (key("a"), True),
        (key("b"), True),
        (key("c"), False),
    ]
    assert (counts.rows, counts.objects, counts.to_copy) == (6, 3, 3)


# How it ends


def test_an_empty_plan_is_written_without_a_request(world: TwoBuckets) -> None:
    assert world.plan_batches([Batch((), RANGES, rows=3)]) == PlanCounts(rows=3)
    assert world.plan_batches([]) == PlanCounts()
    assert world.requests() == [{}, {}]


@pytest.mark.parametrize("ranges", [RANGES, ()])
def test_a_permanent_refusal_ends_the_plan_and_leaves_nothing(world: TwoBuckets, ranges: tuple[KeyRange, ...]) -> None:
    world.proxies[1].set_rules(Rule(Answer(403, "SignatureDoesNotMatch"), kinds=frozenset({Kind.LIST})))
    world.proxies[0].set_rules(Rule(Answer(401), kinds=frozenset({Kind.HEAD})))
    world.at_source(key("a"))
    with pytest.raises(StorageError) as caught:
        world.plan(item("a"), ranges=ranges)
    assert caught.value.permanent
    assert caught.value.reason is Reason.BAD_CREDENTIALS
    assert list(world.folder.iterdir()) == []


def test_an_interrupt_goes_on_upwards_and_leaves_nothing(world: TwoBuckets) -> None:
    def batches() -> Iterator[Batch]:
        yield Batch((item("a"),), RANGES, rows=1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.plan_batches(batches())
    assert list(world.folder.iterdir()) == []
    assert gc.isenabled()
    deadline = time.monotonic() + 10
    while any(thread.name.startswith(("list_", "head_")) for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "threads of the plan live on"
        time.sleep(0.01)


def test_a_few_batches_are_read_ahead_and_no_more(world: TwoBuckets) -> None:
    read: list[int] = []
    behind: list[int] = []

    def batches() -> Iterator[Batch]:
        for number in range(8):
            read.append(number)
            yield Batch((item(str(number)),), RANGES, rows=1)

    def progress(counts: PlanCounts) -> None:
        behind.append(len(read) - counts.rows)

    world.at_source(*(key(str(number)) for number in range(8)))
    make_plan(
        batches(),
        world.source,
        world.destination,
        world.folder,
        copy_private=False,
        on_progress=progress,
    )
    assert behind[-1] == 0
    assert max(behind) <= 2


def test_a_folder_that_cannot_be_written_is_named(world: TwoBuckets) -> None:
    world.folder = world.folder / "not-there"
    with pytest.raises(FileNotFoundError, match="not-there"):
        world.plan(item("a"))
