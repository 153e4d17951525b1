"""How a process is tuned: whose files it writes, what memory it keeps, when it looks for garbage."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3
"""glibc's numbers of these options, from its ``malloc.h``."""
_OWN_ALONE = 0o077
_ARENAS = 4
_GIVEN_BACK_FROM = 1024 * 1024
"""Bytes of an allocation that goes back to the system as soon as it is freed: parts of large objects."""


def keep_files_private() -> None:
    """Have whatever this process and its children write from now on be readable for its own user alone.

    Manifests, plans and Dagster's records name the media of suspended accounts, and much else.
    """
    os.umask(_OWN_ALONE)


def limit_malloc_arenas() -> None:
    """Have freed memory used again, by whichever thread, instead of kept for those that freed it.

    Arrow's own allocator kept 60 MB of a run of 10,000 objects that were free, and glibc's arenas (eight a core, each
    filled by the bodies of some threads) 20 MB. glibc also learns from the first large block that is freed to keep
    such blocks: the parts of large objects, 10 MB. It costs no time that could be measured, and may be called any
    number of times. Where there is no glibc, its part is left out.
    """
    import pyarrow as pa  # noqa: PLC0415  (who copies nothing need not pay for it)

    pa.set_memory_pool(pa.system_memory_pool())
    with contextlib.suppress(AttributeError, OSError, TypeError):
        glibc = ctypes.CDLL(None)
        glibc.mallopt(_M_ARENA_MAX, _ARENAS)
        glibc.mallopt(_M_MMAP_THRESHOLD, _GIVEN_BACK_FROM)


@contextlib.contextmanager
def collecting_by_hand() -> Iterator[None]:
    """Look for garbage in cycles only when the block asks for it.

    Planning and copying make ten thousands of small objects a second that live shortly and are in no cycle. Looking at
    them again and again took a fifth of the planning's CPU.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def overlooked_by_the_collector() -> Iterator[None]:
    """Have the garbage collector overlook what there is at the end of the block.

    What modules and definitions consist of stays as long as the process. Looking through it again and again, and once
    more at the end of the process, took a fifth of the time of a run that has nothing to do.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()
