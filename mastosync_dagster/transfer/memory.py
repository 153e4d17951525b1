"""Keeps a process small that many threads allocate in."""

from __future__ import annotations

import contextlib
import ctypes

import pyarrow as pa

_M_ARENA_MAX = -8
"""glibc's number of this option, from its ``malloc.h``."""
_ARENAS = 4


def stay_small() -> None:
    """Have freed memory used again, by whichever thread, instead of kept for those that freed it.

    Arrow's own allocator kept 60 MB of a run of 10,000 objects that were free, and glibc's arenas (eight a core, each
    filled by the bodies of some threads) 20 MB. It costs no time that could be measured, and may be called any number
    of times. Where there is no glibc, its part is left out.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
