"""Registration of the ID ranges that the tail has filled, and backfills for them."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
import psycopg2

# A schedule can request runs of one job only. For new ranges of several jobs it requests backfills, as the UI does.
# Dagster has no public call for that; these names were tried on 1.13.
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from mastosync_dagster.environment import rows_per_partition
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import one_line
from mastosync_dagster.ranges.partitions import FileType, parse_range, range_key, register_ranges

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

    from mastosync_dagster.mastodon import Connect

REGISTRATION_SECONDS = 15.0
"""How long one call takes at the most, whatever does not answer: Dagster gives up a tick after a minute."""
_READ_SECONDS = 10.0
"""After so many of these no further range is looked for: the next call does it."""


@dataclass(frozen=True)
class Growth:
    """New range keys by file type, and messages about tables that could not be read.

    ``unreachable``: it is the database that could not be reached.
    """

    ranges: Mapping[FileType, Sequence[str]]
    problems: tuple[str, ...] = ()
    unreachable: bool = False


def register_full_ranges(instance: dg.DagsterInstance, connect: Connect) -> Growth:
    """Register the ranges that the tail of each table has filled. A long tail takes several calls.

    If a table cannot be read, the new ranges of the others are returned all the same: they are new only once. If the
    database cannot be reached, no other table is tried.
    """
    rows, deadline = rows_per_partition(), time.monotonic() + _READ_SECONDS
    found: dict[FileType, list[str]] = {}
    problems: list[str] = []
    unreachable = False
    for done, file_type in enumerate(FileType):
        share = max(0.0, deadline - time.monotonic()) / (len(FileType) - done)
        try:
            new = register_ranges(instance, file_type, connect, rows_per_partition=rows, full_only=True, seconds=share)
        except AdminError as error:
            problems.append(f"{file_type.value}: {one_line(str(error))}")
            unreachable = isinstance(error, psycopg2.OperationalError)  # the connection failed
            if unreachable:
                break
            continue
        if new:
            found[file_type] = [range_key(ids) for ids in new]
    return Growth(found, tuple(problems), unreachable=unreachable)


def request_backfills(
    instance: dg.DagsterInstance,
    assets: BaseAssetGraph[Any],
    ranges: Mapping[FileType, Sequence[str]],
    *,
    title: str,
    tags: Mapping[str, str],
) -> None:
    """Request a backfill for each file type, with a run for each range. ``tags`` are those of the runs."""
    for file_type, keys in ranges.items():
        partitions = {AssetKeyPartitionKey(dg.AssetKey(file_type.value), key) for key in keys}
        with dg.partition_loading_context(dynamic_partitions_store=instance):
            backfill = PartitionBackfill.from_asset_graph_subset(
                backfill_id=uuid.uuid4().hex[:8],
                backfill_timestamp=time.time(),
                tags=tags,
                dynamic_partitions_store=instance,
                asset_graph_subset=AssetGraphSubset.from_asset_partition_set(partitions, assets),
                title=title,
                description=None,
                run_config=None,
            )
        instance.add_backfill(backfill)


def requested_backfills(
    instance: dg.DagsterInstance, assets: BaseAssetGraph[Any], tags: Mapping[str, str]
) -> Iterator[tuple[PartitionBackfill, list[tuple[FileType, str]]]]:
    """Yield the backfills with these tags that have not ended, oldest first, and the ID ranges of each in order."""
    for backfill in reversed(instance.get_backfills(status=BulkActionStatus.REQUESTED)):
        if tags.items() <= backfill.tags.items():
            with dg.partition_loading_context(dynamic_partitions_store=instance):
                wanted = backfill.get_asset_backfill_data(assets).target_subset.iterate_asset_partitions()
                ranges = [(FileType(part.asset_key.to_user_string()), str(part.partition_key)) for part in wanted]
            yield backfill, sorted(ranges, key=lambda each: parse_range(each[1]).lo)


def end_backfill(instance: dg.DagsterInstance, backfill: PartitionBackfill, *, succeeded: bool) -> None:
    """Record the end of a backfill whose runs were executed without Dagster's daemon."""
    status = BulkActionStatus.COMPLETED_SUCCESS if succeeded else BulkActionStatus.COMPLETED_FAILED
    ended = backfill.with_status(status)  # type: ignore[no-untyped-call]  # Dagster's own
    instance.update_backfill(ended.with_end_timestamp(time.time()))
