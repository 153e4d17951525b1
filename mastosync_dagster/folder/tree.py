"""The files of a folder as keys: where each lies, and all of them in the byte order of their keys."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNFINISHED = ".mastosync-"
"""The beginning of the names of files that are being written."""
_NAME_BYTES = 255


class Found(NamedTuple):
    """A file, or a folder (its key ends with ``/``)."""

    key: bytes
    path: bytes

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


def files_after(root: Path, prefix: str, after: str | None, *, deep: bool = True) -> Iterator[Found]:
    """Yield the files whose keys begin with a prefix and come after a key, in byte order.

    Not ``deep``: what lies in the prefix's folder, and the folders in it.

    Raises:
        OSError: A folder cannot be read. One that is removed meanwhile has no files.
    """
    start = as_bytes(prefix)
    top = start[: start.rfind(b"/") + 1]
    path = os.fsencode(root) + b"/" + top.rstrip(b"/")
    yield from _walk(path, top, start, b"" if after is None else as_bytes(after), deep=deep)


def _walk(path: bytes, folder: bytes, prefix: bytes, after: bytes, *, deep: bool) -> Iterator[Found]:
    for entry in _entries(path, folder):
        key = entry.key
        # All keys of a folder come after `after`, or none does, unless `after` lies in it.
        if not (key.startswith(prefix) or prefix.startswith(key)) or (key <= after and not after.startswith(key)):
            continue
        if entry.is_folder and deep:
            yield from _walk(entry.path, key, prefix, after, deep=True)
        elif key > after:
            yield entry


def _entries(path: bytes, folder: bytes) -> list[Found]:
    """Return what lies in a folder, in the byte order of the keys: that of a folder ends with a slash."""
    try:
        with os.scandir(path) as entries:
            found = [
                Found(folder + entry.name + (b"/" if entry.is_dir() else b""), entry.path)
                for entry in entries
                if not entry.name.startswith(UNFINISHED.encode()) and (entry.is_dir() or entry.is_file())
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found)
