"""Moves a Mastodon instance's media from one S3 storage to another, and keeps the copy current."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster.definitions import defs

__all__ = ["defs"]


def __getattr__(name: str) -> object:
    """Load the definitions when Dagster asks for them: nobody else need pay the seconds that importing them takes."""
    if name == "defs":
        with _here_to_stay():
            from mastosync_dagster.definitions import defs as loaded  # noqa: PLC0415  (the point of this function)

        # From now on it is found without this function: what comes later does not stay.
        globals()["defs"] = loaded
        return loaded
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@contextlib.contextmanager
def _here_to_stay() -> Iterator[None]:
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


def __dir__() -> list[str]:
    """Name the definitions, since Dagster finds them by looking through the module's members."""
    return sorted({*globals(), *__all__})
