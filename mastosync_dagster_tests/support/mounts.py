"""Commands that find small, full or read-only disks, which nobody else sees."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.support.installation import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

_NOT_ALLOWED = "this system lets nobody but root mount something in a name space of his own"
_ROOM = 8_192
_APART = ("unshare", "--map-root-user", "--mount", "sh", "-c")


def run_with_mounts(
    script: str, *command: str, environment: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a shell script that mounts something and executes ``"$@"``; skip the test where nobody may mount.

    The script runs in name spaces of its own, in which any user may mount. ``environment`` is added to this process's.
    """
    ended = subprocess.run(
        [*_APART, script, "sh", *command],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=PROJECT,
    )
    if ended.stderr.startswith("unshare:"):
        pytest.skip(_NOT_ALLOWED)
    return ended


@contextlib.contextmanager
def mounting(script: str, *command: str, log: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    """Yield the process of such a command, which goes on until it or the block ends. ``log`` gets what it says."""
    if subprocess.run([*_APART, "true"], capture_output=True, check=False).returncode:
        pytest.skip(_NOT_ALLOWED)
    with subprocess.Popen([*_APART, script, "sh", *command], stdout=log, stderr=log, cwd=PROJECT) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def little_room(room: int = _ROOM) -> Iterator[None]:
    """Let no file grow beyond a few kilobytes: to whoever writes it is like a full disk, and needs no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
