"""ACLs, storage classes, encryption and odd keys, against a server that keeps them."""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest

from mastosync_dagster.demo.servers.start import S3Server, boto3_client
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.acls import anonymous_status
from mastosync_dagster_tests.support.corners import Bucket
from mastosync_dagster_tests.support.proxy import Kind, s3_proxy
from mastosync_dagster_tests.support.transfers import FAST, Transfer, line

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

MIB = 1024 * 1024
LARGE = os.urandom(11 * MIB + 1)


@pytest.fixture
def transfer(tmp_path: Path, moto: S3Server, source_bucket: Bucket) -> Transfer:
    client = boto3_client(moto)
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    return Transfer(
        tmp_path,
        source_bucket,
        Bucket(server=moto, name=name, client=client),
        settings=replace(FAST, large_object_mb=8),
    )


def readable_by_everybody(transfer: Transfer, key: str) -> bool:
    """GET the object without credentials."""
    destination = transfer.destination
    return anonymous_status(destination.server, destination.name, key) == HTTPStatus.OK


@pytest.mark.parametrize(
    ("body", "permission", "private", "public"),
    [
        (b"small", "public-read", False, True),
        (b"small", "public-read", True, False),
        (b"small", "private", False, False),
        (b"small", None, False, False),
        (b"small", "", False, False),
        (LARGE, "public-read", False, True),
        (LARGE, "public-read", True, False),
        (LARGE, "private", False, False),
    ],
)
def test_an_object_gets_the_permission_unless_it_is_private(
    transfer: Transfer, body: bytes, permission: str | None, *, private: bool, public: bool
) -> None:
    transfer.destination_options = {"permission": permission}
    planned = transfer.put("a", body, ContentType="video/mp4", CacheControl="immutable", Metadata={"a": "b"})
    transfer.run(planned._replace(private=private))
    assert readable_by_everybody(transfer, "a") == public
    reply = transfer.destination.client.get_object(Bucket=transfer.destination.name, Key="a")
    assert (reply["ContentType"], reply["CacheControl"], reply["Metadata"]) == ("video/mp4", "immutable", {"a": "b"})
    assert reply["Body"].read() == body


def test_without_a_permission_no_request_names_an_acl(transfer: Transfer) -> None:
    with s3_proxy(transfer.destination.server.endpoint) as proxy:
        transfer.destination_options = {"endpoint": proxy.endpoint, "permission": ""}
        transfer.settings = replace(transfer.settings, single_put_mb=0)
        transfer.run(transfer.put("a", b"body")._replace(private=True), transfer.put("b", LARGE))
        assert proxy.count(Kind.PUT, Kind.UPLOAD_PART) == 4
        assert not [request for request in proxy.requests if "x-amz-acl" in request.headers]


def test_acl_and_storage_class_go_with_the_first_request_of_an_upload_alone(transfer: Transfer) -> None:
    with s3_proxy(transfer.destination.server.endpoint) as proxy:
        transfer.destination_options = {
            "endpoint": proxy.endpoint,
            "permission": "public-read",
            "storage_class": "STANDARD_IA",
        }
        transfer.settings = replace(transfer.settings, single_put_mb=0)
        transfer.run(transfer.put("a", LARGE))
        named = {
            request.kind for request in proxy.requests if {"x-amz-acl", "x-amz-storage-class"} & set(request.headers)
        }
        assert named == {Kind.CREATE_UPLOAD}


