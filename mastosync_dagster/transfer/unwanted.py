"""Objects of the destination that no row expects, and what lies outside of the folders in question."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.transfer.findings import Finding, FindingLine
from mastosync_dagster.transfer.storage import PAGE_KEYS, ListedObject

if TYPE_CHECKING:
    from collections.abc import Collection

    from mastosync_dagster.transfer.storage import Storage

_FOREIGN_FOLDERS = 10
_FOREIGN_KEYS = 100

NOT_MASTODONS = "not in a folder of Mastodon's"


class _Listed(NamedTuple):
    """One answer to ListObjectsV2.

    Attributes:
        objects: Objects, their keys relative to the key prefix.
        folders: Folders, likewise.
        more: Whether there is more than fitted in.
    """

    objects: list[ListedObject]
    folders: list[str]
    more: bool


def unwanted_line(storage: Storage, entry: ListedObject, finding: Finding, detail: str | None) -> FindingLine:
    """Return the line of an object that no row expects."""
    key = storage.full_key(entry.key)
    return FindingLine(None, None, None, key, None, finding, detail, entry.size, entry.etag, None, entry.modified)


class Foreign(NamedTuple):
    """What lies in a folder and in none of its own folders.

    Attributes:
        objects: Some thousand of them at the most, each with a remark.
        list_requests: ListObjectsV2 requests that this took.
    """

    objects: list[tuple[ListedObject, str]]
    list_requests: int


def foreign_objects(storage: Storage, folder: str, own: Collection[str]) -> Foreign:
    """Return what lies in a folder and in none of its own folders.

    Sends a request, and one for each of the first `_FOREIGN_FOLDERS` foreign folders.

    Args:
        storage: The side.
        folder: Ends with ``/``; empty: the top.
        own: The folders that belong there, relative to the key prefix.

    Raises:
        StorageError: It cannot be listed.
    """
    answer = _list_once(storage, folder, delimiter="/", keys=PAGE_KEYS)
    found = [(entry, NOT_MASTODONS) for entry in answer.objects if entry.key not in own]
    strangers = [name for name in answer.folders if name not in own][:_FOREIGN_FOLDERS]
    for name in strangers:
        inside = _list_once(storage, name, delimiter="", keys=_FOREIGN_KEYS)
        detail = f"{NOT_MASTODONS}; one of many in {name}" if inside.more else NOT_MASTODONS
        found += [(entry, detail) for entry in inside.objects]
    return Foreign(found, 1 + len(strangers))


def _list_once(storage: Storage, folder: str, *, delimiter: str, keys: int) -> _Listed:
    cut = len(storage.settings.prefix)
    try:
        answer = storage.client.list_objects_v2(
            Bucket=storage.settings.bucket, Prefix=storage.full_key(folder), Delimiter=delimiter, MaxKeys=keys
        )
    except Exception as error:
        raise storage.error(error) from error
    return _Listed(
        [
            ListedObject(entry["Key"][cut:], entry["Size"], entry["ETag"].strip('"') or None, entry["LastModified"])
            for entry in answer.get("Contents", [])
        ],
        [entry["Prefix"][cut:] for entry in answer.get("CommonPrefixes", [])],
        answer.get("IsTruncated", False),
    )
