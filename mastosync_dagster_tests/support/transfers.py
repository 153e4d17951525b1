"""A source and a destination on real servers, for tests of the copy: fill, plan, copy, check."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mastosync_dagster.copy.engine import CopyCounts, CopyProgress, copy_plan
from mastosync_dagster.copy.limits import CopySettings
from mastosync_dagster.records.manifest import ManifestLine, read_manifest
from mastosync_dagster.records.plan import COPIED, PlannedCopy, PlanWriter
from mastosync_dagster.s3.storage import Storage, StorageSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from mastosync_dagster_tests.support.corners import Bucket

FAST = CopySettings(concurrency=8, backoff_seconds=0.02)
"""Settings for tests: few threads, short waits."""
NEVER_CHANGES = "0123456789abcdef.png"
"""A name as Mastodon gives it: there is one content under it, and the destination is not asked before the first PUT."""


def storage(at: Bucket, name: str, *, endpoint: str | None = None, **settings: Any) -> Storage:
    """Return a storage.

    Args:
        at: Where it is.
        name: ``source`` or ``destination``.
        endpoint: Of a proxy before the bucket's server.
        settings: Further fields of `StorageSettings`.
    """
    server = replace(at.server, endpoint=endpoint or at.server.endpoint)
    base = StorageSettings(
        name=name,
        bucket=at.name,
        endpoint_url=server.endpoint,
        region=server.region,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
        variable_prefix="" if name == "source" else "DESTINATION_",
    )
    return Storage(replace(base, **settings))


def put_many(at: Bucket, keys: Iterable[str], body: bytes, headers: Mapping[str, str] | None = None) -> None:
    """Put the same body under many keys, without an ACL."""
    source = storage(at, "source")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: source.ask(lambda client: client.put(key, body, headers or {}, None)), keys))


def line(key: str, body: bytes | None = None, **fields: Any) -> PlannedCopy:
    """Return a line of a plan.

    Args:
        key: Of the object at both storages.
        body: What the source's listing shows of it; None: the source could not be listed.
        fields: Other values of `PlannedCopy`.
    """
    plain = PlannedCopy(
        key=key,
        source_key=key,
        candidates=[],
        size=None if body is None else len(body),
        etag=None if body is None else hashlib.md5(body, usedforsecurity=False).hexdigest(),
        private=False,
        keep_found_key=False,
        may_be_absent=False,
        group="media_attachments",
        row_id=1,
        part="file/original",
    )
    return plain._replace(**fields)


def open_uploads(at: Bucket) -> list[str]:
    """Return the keys of uploads in parts that nobody has ended."""
    try:
        answer = at.client.list_multipart_uploads(Bucket=at.name)
    except at.client.exceptions.NoSuchUpload:
        # That is what rclone's server says of a bucket in which no upload was ever begun.
        return []
    return [found["Key"] for found in answer.get("Uploads", [])]


@dataclass
class Transfer:
    """A copy between two buckets.

    Attributes:
        folder: Of plan and result.
        source: Bucket to fill.
        destination: Bucket to check.
        settings: How it is copied.
        source_options: For `storage`.
        destination_options: For `storage`.
        stop: Ends the copy.
        on_progress: Hears of its progress.
        pause: Says whether it pauses.
    """

    folder: Path
    source: Bucket
    destination: Bucket
    settings: CopySettings = FAST
    source_options: dict[str, Any] = field(default_factory=dict)
    destination_options: dict[str, Any] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    on_progress: Callable[[CopyProgress], None] = field(default=lambda _: None)
    pause: Callable[[], bool] = field(default=lambda: False)

    def put(self, key: str, body: bytes, **arguments: Any) -> PlannedCopy:
        """Put an object at the source. Returns its line of the plan."""
        client: S3Client = self.source.client
        prefix = str(self.source_options.get("prefix", ""))
        client.put_object(Bucket=self.source.name, Key=prefix + key, Body=body, **arguments)
        return line(key, body)

    def plan(self, lines: Iterable[PlannedCopy]) -> None:
        """Write the plan."""
        with PlanWriter(self.folder) as writer:
            for one in lines:
                writer.write(one)

    def run(self, *lines: PlannedCopy) -> tuple[CopyCounts, list[ManifestLine]]:
        """Plan and copy. Returns what it came to and the lines of the result, by key."""
        self.plan(lines)
        counts = copy_plan(
            self.folder,
            storage(self.source, "source", **self.source_options),
            storage(self.destination, "destination", **self.destination_options),
            self.settings,
            on_progress=self.on_progress,
            stop=self.stop,
            pause=self.pause,
        )
        return counts, self.result()

    def result(self) -> list[ManifestLine]:
        """Return the lines of the result, by key."""
        return sorted((one for batch in read_manifest(self.folder / COPIED) for one in batch), key=lambda one: one.key)

    def fetched(self, key: str) -> bytes:
        """Return an object's body at the destination."""
        return self.destination.client.get_object(Bucket=self.destination.name, Key=key)["Body"].read()

    def keys(self) -> set[str]:
        """Return the keys at the destination."""
        answer = self.destination.client.list_objects_v2(Bucket=self.destination.name)
        return {entry["Key"] for entry in answer.get("Contents", [])}
