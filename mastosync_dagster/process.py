"""How a process uses memory: what it keeps, and when it looks for garbage."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator

_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3
"""glibc's numbers of these options, from its ``malloc.h``."""
_ARENAS = 4
_GIVEN_BACK_FROM = 1024 * 1024
"""Bytes of an allocation that goes back to the system as soon as it is freed: parts of large objects."""


def stay_small() -> None:
    """Have freed memory used again, by whichever thread, instead of kept for those that freed it.

    Arrow's own allocator kept 60 MB of a run of 10,000 objects that were free, and glibc's arenas (eight a core, each
    filled by the bodies of some threads) 20 MB. glibc also learns from the first large block that is freed to keep
    such blocks: the parts of large objects, 10 MB. It costs no time that could be measured, and may be called any
    number of times. Where there is no glibc, its part is left out.
    """
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
