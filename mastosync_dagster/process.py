"""How a process is tuned: file permissions, open files, memory, garbage collector."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3
"""glibc's numbers of these options, from its ``malloc.h``."""
_NEW_OBJECTS = 20_000
_MMAP_BYTES = 1024 * 1024
"""Allocations from this size on return to the system when they are freed: parts of large objects."""

HIGHLIGHTER = "mako.ext.pygmentplugin"
"""Colors errors in Mako's templates, of which Alembic has some. It takes 4 MB, and a twentieth of the time of a short
command."""
RICH = "rich"
"""In a service, Dagster's log format of the same name alone uses it, through structlog: 4 MB. Commands show their
progress with it."""

FEWEST_FILES = 256
"""Open files that a copy with the usual concurrency needs: a connection for each request, and Dagster's own."""
_USUAL_FILES = 1024


def allow_open_files() -> int:
    """Raise the limit of open files to the usual one, as far as this process may. Returns the limit.

    Whatever runs out of them first would name something else: a host, the disk or Dagster's history.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _USUAL_FILES if most == resource.RLIM_INFINITY else min(most, _USUAL_FILES)
    if now == resource.RLIM_INFINITY or now >= wanted:
        return _USUAL_FILES if now == resource.RLIM_INFINITY else now
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    return wanted


def keep_files_private() -> None:
    """Set the umask: files that this process and its children write are for its own user alone.

    Manifests, plans and Dagster's records name the media of suspended accounts.
    """
    os.umask(0o077)


def load_without(*modules: str) -> None:
    """Let imports of optional modules fail, as if they were not installed. To be called before Dagster is loaded."""
    for module in modules:
        sys.modules.setdefault(module, None)  # type: ignore[arg-type]  # None: an import fails (Python's reference, 5.3.1)


def collect_seldom() -> None:
    """Let the cyclic garbage collector look at new objects more seldom than Python does.

    A command loads a million objects that stay, most of them Dagster's, and the collector took a fifth of that time.
    """
    gc.set_threshold(_NEW_OBJECTS)


def limit_malloc_arenas() -> None:
    """Let all threads share freed memory, and return large blocks to the system. Safe to call again.

    Measured over a run of 10,000 objects: Arrow's own allocator kept 60 MB of free memory, glibc's arenas (eight a
    core) 20 MB. After the first large free glibc also keeps large blocks, the parts of large objects: 10 MB. The change
    costs no measurable time. Without glibc only Arrow's part applies.
    """
    import pyarrow as pa  # noqa: PLC0415  (only runs that copy need it)

    pa.set_memory_pool(pa.system_memory_pool())
    _set_malloc(_M_ARENA_MAX, 4)
    _set_malloc(_M_MMAP_THRESHOLD, _MMAP_BYTES)


def use_one_malloc_arena() -> None:
    """Let all threads share one arena of glibc, as far as this is called before there are threads."""
    _set_malloc(_M_ARENA_MAX, 1)


def _set_malloc(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(option, value)


@contextlib.contextmanager
def collecting_by_hand() -> Iterator[None]:
    """Switch the cyclic garbage collector off within the block.

    Planning and copying make ten thousands of short-lived objects a second, none of them in a cycle. The collector took
    a fifth of the planning's CPU.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def collect_young() -> None:
    """Collect what has become garbage lately, for a block of `collecting_by_hand`.

    In a thread of its own: Python drops what a signal handler raises while a finalizer runs in the main thread, and a
    Ctrl-C with it.
    """
    thread = threading.Thread(target=gc.collect, args=(1,), name="garbage")
    thread.start()
    thread.join()


@contextlib.contextmanager
def frozen_for_gc() -> Iterator[None]:
    """Exclude from garbage collection all objects that exist at the end of the block.

    Modules and definitions live as long as the process. Collecting over them took a fifth of the time of a run that has
    nothing to do.
    """
    with collecting_by_hand():
        yield
        gc.freeze()
