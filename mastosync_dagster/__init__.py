"""Moves a Mastodon instance's media from one S3 storage to another, and keeps the copy current."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mastosync_dagster.definitions import defs

__all__ = ["defs"]


def __getattr__(name: str) -> object:
    """Load the definitions only when Dagster asks for them: importing them takes seconds."""
    if name == "defs":
        from mastosync_dagster.process import frozen_for_gc  # noqa: PLC0415  (as below)

        with frozen_for_gc():
            from mastosync_dagster.definitions import defs as loaded  # noqa: PLC0415  (the point of this function)

        globals()["defs"] = loaded  # found without this function from now on
        return loaded
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name ``defs``: Dagster looks through the module's members."""
    return sorted({*globals(), *__all__})
