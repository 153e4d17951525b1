"""Between plan and copy: what is to be overwritten is checked once more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from mastosync_dagster.copy.object_copier import WRITTEN_MEANWHILE
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.units import MIB
from mastosync_dagster_tests.support.acls import anonymous_status
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule, s3_proxy
from mastosync_dagster_tests.support.transfers import Transfer, line
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import S3Server
    from mastosync_dagster_tests.support.corners import Bucket

KEY = "accounts/avatars/1/original/a.png"
PLANNED, DAMAGED = b"body", b"damaged"


@pytest.fixture
def transfer(tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket) -> Transfer:
    made = Transfer(tmp_path, source_bucket, destination_bucket)
    made.put(KEY, PLANNED)
    destination_bucket.client.put_object(Bucket=destination_bucket.name, Key=KEY, Body=DAMAGED)
    return made


def planned(there: bytes = DAMAGED) -> dict[str, object]:
    etag = line(KEY, there).etag
    return {"there_size": len(there), "there_etag": etag}


def test_what_is_as_it_was_planned_is_overwritten(transfer: Transfer) -> None:
    _, (recorded,) = transfer.run(line(KEY, PLANNED, **planned()))
    assert (recorded.outcome, transfer.fetched(KEY)) == (Outcome.COPIED, PLANNED)


@pytest.mark.parametrize("written", [b"written", b"converted there"])
def test_what_was_written_at_the_destination_since_the_plan_stays(transfer: Transfer, written: bytes) -> None:
    transfer.destination.client.put_object(Bucket=transfer.destination.name, Key=KEY, Body=written)
    _, (recorded,) = transfer.run(line(KEY, PLANNED, **planned()))
    assert (recorded.outcome, recorded.reason, recorded.detail) == (
        Outcome.FAILED,
        Reason.CHANGED_DURING_COPY,
        WRITTEN_MEANWHILE,
    )
    assert transfer.fetched(KEY) == written


@pytest.mark.parametrize("rotten", [b"bodi", b"bod"])
def test_other_bytes_than_were_planned_are_not_written_over_anything(transfer: Transfer, rotten: bytes) -> None:
    transfer.put(KEY, rotten)
    _, (recorded,) = transfer.run(line(KEY, PLANNED, **planned()))
    assert (recorded.outcome, recorded.reason) == (Outcome.FAILED, Reason.CHANGED_DURING_COPY)
    assert transfer.fetched(KEY) == DAMAGED


@pytest.mark.parametrize("key", ["media_attachments/files/1/original/0123456789abcdef.mp4", KEY])
@pytest.mark.parametrize("size", [1_000, 30_000_000])
def test_what_was_absent_is_asked_for_where_its_content_may_be_another_by_now(
    transfer: Transfer, key: str, size: int
) -> None:
    raw = bytes(size)
    lines = [transfer.put(name, raw) for name in (key, f"copied/{key}", f"absent/{key}")]
    transfer.destination.client.put_object(Bucket=transfer.destination.name, Key=key, Body=b"converted there")
    transfer.destination.client.put_object(Bucket=transfer.destination.name, Key=f"copied/{key}", Body=raw)
    _, recorded = transfer.run(*lines)
    assert {each.key: (each.outcome, each.detail) for each in recorded} == {
        key: (Outcome.FAILED, WRITTEN_MEANWHILE),
        f"copied/{key}": (Outcome.PRESENT, None),
        f"absent/{key}": (Outcome.COPIED, None),
    }
    assert transfer.fetched(key) == b"converted there"


RAW = bytes(5 * MIB + 1)
VIDEO = "media_attachments/files/1/original/0123456789abcdef.mp4"


@pytest.fixture
def on_moto(tmp_path: Path, moto: S3Server) -> Transfer:
    """A video that the plan has not seen at the destination."""
    return Transfer(tmp_path, create_bucket(moto), create_bucket(moto))


def test_what_another_run_has_written_meanwhile_gets_the_acl_that_was_planned(on_moto: Transfer) -> None:
    on_moto.destination_options = {"permission": "public-read"}
    planned = on_moto.put(VIDEO, RAW)._replace(private=True)
    client, bucket = on_moto.destination.client, on_moto.destination.name
    client.put_object(Bucket=bucket, Key=VIDEO, Body=RAW, ACL="public-read")
    on_moto.run(planned)
    assert anonymous_status(on_moto.destination.server, bucket, VIDEO) == 403


def in_parts(bucket: Bucket) -> None:
    upload = bucket.client.create_multipart_upload(Bucket=bucket.name, Key=VIDEO)
    same: Any = {"Bucket": bucket.name, "Key": VIDEO, "UploadId": upload["UploadId"]}
    parts: list[Any] = [
        {"PartNumber": number, "ETag": bucket.client.upload_part(**same, PartNumber=number, Body=body)["ETag"]}
        for number, body in ((1, RAW[: 5 * MIB]), (2, RAW[5 * MIB :]))
    ]
    bucket.client.complete_multipart_upload(**same, MultipartUpload={"Parts": parts})


def with_a_key_of_its_own(bucket: Bucket) -> None:
    # moto does not encrypt: other bytes have another ETag.
    body = b"x" * len(RAW)
    bucket.client.put_object(Bucket=bucket.name, Key=VIDEO, Body=body, ServerSideEncryption="aws:kms")


@pytest.mark.parametrize("write", [in_parts, with_a_key_of_its_own])
def test_what_another_run_has_written_meanwhile_is_present_where_no_etag_denies_it(
    on_moto: Transfer, write: Callable[[Bucket], None]
) -> None:
    write(on_moto.destination)
    _, (recorded,) = on_moto.run(on_moto.put(VIDEO, RAW))
    assert recorded.outcome is Outcome.PRESENT


def test_other_bytes_of_the_same_length_stay(on_moto: Transfer) -> None:
    written = b"x" * len(RAW)
    on_moto.destination.client.put_object(Bucket=on_moto.destination.name, Key=VIDEO, Body=written)
    _, (recorded,) = on_moto.run(on_moto.put(VIDEO, RAW))
    assert (recorded.outcome, recorded.detail) == (Outcome.FAILED, WRITTEN_MEANWHILE)
    assert on_moto.fetched(VIDEO) == written


@pytest.mark.parametrize("size", [0, 1_000])
def test_what_an_ended_run_has_written_of_it_is_written_again(on_moto: Transfer, size: int) -> None:
    on_moto.destination.client.put_object(Bucket=on_moto.destination.name, Key=VIDEO, Body=RAW[:size])
    _, (recorded,) = on_moto.run(on_moto.put(VIDEO, RAW))
    assert recorded.outcome is Outcome.COPIED
    assert on_moto.fetched(VIDEO) == RAW


SMALL, LARGE, IN_PARTS = 1_000, 30 * MIB, 60 * MIB


@pytest.mark.long(cases=3)
@pytest.mark.parametrize("cut_off", [False, True])
@pytest.mark.parametrize(("size", "kind"), [(SMALL, Kind.PUT), (LARGE, Kind.PUT), (IN_PARTS, Kind.UPLOAD_PART)])
def test_what_was_written_at_the_destination_while_a_copy_was_retried_stays_unless_it_is_its_beginning(
    transfer: Transfer, size: int, kind: Kind, *, cut_off: bool
) -> None:
    bucket, body = transfer.destination, Random(size).randbytes(size)
    # A server of files keeps what has arrived of an attempt that broke off.
    written = body[: size // 2] if cut_off else b"converted there"
    settings = replace(transfer.settings, large_object_mb=16, single_put_mb=40)
    transfer.settings = replace(settings, backoff_seconds=1.0)
    with s3_proxy(bucket.server.endpoint) as proxy, ThreadPoolExecutor(1) as other:
        transfer.destination_options = {"endpoint": proxy.endpoint}
        proxy.set_rules(Rule(Answer(503, "SlowDown", retry_after=2.0), kinds=frozenset({kind}), key=VIDEO, times=1))
        planned = transfer.put(VIDEO, body)

        def write() -> None:
            wait_until(lambda: proxy.injected > 0)
            bucket.client.put_object(Bucket=bucket.name, Key=VIDEO, Body=written)

        writing = other.submit(write)
        _, (recorded,) = transfer.run(planned)
        writing.result()
    expected = (Outcome.COPIED, None) if cut_off else (Outcome.FAILED, WRITTEN_MEANWHILE)
    assert (recorded.outcome, recorded.detail) == expected
    assert transfer.fetched(VIDEO) == (body if cut_off else written)
