"""Moves a Mastodon instance's media from one S3 storage to another, and keeps the copy current."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mastosync_dagster.definitions import defs

__all__ = ["defs"]


def __getattr__(name: str) -> object:
    """Load the definitions when Dagster asks for them: nobody else need pay the seconds that importing them takes."""
    if name == "defs":
        from mastosync_dagster.process import overlooked_by_the_collector  # noqa: PLC0415  (as below)

        with overlooked_by_the_collector():
            from mastosync_dagster.definitions import defs as loaded  # noqa: PLC0415  (the point of this function)

        # From now on it is found without this function: what comes later does not stay.
        globals()["defs"] = loaded
        return loaded
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name the definitions, since Dagster finds them by looking through the module's members."""
    return sorted({*globals(), *__all__})
