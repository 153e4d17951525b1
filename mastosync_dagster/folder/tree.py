"""The files of a folder as keys: where each lies, and all of them in the byte order of their keys."""

from __future__ import annotations

import errno
import itertools
import os
import re
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

UNFINISHED = ".mastosync-"
"""The beginning of the names of our own files, such as those that are being written. They are no objects."""
MARKER = f"{UNFINISHED}destination"
"""A file of ours that an empty mount point lacks."""
_NAME_BYTES = 255
_ABOVE_IDS = re.compile(rb"[a-z_]+(/[a-z_]+)*")
"""The folders of Mastodon's tables and attachments, such as ``cache/media_attachments/files``; not ``lost+found``."""


class UnreachableError(OSError):
    """A part of the folder is not there, as where a disk is not mounted: nothing is known of what lies in it."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.ENXIO, text)


class Empty(IntEnum):
    """Which empty folders are taken for mount points of disks that are not mounted."""

    NONE = 0
    """As of a destination that was never used."""
    LINKS = 1
    """The root, and what a link leads to. Other folders of a destination are empty while files are written there."""
    FOLDERS = 2
    """Of a source, the folders above the ids too: Mastodon removes a folder with its last file."""


class Found(NamedTuple):
    """A file, or a folder (its key ends with ``/``).

    Attributes:
        broken: It is a link that leads to neither.
        link: It is a link to a folder.
    """

    key: bytes
    path: bytes
    broken: bool = False
    link: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.key.endswith(b"/")


def as_bytes(key: str) -> bytes:
    """Return a key as the file system has it."""
    return key.encode("utf-8", "surrogateescape")


def as_text(key: bytes) -> str:
    """Return the key of a path."""
    return key.decode("utf-8", "surrogateescape")


def path_of(root: Path, key: str) -> bytes | None:
    """Return where a key lies in a folder; None: no file can have it, or it would lie outside."""
    parts = as_bytes(key).split(b"/")
    if any(part in {b"", b".", b".."} or b"\0" in part or len(part) > _NAME_BYTES for part in parts):
        return None
    return b"/".join([os.fsencode(root), *parts])


def ensure_reachable(root: Path, anchor: bytes, path: bytes, refused: Empty) -> None:
    """Raise an `UnreachableError` where a path is not there for the reason that a part of the folder is not.

    ``anchor`` is there as long as the folder is. A symbolic link on the way from the root to the path, or at its end,
    has to lead somewhere. No folder on the way may be empty that ``refused`` names.
    """
    if not os.path.exists(anchor):
        raise UnreachableError(f"{as_text(anchor)} is not there")
    at = os.fsencode(root)
    if refused and _is_empty(at):
        raise UnreachableError(f"{as_text(at)} is empty")
    key = path[len(at) + 1 :]
    for part in key.split(b"/"):
        at += b"/" + part
        link = os.path.islink(at)
        if not os.path.exists(at):
            if link:
                raise _broken(at)
            return
        _ensure_not_empty(at, at[len(os.fsencode(root)) + 1 :], refused, link=link)


def _ensure_not_empty(path: bytes, key: bytes, refused: Empty, *, link: bool) -> None:
    """Raise an `UnreachableError` where a folder, or a file, is the mount point of a disk that is not mounted."""
    at_risk = refused >= Empty.LINKS if link else refused >= Empty.FOLDERS and _ABOVE_IDS.fullmatch(key) is not None
    if at_risk and _is_empty(path):
        leads = f"is a link to {as_text(os.readlink(path))}, which is" if link else "is"
        raise UnreachableError(f"{as_text(path)} {leads} empty; if that is right, put a file {MARKER} into it")


def empty_folders(root: Path, tops: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each folder of some at the top, and in these, that is refused in a source."""
    for top, level in itertools.product(tops, ("", "/*", "/*/*")):
        for each in sorted(root.glob(top + level)):
            try:
                _ensure_not_empty(
                    os.fsencode(each), os.fsencode(each.relative_to(root)), Empty.FOLDERS, link=each.is_symlink()
                )
            except UnreachableError as error:
                yield str(error.strerror)


def _is_empty(folder: bytes) -> bool:
    if not os.path.isdir(folder):
        return False
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def _broken(link: bytes) -> UnreachableError:
    return UnreachableError(f"{as_text(link)} is a link to {as_text(os.readlink(link))}, which does not exist")


def files_after(
    root: Path,
    prefix: str,
    after: str | None,
    *,
    deep: bool = True,
    refused: Empty = Empty.NONE,
    on_unfinished: Callable[[os.DirEntry[bytes]], None] | None = None,
) -> Iterator[Found]:
    """Yield the files whose keys begin with a prefix and come after a key, in byte order.

    Not ``deep``: what lies in the prefix's folder, and the folders in it. ``on_unfinished`` gets files of our own that
    are met on the way.

    Raises:
        OSError: A folder cannot be read. One that is removed meanwhile has no files.
        UnreachableError: A link leads nowhere, or a folder is a mount point that is ``refused``: it is not known what
            should be listed.
    """
    start = as_bytes(prefix)
    top = start[: start.rfind(b"/") + 1]
    path = (os.fsencode(root) + b"/" + top).rstrip(b"/")
    # Below a link to nowhere there is no folder either, which would look like an empty one.
    ensure_reachable(root, os.fsencode(root), path, refused)
    bounds = start, b"" if after is None else as_bytes(after)
    seen = on_unfinished or (lambda _: None)
    yield from _walk(path, top, bounds, refused, deep=deep, on_unfinished=seen)


def _walk(
    path: bytes,
    folder: bytes,
    bounds: tuple[bytes, bytes],
    refused: Empty,
    *,
    deep: bool,
    on_unfinished: Callable[[os.DirEntry[bytes]], None],
) -> Iterator[Found]:
    prefix, after = bounds
    for entry in _entries(path, folder, on_unfinished):
        key = entry.key
        # All keys of a folder come after `after`, or none does, unless `after` lies in it.
        if not (key.startswith(prefix) or prefix.startswith(key)) or (key <= after and not after.startswith(key)):
            continue
        if entry.broken:
            raise _broken(entry.path)
        if entry.is_folder:
            _ensure_not_empty(entry.path, key.rstrip(b"/"), refused, link=entry.link)
        if entry.is_folder and deep:
            yield from _walk(entry.path, key, bounds, refused, deep=True, on_unfinished=on_unfinished)
        elif key > after:
            yield entry


def _entries(path: bytes, folder: bytes, on_unfinished: Callable[[os.DirEntry[bytes]], None]) -> list[Found]:
    """Return what lies in a folder, in the byte order of the keys: that of a folder ends with a slash."""
    try:
        with os.scandir(path) as scan:
            entries = list(scan)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for entry in entries:
        if entry.name.startswith(UNFINISHED.encode()):
            on_unfinished(entry)
        elif (known := _found(entry, folder)) is not None:
            found.append(known)
    return sorted(found)


def _found(entry: os.DirEntry[bytes], folder: bytes) -> Found | None:
    """Return an entry of a folder; None for one that is no file, such as a socket."""
    key = folder + entry.name
    if entry.is_dir():
        return Found(key + b"/", entry.path, link=entry.is_symlink())
    if entry.is_file():
        return Found(key, entry.path)
    if entry.is_symlink() and not os.path.exists(entry.path):
        # Any key that begins so may lie behind it.
        return Found(key + b"/", entry.path, broken=True)
    return None
