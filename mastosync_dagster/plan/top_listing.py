"""Objects that no row expects, and what lies at the top of a storage, beside the folders that are copied."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.records.findings import Finding, FindingLine
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.etags import bare
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.storage import PAGE_KEYS, ListedObject, Storage, parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_PAGES = 10
_FOREIGN_FOLDERS = 10
_FOREIGN_KEYS = 100
_HIGHEST = "\U0010ffff"

NOT_COPIED = "in no folder that is copied"
AND_MORE = "and more"
"""Stands for the names that were not listed."""


class _Listed(NamedTuple):
    """One answer to ListObjectsV2: objects and folders, relative to the key prefix, and whether more follow."""

    objects: list[ListedObject]
    folders: list[str]
    more: bool


def orphan_line(storage: Storage, entry: ListedObject, finding: Finding, detail: str | None) -> FindingLine:
    """Return the finding of an object that no row expects, at either storage."""
    key = storage.full_key(entry.key)
    return FindingLine(None, None, None, key, None, finding, detail, entry.size, entry.etag, None, entry.modified)


@dataclass
class Top:
    """What lies at the top of a storage, and in the named folders.

    Attributes:
        listed: Whether it may be listed.
        names: Folders (with ``/`` at the end) and single objects that lie there, each with whether it is foreign. Some
            thousands at the most: then `AND_MORE` is one of them.
        objects: Foreign objects, some thousand of them at the most, each with a remark.
    """

    listed: bool = True
    names: dict[str, bool] = field(default_factory=dict)
    objects: list[tuple[ListedObject, str]] = field(default_factory=list)
    list_requests: int = 0


def list_top(storage: Storage, folders: Mapping[str, Collection[str]]) -> Top:
    """List what lies at the top of a storage.

    ``folders`` maps a folder (ends with ``/``; empty: the top) to the folders that belong there, relative to the key
    prefix: everything else in it is foreign. This takes one request for each page of names (up to `_PAGES` pages a
    folder), one more for each folder, and one for each of the first `_FOREIGN_FOLDERS` foreign folders.

    Raises:
        StorageError: It cannot be listed, for another reason than that it may not.
    """
    top = Top()
    for folder in folders:
        if not _list_names(storage, folder, folders, top):
            if not folder:
                # Where the top may not be listed, no folder is.
                top.listed = False
                return top
            top.names[AND_MORE] = True
    foreign_folders = [name for name, foreign in top.names.items() if foreign and name.endswith("/")]
    for name in foreign_folders[:_FOREIGN_FOLDERS]:
        inside = _try_to_list(storage, name, delimiter="", keys=_FOREIGN_KEYS)
        top.list_requests += 1
        if inside is not None:
            detail = f"{NOT_COPIED}; one of many in {name}" if inside.more else NOT_COPIED
            top.objects += [(entry, detail) for entry in inside.objects]
    return top


def list_beside(storage: Storage) -> Top:
    """List what lies in the bucket beside the key prefix; its names and keys are relative to the bucket. As `list_top`.

    Other things than the prefix's may lie there, and go with the bucket.
    """
    parts = [f"{part}/" for part in storage.settings.prefix.split("/")[:-1]]
    folders = {"".join(parts[:depth]): ["".join(parts[: depth + 1])] for depth in range(len(parts))}
    return list_top(whole_bucket(storage), folders)


def whole_bucket(storage: Storage) -> Storage:
    """Return the bucket of a storage, without the key prefix."""
    return Storage(replace(storage.settings, prefix=""))


def _list_names(storage: Storage, folder: str, folders: Mapping[str, Collection[str]], top: Top) -> bool:
    """Add what lies in one folder. Returns False where it may not be listed."""
    for page in _pages(storage, folder):
        top.list_requests += 1
        if page is None:
            return False
        for entry in page.objects:
            top.names[entry.key] = True
            top.objects.append((entry, NOT_COPIED))
        for name in page.folders:
            # A folder that is listed itself is not named: what lies in it says more.
            if name not in folders:
                top.names[name] = name not in folders[folder]
        if page.more:
            top.names[AND_MORE] = True
    return True


def _pages(storage: Storage, folder: str) -> Iterator[_Listed | None]:
    """List a folder without what lies deeper. Yields None, and ends, where it may not be listed.

    It continues after the last name until nothing comes: a server that ends a listing early may not say that there is
    more. If `_PAGES` pages do not suffice, the last one has ``more``.
    """
    after = ""
    for number in range(1, _PAGES + 2):
        answer = _try_to_list(storage, folder, delimiter="/", keys=PAGE_KEYS, after=after)
        if answer is None:
            yield None
            return
        objects = [entry for entry in answer.objects if entry.key > after and entry.key != folder]
        folders = [name for name in answer.folders if name > after]
        yield _Listed(objects, folders, more=number > _PAGES and bool(objects or folders))
        if not objects and not folders:
            return
        after = max([after, *(entry.key for entry in objects), *(name + _HIGHEST for name in folders)])


def _try_to_list(storage: Storage, folder: str, *, delimiter: str, keys: int, after: str = "") -> _Listed | None:
    """Send one request. Returns None where the folder may not be listed."""
    cut = len(storage.settings.prefix)
    start = storage.full_key(after) if after else None
    try:
        page = storage.ask(
            lambda client: client.list_page(storage.full_key(folder), after=start, keys=keys, delimiter=delimiter)
        )
    except StorageError as error:
        if error.reason is Reason.ACCESS_DENIED:
            return None
        raise
    return _Listed(
        [
            ListedObject(entry.key[cut:], entry.size, bare(entry.etag), parse_timestamp(entry.modified))
            for entry in page.entries
        ],
        [name[cut:] for name in page.folders],
        page.truncated,
    )
