"""What a verification costs, how closely it compares, and what only the bodies show."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from typing import TYPE_CHECKING

import psycopg2
import pytest

from mastosync_dagster.mastodon import CACHE_CONTROL
from mastosync_dagster.plan.planner import SOURCE_DIFFERS
from mastosync_dagster.records.findings import Finding
from mastosync_dagster.verify.object_checks import EXPOSED
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.installation import failure_of
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule
from mastosync_dagster_tests.support.transfers import put_many
from mastosync_dagster_tests.support.verifying import MEDIA, check, findings, media_range, metadata, unequal, verify

if TYPE_CHECKING:
    from mastosync_dagster.demo.instance.book import GeneratedObject
    from mastosync_dagster_tests.support.installation import Installation

pytestmark = pytest.mark.long

ROWS = 4_000
KEYS = 2 * ROWS


def acl_requests(world: Installation) -> int:
    """Return how often the destination was asked who may read an object."""
    return sum(request.method == "GET" for request in world.destination_proxy.requests if request.kind is Kind.OTHER)


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("depth", ["none", "sample", "all"])
def test_who_may_read_is_looked_at_as_often_as_is_asked_for(synced_with_acls: Installation, depth: str) -> None:
    world = synced_with_acls
    everything = world.instance.objects_of(MEDIA)
    exposed = next(each for each in everything if each.private)
    world.destination.client.put_object_acl(Bucket=world.destination.name, Key=exposed.key, ACL="public-read")
    world.forget()
    found = verify(world, acls=depth, headers="none")
    asked = acl_requests(world)
    # Of a sample, one private and one public object of each page of rows, of which there are few.
    assert asked in {"none": [0], "sample": range(2, 11), "all": [len(everything)]}[depth]
    if depth == "sample":
        # Whether it is this one is a matter of luck.
        assert set(unequal(world)) <= {exposed.key}
    else:
        assert unequal(world) == ({exposed.key: Finding.ACL_DIFFERS} if depth == "all" else {})
        assert found.success is (depth == "none")
    if found.success:
        assert metadata(found)["acls_compared"] == asked
    if depth == "all":
        assert {line.detail for line in findings(world) if line.finding is Finding.ACL_DIFFERS} == {EXPOSED}


def test_an_acl_that_fails_to_come_is_unknown_and_the_others_are_read(synced_with_acls: Installation) -> None:
    world = synced_with_acls
    everything = world.instance.objects_of(MEDIA)
    exposed = next(each for each in everything if each.private)
    world.destination.client.put_object_acl(Bucket=world.destination.name, Key=exposed.key, ACL="public-read")
    failing = min(each.key for each in everything if not each.private)
    key = f"^{re.escape(failing)}$"
    world.destination_proxy.set_rules(Rule(Answer(500, "InternalError"), kinds=frozenset({Kind.OTHER}), key=key))
    assert not verify(world, acls="all", headers="none").success
    assert unequal(world) == {failing: Finding.UNKNOWN, exposed.key: Finding.ACL_DIFFERS}


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("depth", ["sample", "all"])
@pytest.mark.parametrize(
    "answer", [Answer(501, "NotImplemented"), Answer(403, "AccessDenied")], ids=["no acls", "no right"]
)
def test_acls_that_nobody_may_read_are_asked_for_once_and_the_check_does_not_pass(
    synced_with_acls: Installation, depth: str, answer: Answer
) -> None:
    world = synced_with_acls
    world.destination_proxy.set_rules(Rule(answer, kinds=frozenset({Kind.OTHER})))
    world.forget()
    result = verify(world, acls=depth, headers="none", readers=1)
    assert result.success
    assert acl_requests(world) == 1
    assert (check(result).passed, metadata(result)["acls_compared"]) == (False, 0)
    assert "who may read the objects is not known" in str(check(result).description)


def damage_in_secret(world: Installation, each: GeneratedObject) -> None:
    """Flip a byte of an object, and hide it: uploaded in parts, it has an ETag that is no MD5."""
    client, bucket = world.destination.client, world.destination.name
    found = client.get_object(Bucket=bucket, Key=each.key)
    body = bytearray(found["Body"].read())
    body[len(body) // 2] ^= 1
    upload = client.create_multipart_upload(
        Bucket=bucket,
        Key=each.key,
        ContentType=found["ContentType"],
        CacheControl=found.get("CacheControl", ""),
        Metadata=found["Metadata"],
        ACL="public-read",
    )["UploadId"]
    part = client.upload_part(Bucket=bucket, Key=each.key, UploadId=upload, PartNumber=1, Body=bytes(body))
    client.complete_multipart_upload(
        Bucket=bucket,
        Key=each.key,
        UploadId=upload,
        MultipartUpload={"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]},
    )
    shown = client.head_object(Bucket=bucket, Key=each.key)
    assert (shown["ContentLength"], shown["ETag"].endswith('-1"')) == (each.size, True)


@pytest.mark.long
def test_a_byte_that_no_listing_shows_is_found_by_reading_everything_and_put_right(
    synced_with_acls: Installation,
) -> None:
    world = synced_with_acls
    everything = world.instance.objects_of(MEDIA)
    chosen = next(each for each in everything if not each.private and each.size > 1_000 and each.cache_control)
    damage_in_secret(world, chosen)

    assert verify(world, headers="all", acls="all").success
    assert unequal(world) == {}

    world.forget()
    assert not verify(world, full=True).success
    assert unequal(world) == {chosen.key: Finding.CONTENT_DIFFERS}
    got = (request for request in world.destination_proxy.requests if request.kind is Kind.GET)
    # What is private was asked for without a signature too.
    read = Counter(request.key for request in got if "authorization" in request.headers)
    assert read == Counter(each.key for each in everything)

    assert world.run("sync_media_attachments", media_range(world)).success
    whole = verify(world, full=True)
    assert whole.success
    assert unequal(world) == {}
    assert metadata(whole)["bodies_compared"] == len(everything)
    assert metadata(whole)["bytes_read"] == 2 * sum(each.size for each in everything)


@pytest.mark.long(cases=0)
def test_what_a_sync_could_not_put_right_is_left_to_the_next_one(synced_with_acls: Installation) -> None:
    world = synced_with_acls
    chosen = next(
        each
        for each in world.instance.objects_of(MEDIA)
        if not each.private and each.size > 1_000 and each.cache_control
    )
    damage_in_secret(world, chosen)
    assert not verify(world, full=True).success

    key = f"^{re.escape(chosen.source_key)}$"
    world.source_proxy.set_rules(Rule(Answer(500, "InternalError"), kinds=frozenset({Kind.GET}), key=key))
    one_attempt = {"ops": {MEDIA.value: {"ops": {"copy": {"config": {"max_attempts": 1}}}}}}
    assert "1 of" in failure_of(world.run("sync_media_attachments", media_range(world), one_attempt))
    world.source_proxy.set_rules()
    world.forget()
    assert world.run("sync_media_attachments", media_range(world)).success
    sent = [request.key for request in world.destination_proxy.requests if request.kind is Kind.PUT]
    put = [key for key in sent if "mastosync-check" not in key]
    assert put == [chosen.key]
    # Then it is done.
    world.forget()
    assert world.run("sync_media_attachments", media_range(world)).success
    assert world.destination_proxy.count(Kind.PUT, key=chosen.key) == 0
    assert verify(world, full=True).success


@pytest.mark.long(cases=0)
def test_what_the_destination_alone_has_as_long_as_the_database_says_is_sound_and_no_sync_overwrites_it(
    synced_with_acls: Installation,
) -> None:
    world, client, bucket = synced_with_acls, synced_with_acls.destination.client, synced_with_acls.destination.name
    chosen = next(each for each in world.instance.objects_of(MEDIA) if "/original/" in each.key and not each.private)
    whole = b"w" * (chosen.size + 1)
    client.put_object(Bucket=bucket, Key=chosen.key, Body=whole, ACL="public-read")
    with contextlib.closing(psycopg2.connect(world.database.url)) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE media_attachments SET file_file_size = %s WHERE id = %s", (len(whole), chosen.row_id))
        connection.commit()

    assert verify(world, full=True, headers="all", acls="all").success
    assert unequal(world) == {}
    assert {line.detail for line in findings(world) if line.key == chosen.key} == {SOURCE_DIFFERS}
    assert world.run("sync_media_attachments", media_range(world)).success
    assert client.get_object(Bucket=bucket, Key=chosen.key)["Body"].read() == whole


@pytest.mark.long(cases=0)
@pytest.mark.timeout(240)
def test_a_verification_costs_three_requests_for_a_thousand_keys_and_storage(
    world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_with_acls
    source = create_bucket(world.source.server)
    monkeypatch.setenv("S3_BUCKET", source.name)
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", str(ROWS))
    with contextlib.closing(psycopg2.connect(world.database.url)) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM media_attachments")
        cursor.execute(
            "INSERT INTO media_attachments (id, file_file_name, file_content_type, file_file_size, created_at,"
            " updated_at, file_updated_at) SELECT n, 'a.jpg', 'image/jpeg', 4, now(), now(), now()"
            " FROM generate_series(1, %s) n",
            (ROWS,),
        )
        connection.commit()
    keys = [
        f"media_attachments/files/000/{number // 1000:03d}/{number % 1000:03d}/{style}/a.jpg"
        for number in range(1, ROWS + 1)
        for style in ("original", "small")
    ]
    headers = {"Content-Type": "image/jpeg", "Cache-Control": CACHE_CONTROL}
    put_many(source, keys, b"body", headers)
    put_many(world.destination, keys, b"body", {**headers, "x-amz-acl": "public-read"})
    world.register(MEDIA)
    world.forget()

    found = verify(world)
    assert found.success
    numbers = metadata(found)
    assert (numbers["equal"], numbers["extra"], numbers["foreign"]) == (KEYS, 0, 0)
    bound = 3 * KEYS // 1000
    counts = [
        Counter(request.kind for request in proxy.requests) for proxy in (world.source_proxy, world.destination_proxy)
    ]
    assert all(each.total() <= bound for each in counts), counts
    # Nothing is written, and no body is read.
    assert all(set(each) <= {Kind.LIST, Kind.HEAD, Kind.OTHER} for each in counts), counts
    assert not any(request.method in {"PUT", "POST", "DELETE"} for request in world.destination_proxy.requests)
    assert sum(each[Kind.LIST] for each in counts) == numbers["list_requests"]
