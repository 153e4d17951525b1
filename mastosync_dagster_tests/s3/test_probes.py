"""Private probes: readable ones are found, and none stays behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from mastosync_dagster.mastodon import owners
from mastosync_dagster.mastodon.keys import pattern_of
from mastosync_dagster.s3 import probes
from mastosync_dagster.s3.acl import everybody_reads
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.probes import checks_md5, prove_private
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.retry_policies import COPY
from mastosync_dagster_tests.support.acls import anonymous_status, let_everybody_read
from mastosync_dagster_tests.support.proxy import Answer, Kind, Page, Rule, s3_proxy
from mastosync_dagster_tests.support.transfers import put_many, storage
from mastosync_dagster_tests.support.waiting import slowdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mastosync_dagster_tests.support.corners import Bucket

MEDIA = "media_attachments/files/112/*/original/*.png"
PUT = frozenset({Kind.PUT})
PATTERNS = (MEDIA, "backups/dumps/000/*/original/*.zip")


def prove(at: Bucket, *, sets_acls: bool = True, **settings: Any) -> list[str]:
    """Try the probes, and return what was warned of."""
    warned: list[str] = []
    destination = storage(at, "destination", **{"permission": "public-read", **settings})
    prove_private(destination, PATTERNS, sets_acls=sets_acls, warn=warned.append)
    return warned


def keys(at: Bucket) -> list[str]:
    return [entry["Key"] for entry in at.client.list_objects_v2(Bucket=at.name).get("Contents", [])]


# The second is what a slash too many at the end of S3_KEY_PREFIX makes.
@pytest.mark.parametrize("prefix", ["", "media//"])
def test_acls_keep_private_what_is_private(moto_bucket: Bucket, prefix: str) -> None:
    assert prove(moto_bucket, prefix=prefix) == []
    assert keys(moto_bucket) == []


@pytest.mark.parametrize("prefix", ["", "media//"])
@pytest.mark.parametrize("folder", ["", "backups/"])
@pytest.mark.parametrize(
    ("permission", "says"), [("public-read", "DESTINATION_S3_PERMISSION"), ("", "MASTOSYNC_COPY_PRIVATE=false")]
)
def test_a_policy_that_lets_everybody_read_a_folder_is_noticed(
    moto_bucket: Bucket, prefix: str, folder: str, permission: str, says: str
) -> None:
    let_everybody_read(moto_bucket, prefix + folder)
    with pytest.raises(StorageError, match=says) as message:
        prove(moto_bucket, sets_acls=False, prefix=prefix, permission=permission)
    assert message.value.permanent
    assert keys(moto_bucket) == []


@pytest.mark.parametrize(
    "resource",
    [
        *("media_attachments/files/*/original/*", "*/original/*", "*.png", "media_attachments/files/1*"),
        *("cache/*/small/*.jpeg", "*.mp4", "media_attachments/files/109/*"),
    ],
)
def test_a_policy_that_names_a_style_an_extension_or_the_first_digits_of_ids_is_noticed(
    moto_bucket: Bucket, resource: str
) -> None:
    objects = [
        "media_attachments/files/109/233/445/566/original/a.png",
        "media_attachments/files/112/233/445/566/original/a.png",
        "media_attachments/files/112/233/445/566/small/a.png",
        "cache/media_attachments/files/112/233/445/566/original/a.mp4",
        "cache/media_attachments/files/112/233/445/566/small/a.jpeg",
    ]
    let_everybody_read(moto_bucket, resource.removesuffix("*"), "*" if resource.endswith("*") else "")
    put_many(moto_bucket, objects, b"private")
    assert any(anonymous_status(moto_bucket.server, moto_bucket.name, key) == 200 for key in objects)
    destination = storage(moto_bucket, "destination", permission="public-read")
    with pytest.raises(StorageError, match="DESTINATION_S3_PERMISSION") as message:
        prove_private(destination, map(pattern_of, objects), sets_acls=False, warn=pytest.fail)
    assert message.value.permanent
    assert sorted(keys(moto_bucket)) == sorted(objects)


def test_of_very_many_kinds_of_keys_a_few_are_probed_and_every_style_and_beginning_of_ids_is(
    moto_bucket: Bucket,
) -> None:
    ids, ends = [f"{first}" for first in range(105, 113)], ["original/*.png", "original/*.mp4", "small/*.png"]
    patterns = {f"media_attachments/files/{first}/*/{end}" for first in ids for end in ends}
    with s3_proxy(moto_bucket.server.endpoint) as proxy:
        destination = storage(moto_bucket, "destination", endpoint=proxy.endpoint, permission="public-read")
        prove_private(destination, patterns, sets_acls=False, warn=pytest.fail)
        written = [request.key.split("/") for request in proxy.requests if request.kind is Kind.PUT]
    assert {key[2] for key in written} == set(ids)
    assert {f"{key[-2]}/*.{key[-1].split('.')[1]}" for key in written} == set(ends)
    assert len(written) == len(ids)
    assert all(owners("/".join(key)) is None for key in written)
    odd = {f"media_attachments/files/112/*/original/*.{number}" for number in range(1000)}
    with s3_proxy(moto_bucket.server.endpoint) as proxy:
        destination = storage(moto_bucket, "destination", endpoint=proxy.endpoint, permission="public-read")
        prove_private(destination, odd, sets_acls=False, warn=pytest.fail)
        assert proxy.count(Kind.PUT, key="") == probes._PROBES


IDS, ENDS = [f"{first:03d}" for first in range(98, 117)], [f"original/*.{letter}" for letter in "abcdefghijklm"]


@pytest.mark.parametrize(
    ("ids", "ends", "most", "without"),
    [
        (IDS, ENDS, len(IDS), []),
        (IDS[:5], ENDS, len(ENDS), []),
        (IDS, ENDS[:1], len(IDS), []),
        ([f"{first}" for first in range(100, 130)], ENDS, probes._PROBES, [f"{first}" for first in range(100, 106)]),
    ],
    ids=["more beginnings", "more ends", "one end", "too many beginnings: the newest ones"],
)
def test_each_beginning_of_ids_and_each_end_is_probed_once_and_the_newest_ids_before_all_others(
    ids: list[str], ends: list[str], most: int, without: list[str]
) -> None:
    patterns = {f"{folder}/{first}/*/{end}" for folder in ("a/files", "cache/a/files") for first in ids for end in ends}
    chosen = probes._chosen(patterns)
    assert set(chosen) <= patterns
    for folder in ("a/files", "cache/a/files"):
        of_folder = [pattern.removeprefix(f"{folder}/") for pattern in chosen if pattern.startswith(f"{folder}/")]
        assert len(of_folder) == most
        assert {pattern.partition("/*/")[0] for pattern in of_folder} == set(ids) - set(without)
        assert {pattern.partition("/*/")[2] for pattern in of_folder} == set(ends)


def test_a_beginning_or_an_end_that_comes_with_known_ones_alone_is_probed_too() -> None:
    patterns = {"a/files/1/*/original/*.a", "a/files/2/*/original/*.a", "a/files/2/*/original/*.b"}
    assert {"a/files/1/*/original/*.a", "a/files/2/*/original/*.b"} <= set(probes._chosen(patterns))
    # The only end of the newer beginning is taken first.
    patterns = {"a/files/1/*/original/*.a", "a/files/1/*/original/*.b", "a/files/2/*/original/*.b"}
    assert set(probes._chosen(patterns)) == {"a/files/2/*/original/*.b", "a/files/1/*/original/*.a"}


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refused_request_without_a_signature_is_what_is_wanted(moto_bucket: Bucket, status: int) -> None:
    let_everybody_read(moto_bucket)
    with s3_proxy(moto_bucket.server.endpoint, Rule(Answer(status, "Refused"), kinds=frozenset({Kind.GET}))) as proxy:
        assert prove(moto_bucket, sets_acls=False, endpoint=proxy.endpoint) == []
        unsigned = [request for request in proxy.requests if request.kind is Kind.GET]
        assert len(unsigned) == len(PATTERNS)
        assert not any("authorization" in request.headers for request in unsigned)


def test_one_refusal_to_write_a_probe_is_none(moto_bucket: Bucket) -> None:
    rule = Rule(Answer(403, "AccessDenied"), kinds=PUT, times=1)
    with s3_proxy(moto_bucket.server.endpoint, rule) as proxy:
        assert prove(moto_bucket, endpoint=proxy.endpoint) == []
        assert proxy.injected == 1


def test_a_destination_that_takes_no_probe_is_named(moto_bucket: Bucket) -> None:
    with (
        s3_proxy(moto_bucket.server.endpoint, Rule(Answer(403, "AccessDenied"), kinds=PUT)) as proxy,
        pytest.raises(StorageError) as raised,
    ):
        prove(moto_bucket, endpoint=proxy.endpoint)
    assert raised.value.reason is Reason.ACCESS_DENIED


def test_a_server_that_fails_has_not_said_that_it_is_private(moto_bucket: Bucket) -> None:
    rule = Rule(Answer(503, "SlowDown"), kinds=frozenset({Kind.GET}))
    with s3_proxy(moto_bucket.server.endpoint, rule) as proxy, pytest.raises(StorageError) as message:
        prove(moto_bucket, sets_acls=False, endpoint=proxy.endpoint)
    assert (message.value.reason, message.value.permanent) == (Reason.THROTTLED, False)
    assert keys(moto_bucket) == []


@pytest.fixture
def interrupt() -> Iterator[Callable[[], object]]:
    """Interrupts the main thread, also where SIGINT is ignored, as in a shell's background."""
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    yield partial(os.kill, os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def test_an_interrupt_ends_patient_probes_at_once(moto_bucket: Bucket, interrupt: Callable[[], object]) -> None:
    rule = Rule(Answer(503, "SlowDown"), kinds=frozenset({Kind.PUT, Kind.DELETE}))
    with s3_proxy(moto_bucket.server.endpoint, rule) as proxy:
        destination = storage(moto_bucket, "destination", endpoint=proxy.endpoint, permission="public-read")
        destination.policy = COPY
        threading.Timer(1.0, interrupt).start()
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            prove_private(destination, PATTERNS, sets_acls=False, warn=pytest.fail)
        assert time.monotonic() - begun < 1 + slowdown()
        assert proxy.count(Kind.DELETE, key="") == 0


def test_probes_of_runs_that_were_killed_are_deleted_after_an_hour(
    moto_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [pattern.replace("*", "mastosync-check", 1).replace("*", "a") for pattern in PATTERNS]
    others = [f"media_attachments/files/112/mastosync-check{end}" for end in ("", "s/original/a.png")]
    put_many(moto_bucket, [*left, *others], b"")
    assert prove(moto_bucket, sets_acls=False) == []
    assert sorted(keys(moto_bucket)) == sorted([*left, *others])
    monkeypatch.setattr(probes, "_OLD", timedelta(seconds=-5))
    assert prove(moto_bucket, sets_acls=False) == []
    assert sorted(keys(moto_bucket)) == sorted(others)


@pytest.mark.parametrize("at", ["source_bucket", "moto_bucket"])
def test_whether_a_damaged_body_is_refused_is_found_out(at: str, request: pytest.FixtureRequest) -> None:
    bucket: Bucket = request.getfixturevalue(at)
    # rclone's server looks at Content-MD5, moto does not.
    assert checks_md5(storage(bucket, "destination")) == (at == "source_bucket")
    assert keys(bucket) == []


@pytest.mark.timeout(60)
def test_a_proxy_that_hides_what_is_asked_for_unsigned_refuses_it_and_one_that_is_down_says_nothing(
    moto_bucket: Bucket,
) -> None:
    put_many(moto_bucket, ["a"], b"body")
    nothing = Page(404, "404 page not found")
    with s3_proxy(moto_bucket.server.endpoint, Rule(nothing, unsigned=True)) as proxy:
        through = storage(moto_bucket, "destination", endpoint=proxy.endpoint)
        assert everybody_reads(through, "a") is False
        proxy.set_rules(Rule(nothing))
        with pytest.raises(StorageError, match="a proxy before the destination"):
            everybody_reads(through, "a")


@pytest.mark.parametrize("ignored", ["public", "private"])
def test_a_server_that_accepts_an_acl_and_ignores_it_is_noticed(moto_bucket: Bucket, ignored: str) -> None:
    rule = Rule(Page(200, ""), kinds=frozenset({Kind.OTHER}), method="PUT", skip=int(ignored == "private"))
    with s3_proxy(moto_bucket.server.endpoint, rule) as proxy, pytest.raises(StorageError) as message:
        prove(moto_bucket, endpoint=proxy.endpoint)
    assert "DESTINATION_S3_PERMISSION to an empty text" in str(message.value)
    assert message.value.permanent
    assert keys(moto_bucket) == []


def test_a_probe_that_may_not_be_deleted_is_named(moto_bucket: Bucket) -> None:
    rule = Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.DELETE}))
    with s3_proxy(moto_bucket.server.endpoint, rule) as proxy:
        warned = prove(moto_bucket, sets_acls=False, endpoint=proxy.endpoint)
    behind = keys(moto_bucket)
    assert len(warned) == len(behind) == len(PATTERNS)
    assert all(f"{key} stays behind" in " ".join(warned) for key in behind)
