"""Asset checks with a result for each ID range."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from mastosync_dagster.ranges.file_types import FileType


SEE_EACH = "The Overview shows the result of the last range alone: the red ones are here, under Partitions."
"""Of Dagster's pages, for the description of a check."""


def range_check(name: str, asset: str, file_type: FileType, description: str) -> dg.AssetCheckSpec:
    """Return a check with a result for each ID range: what failed in one stays red when others pass."""
    with warnings.catch_warnings():
        # Dagster says at each load that it may change this yet.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(name, asset=asset, description=description, partitions_def=file_type.partitions)
