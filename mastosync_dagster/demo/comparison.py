"""Compares a destination with the generated instance: lists it, and reads every object whole."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastosync_dagster.demo.servers.start import boto3_client, bucket_storage
from mastosync_dagster.s3.headers import shown
from mastosync_dagster.s3.storage import LARGEST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mastosync_dagster.demo.instance.book import GeneratedObject
    from mastosync_dagster.demo.servers.start import S3Server
    from mastosync_dagster.s3.headers import Attributes

_THREADS = 16


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        equal: How many objects have the size, MD5 of the content, headers and user metadata that they must have.
        differences: A line for every object that differs, is not there, or should not be there.
    """

    equal: int
    differences: tuple[str, ...]


def list_keys(server: S3Server, bucket: str) -> frozenset[str]:
    """Return every key of a bucket."""
    pages = boto3_client(server).get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return frozenset(entry["Key"] for page in pages for entry in page.get("Contents", ()))


def compare(server: S3Server, bucket: str, expected: Iterable[GeneratedObject], *, key_prefix: str = "") -> Comparison:
    """Compare a bucket with what it must contain below a key prefix: these objects and no other."""
    by_key = {f"{key_prefix}/{each.key}" if key_prefix else each.key: each for each in expected}
    found = list_keys(server, bucket)
    storage = bucket_storage(server, bucket)
    storage.at_once = False  # it has just been listed: on a busy machine a connection may take its time

    def differences(key: str) -> str | None:
        reply = storage.ask(lambda client: client.get(key, limit=LARGEST))
        return _differences(key, by_key[key], reply.body, shown(reply.headers))

    with ThreadPoolExecutor(_THREADS) as pool:
        compared = list(pool.map(differences, sorted(found & by_key.keys())))
    return Comparison(
        equal=compared.count(None),
        differences=(
            *(line for line in compared if line is not None),
            *(f"{key}: not at the destination" for key in sorted(by_key.keys() - found)),
            *(f"{key}: should not be at the destination" for key in sorted(found - by_key.keys())),
        ),
    )


def _differences(key: str, expected: GeneratedObject, body: bytes, attributes: Attributes) -> str | None:
    headers = dict(attributes.headers)
    found_and_expected = {
        "size": (len(body), expected.size),
        "MD5": (hashlib.md5(body, usedforsecurity=False).hexdigest(), expected.md5),
        "Content-Type": (headers.pop("Content-Type", None), expected.content_type),
        "Cache-Control": (headers.pop("Cache-Control", None), expected.cache_control),
        "other headers": (headers, {}),
        "metadata": (attributes.metadata, expected.metadata),
    }
    wrong = [
        f"{name} {one!r} instead of {other!r}" for name, (one, other) in found_and_expected.items() if one != other
    ]
    return f"{key}: {', '.join(wrong)}" if wrong else None
