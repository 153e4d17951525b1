"""A destination held against the generator's book: by its own listing, reading every object whole."""

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
    """What a comparison found.

    Attributes:
        equal: How many objects are at the destination as they must be: size, MD5 of the content, Content-Type,
            Cache-Control and user metadata.
        differences: A line for every object that is not, is not there, or should not be there.
    """

    equal: int
    differences: tuple[str, ...]


def list_keys(server: S3Server, bucket: str) -> frozenset[str]:
    """Return every key of a bucket."""
    pages = boto3_client(server).get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return frozenset(entry["Key"] for page in pages for entry in page.get("Contents", ()))


def compare(server: S3Server, bucket: str, expected: Iterable[GeneratedObject], *, key_prefix: str = "") -> Comparison:
    """Hold a bucket against what it must contain: these objects and no other.

    Args:
        server: Where the bucket is.
        bucket: The destination.
        expected: The objects it must contain.
        key_prefix: The destination's key prefix, "" for none.
    """
    wanted = {f"{key_prefix}/{each.key}" if key_prefix else each.key: each for each in expected}
    found = list_keys(server, bucket)
    storage = bucket_storage(server, bucket)

    def differences(key: str) -> str | None:
        reply = storage.ask(lambda client: client.get(key, limit=LARGEST))
        return _differences(key, wanted[key], reply.body, shown(reply.headers))

    with ThreadPoolExecutor(_THREADS) as pool:
        told = list(pool.map(differences, sorted(found & wanted.keys())))
    return Comparison(
        equal=told.count(None),
        differences=(
            *(line for line in told if line is not None),
            *(f"{key}: not at the destination" for key in sorted(wanted.keys() - found)),
            *(f"{key}: should not be at the destination" for key in sorted(found - wanted.keys())),
        ),
    )


def _differences(key: str, wanted: GeneratedObject, body: bytes, attributes: Attributes) -> str | None:
    headers = dict(attributes.headers)
    is_and_must_be = {
        "size": (len(body), wanted.size),
        "MD5": (hashlib.md5(body, usedforsecurity=False).hexdigest(), wanted.md5),
        "Content-Type": (headers.pop("Content-Type", None), wanted.content_type),
        "Cache-Control": (headers.pop("Cache-Control", None), wanted.cache_control),
        "other headers": (headers, {}),
        "metadata": (attributes.metadata, wanted.metadata),
    }
    wrong = [f"{name} {is_!r} instead of {must!r}" for name, (is_, must) in is_and_must_be.items() if is_ != must]
    return f"{key}: {', '.join(wrong)}" if wrong else None
