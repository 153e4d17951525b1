"""What lies at the top of a storage is named with few requests, whatever the server leaves out of a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.plan.top_listing import AND_MORE, list_top
from mastosync_dagster_tests.support.proxy import Answer, Fault, Kind, Rule, ShortList, s3_proxy
from mastosync_dagster_tests.support.transfers import storage

if TYPE_CHECKING:
    from mastosync_dagster.plan.top_listing import Top
    from mastosync_dagster_tests.support.corners import Bucket

FOLDERS = {"": {"accounts/", "cache/"}, "cache/": {"cache/accounts/"}}


def put(bucket: Bucket, *keys: str) -> None:
    for key in keys:
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"x")


def top_of(bucket: Bucket, fault: Fault, prefix: str = "", skip: int = 0) -> Top:
    with s3_proxy(bucket.server.endpoint, Rule(fault, kinds=frozenset({Kind.LIST}), skip=skip)) as proxy:
        top = list_top(storage(bucket, "source", endpoint=proxy.endpoint, prefix=prefix), FOLDERS)
        assert top.list_requests == proxy.count(Kind.LIST)
    return top


@pytest.mark.parametrize("prefix", ["", "some/where/"])
@pytest.mark.parametrize("entries", [1, 2, 1000])
def test_all_names_are_found_also_where_pages_end_early(source_bucket: Bucket, prefix: str, entries: int) -> None:
    keys = ("a", "accounts/x/y", "cache/accounts/x", "cache/b", "cache/c/x", "imports/x", "z/1", "z/2/3")
    put(source_bucket, *(prefix + key for key in keys))
    top = top_of(source_bucket, ShortList(entries), prefix)
    assert top.names == {
        "a": True,
        "accounts/": False,
        "cache/accounts/": False,
        "cache/b": True,
        "cache/c/": True,
        "imports/": True,
        "z/": True,
    }
    if entries > 2:
        assert {entry.key for entry, _ in top.objects} == {"a", "cache/b", "cache/c/x", "imports/x", "z/1", "z/2/3"}
        # Two for each folder, and one for each of those that are foreign.
        assert top.list_requests == 2 * 2 + 3


def test_the_requests_are_bounded_and_that_there_is_more_is_said(source_bucket: Bucket) -> None:
    put(source_bucket, *(f"loose {number:03d}" for number in range(130)), "zzz/a")
    top = top_of(source_bucket, ShortList(10))
    assert (len(top.names), top.names[AND_MORE]) == (111, True)
    assert top.list_requests == 11 + 1


@pytest.mark.parametrize("skip", [0, 2])
def test_what_may_not_be_listed_is_unknown_and_not_absent(source_bucket: Bucket, skip: int) -> None:
    put(source_bucket, "a", "accounts/a", "cache/a/b")
    top = top_of(source_bucket, Answer(403, "AccessDenied"), skip=skip)
    names = {"a": True, "accounts/": False, AND_MORE: True} if skip else {}
    assert (top.names, top.listed) == (names, bool(skip))
