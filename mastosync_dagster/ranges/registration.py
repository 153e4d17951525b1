"""New ID ranges that the tail has filled: registered, and handed to Dagster's backfill daemon."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

# A schedule can request runs of one job alone, so that it hands new ranges to the backfill daemon, as the UI does.
# Dagster has no public call for that; this one was tried on 1.13.
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.execution.backfill import PartitionBackfill

from mastosync_dagster.environment import rows_per_partition
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import one_line
from mastosync_dagster.ranges.partitions import FileType, range_key, register_ranges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

    from mastosync_dagster.mastodon import Connect

_SECONDS = 20.0
"""How long the tables are walked at a time, all together: Dagster gives up a tick after a minute."""


@dataclass(frozen=True)
class Growth:
    """New ID ranges.

    Attributes:
        ranges: Their keys, by file type.
        problems: Why tables could not be looked at, in plain words.
    """

    ranges: Mapping[FileType, Sequence[str]]
    problems: tuple[str, ...] = ()


def register_full_ranges(instance: dg.DagsterInstance, connect: Connect) -> Growth:
    """Register the ranges that the tail of each table has filled.

    Of a table without ranges all is the tail. A long one is registered over several calls. A table that cannot be read
    does not keep the others' new ranges from being told: they are new only once.

    Raises:
        SettingsError: MASTOSYNC_ROWS_PER_PARTITION is no number.
    """
    rows, due = rows_per_partition(), time.monotonic() + _SECONDS
    found: dict[FileType, list[str]] = {}
    problems: list[str] = []
    for looked_at, file_type in enumerate(FileType):
        share = max(0.0, due - time.monotonic()) / (len(FileType) - looked_at)
        try:
            new = register_ranges(instance, file_type, connect, rows_per_partition=rows, full_only=True, seconds=share)
        except AdminError as error:
            problems.append(f"{file_type.value}: {one_line(str(error))}")
            continue
        if new:
            found[file_type] = [range_key(ids) for ids in new]
    return Growth(found, tuple(problems))


def request_backfills(
    instance: dg.DagsterInstance,
    assets: BaseAssetGraph[Any],
    ranges: Mapping[FileType, Sequence[str]],
    *,
    title: str,
    tags: Mapping[str, str],
) -> None:
    """Have the backfill daemon run ranges, a run each.

    Args:
        instance: Whose daemon.
        assets: The assets of the repository.
        ranges: Registered partition keys by file type.
        title: What the UI calls the backfills.
        tags: Of their runs.
    """
    for file_type, keys in ranges.items():
        wanted = {AssetKeyPartitionKey(dg.AssetKey(file_type.value), key) for key in keys}
        with dg.partition_loading_context(dynamic_partitions_store=instance):
            backfill = PartitionBackfill.from_asset_graph_subset(
                backfill_id=uuid.uuid4().hex[:8],
                backfill_timestamp=time.time(),
                tags=tags,
                dynamic_partitions_store=instance,
                asset_graph_subset=AssetGraphSubset.from_asset_partition_set(wanted, assets),
                title=title,
                description=None,
                run_config=None,
            )
        instance.add_backfill(backfill)
