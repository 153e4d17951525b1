"""What is said of a home whose disk cannot be written: which kind of trouble it is, and the cure."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

WRITTEN = ("history", "history/runs", "schedules", "storage")
"""Folders of the home that Dagster makes and writes to."""
_PROBE_BYTES = 64 * 1024
"""More than a write to the history takes: a disk may have a little room left."""
_CURES = (
    (
        r"disk is full|No space left on device|Disk quota exceeded",
        "is full: make room, files count too (df -h, df -i)",
    ),
    (
        r"readonly database|Read-only file system",
        "is read-only, or another user's: mount it writable, and give it to the user of the service (chown -R)",
    ),
    (
        r"unable to open database file",
        "has no room for files, or has gone: look at its inodes (df -i) and whether it is mounted",
    ),
    (
        r"database is locked|locking protocol|No locks available",
        (
            "is locked: another process writes all the time, or the file system has no locks (NFS with nolock): put it"
            " on a local disk"
        ),
    ),
    (
        r"disk I/O error|Input/output error",
        "gives errors: it may be full (df -h, df -i); else see the kernel's messages (dmesg)",
    ),
)
_KINDS = tuple((re.compile(pattern, re.IGNORECASE), cure) for pattern, cure in _CURES)


def sentence(home: Path, text: str) -> str | None:
    """Return what is said of an error's text in place of it; None: it is about something else."""
    for pattern, cure in _KINDS:
        if pattern.search(text):
            return f"The disk of DAGSTER_HOME, {home}, or of a temporary folder {cure}. All goes on by itself then."
    return None


def try_writing(home: Path) -> None:
    """Write a file where Dagster writes, or raise the OSError that it meets."""
    for folder in [home, *(home / name for name in WRITTEN)]:
        if not folder.exists():
            continue
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
        for database in folder.glob("*.db"):
            if not os.access(database, os.R_OK | os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(database))