@pytest.mark.parametrize("body", [b"small", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("storage_class", [None, "STANDARD_IA"])
def test_objects_get_the_destinations_storage_class(transfer: Transfer, body: bytes, storage_class: str | None) -> None:
    transfer.destination_options = {"storage_class": storage_class}
    transfer.run(transfer.put("a", body))
    reply = transfer.destination.client.head_object(Bucket=transfer.destination.name, Key="a")
    assert reply.get("StorageClass") == storage_class


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("storage_class", [None, "STANDARD_IA"])
def test_what_the_server_copies_by_itself_gets_the_same_permission_and_storage_class(
    tmp_path: Path, transfer: Transfer, moto: S3Server, storage_class: str | None, *, private: bool
) -> None:
    client = boto3_client(moto)
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    both = Transfer(tmp_path, Bucket(moto, name, client), transfer.destination, settings=transfer.settings)
    both.destination_options = {"permission": "public-read", "storage_class": storage_class}
    planned = both.put("a", b"body", ContentType="image/png", CacheControl="immutable", Metadata={"a": "b"})
    counts, lines = both.run(planned._replace(private=private))
    assert (lines[0].outcome, counts.copied_on_server) == (Outcome.COPIED, 1)
    assert readable_by_everybody(both, "a") != private
    reply = both.destination.client.get_object(Bucket=both.destination.name, Key="a")
    assert (reply["ContentType"], reply["CacheControl"], reply["Metadata"]) == ("image/png", "immutable", {"a": "b"})
    assert reply.get("StorageClass") == storage_class


def test_the_etag_of_an_upload_in_parts_is_that_of_mastodons_own_upload(transfer: Transfer) -> None:
    """Mastodon uploads in parts of 5 MiB: the copy's ETag is the source's, which the next plan can compare."""
    transfer.settings = replace(transfer.settings, single_put_mb=0)
    transfer.run(transfer.put("a", LARGE))
    digests = [
        hashlib.md5(LARGE[at : at + 5 * MIB], usedforsecurity=False).digest() for at in range(0, len(LARGE), 5 * MIB)
    ]
    reply = transfer.destination.client.head_object(Bucket=transfer.destination.name, Key="a")
    assert reply["ETag"] == f'"{hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()}-3"'


@pytest.mark.parametrize("part_size", [5 * MIB, 8 * MIB, 6 * MIB])
def test_the_source_may_have_been_uploaded_in_parts_of_any_size(
    tmp_path: Path, transfer: Transfer, destination_bucket: Bucket, part_size: int
) -> None:
    source = transfer.destination
    upload = source.client.create_multipart_upload(Bucket=source.name, Key="a")["UploadId"]
    etags: list[CompletedPartTypeDef] = []
    for number, at in enumerate(range(0, len(LARGE), part_size), start=1):
        answer = source.client.upload_part(
            Bucket=source.name, Key="a", UploadId=upload, PartNumber=number, Body=LARGE[at : at + part_size]
        )
        etags.append({"ETag": answer["ETag"], "PartNumber": number})
    done = source.client.complete_multipart_upload(
        Bucket=source.name, Key="a", UploadId=upload, MultipartUpload={"Parts": etags}
    )
    back = Transfer(tmp_path, source, destination_bucket, settings=transfer.settings)
    _, lines = back.run(line("a", LARGE, etag=done["ETag"].strip('"')))
    assert (lines[0].outcome, lines[0].etag) == (
        Outcome.COPIED,
        hashlib.md5(LARGE, usedforsecurity=False).hexdigest(),
    )
    assert back.fetched("a") == LARGE


@pytest.mark.parametrize(
    ("key", "body"),
    [
        *((key, b"small") for key in ("a//b", "a/./b", "a/../b", "a/", "/a", "a\x07b")),
        *((key, LARGE) for key in ("a//b", "a/")),
    ],
)
def test_odd_keys_are_copied_as_any_other(
    tmp_path: Path, transfer: Transfer, moto: S3Server, key: str, body: bytes
) -> None:
    client = boto3_client(moto)
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    client.put_object(Bucket=name, Key=key, Body=body, ContentType="image/png", Metadata={"a": "b"})
    both = Transfer(tmp_path, Bucket(moto, name, client), transfer.destination, settings=transfer.settings)
    both.destination_options = {"permission": "public-read"}
    _, lines = both.run(line(key, body), line("gone//b", b"x"))
    assert [(one.key, one.outcome) for one in lines] == sorted([(key, Outcome.COPIED), ("gone//b", Outcome.MISSING)])
    reply = transfer.destination.client.get_object(Bucket=transfer.destination.name, Key=key)
    assert (reply["Body"].read(), reply["ContentType"], reply["Metadata"]) == (body, "image/png", {"a": "b"})
    assert readable_by_everybody(transfer, key)


def test_the_etag_of_an_object_encrypted_with_a_key_of_its_own_is_no_md5(
    tmp_path: Path, transfer: Transfer, destination_bucket: Bucket
) -> None:
    source = transfer.destination
    body = b"some body"
    with s3_proxy(source.server.endpoint) as proxy:
        source.client.put_object(Bucket=source.name, Key="a", Body=body, ServerSideEncryption="aws:kms")
        etag = source.client.head_object(Bucket=source.name, Key="a")["ETag"].strip('"')
        back = Transfer(tmp_path, source, destination_bucket, settings=transfer.settings)
        back.source_options = {"endpoint": proxy.endpoint}
        _, lines = back.run(line("a", body, etag=etag))
        assert lines[0].outcome is Outcome.COPIED
        assert back.fetched("a") == body


@pytest.mark.parametrize("single_put_mb", [0, 200])
@pytest.mark.parametrize("encryption", [{}, {"ServerSideEncryption": "aws:kms"}], ids=["md5", "no md5"])
def test_an_object_that_the_plan_took_for_large_and_is_empty_goes_in_one_put(
    tmp_path: Path, transfer: Transfer, moto: S3Server, encryption: dict[str, Any], single_put_mb: int
) -> None:
    """S3 refuses to complete an upload that has no part."""
    client = boto3_client(moto)
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    both = Transfer(tmp_path, Bucket(moto, name, client), transfer.destination)
    both.settings = replace(transfer.settings, single_put_mb=single_put_mb)
    both.put("a", b"", ContentType="image/png", **encryption)
    etag = client.head_object(Bucket=name, Key="a")["ETag"].strip('"')
    with s3_proxy(moto.endpoint) as proxy:
        both.destination_options = {"endpoint": proxy.endpoint, "permission": "public-read"}
        _, lines = both.run(line("a", LARGE, etag=etag))
        assert (lines[0].outcome, lines[0].size) == (Outcome.COPIED, 0)
        assert (proxy.count(Kind.PUT), proxy.count(Kind.CREATE_UPLOAD)) == (1, 0)
    reply = transfer.destination.client.get_object(Bucket=transfer.destination.name, Key="a")
    assert (reply["Body"].read(), reply["ContentType"]) == (b"", "image/png")


def test_reasons_are_plain_when_the_destination_is_not_there(transfer: Transfer) -> None:
    transfer.destination_options = {"bucket": "no-such-bucket"}
    counts, _ = transfer.run(transfer.put("a", LARGE))
    assert counts.stopped is not None
    assert counts.stopped.reason is Reason.NO_SUCH_BUCKET
