"""What is done of an asset as a whole: the UI shows on its page the metadata of the ID range that ran last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.ranges.partitions import FileType, range_key, registered_ranges
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.summaries import BYTES_THERE, size_text
from mastosync_dagster.runs.watermarks import range_reads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mastosync_dagster.records.summaries import OutcomeCounts


def all_ranges(
    instance: dg.DagsterInstance, file_type: FileType, destination_id: str, ended: Mapping[str, Mapping[str, float]]
) -> str:
    """Return in Markdown what is done of all ID ranges at a destination.

    ``ended`` has the numbers of ranges whose run ends now, and is not in Dagster's history yet.
    """
    keys = [range_key(ids) for ids in registered_ranges(instance, file_type)]
    reads = range_reads(instance, file_type, destination_id)
    numbers: dict[str, Mapping[str, float]] = {**{key: read.numbers for key, read in reads.items()}, **ended}
    objects, missing, failed = (
        sum(round(each.get(name, 0)) for each in numbers.values())
        for name in ("objects", Outcome.MISSING.value, Outcome.FAILED.value)
    )
    # Materializations of earlier versions have the bytes of what they copied alone.
    size = sum(round(each.get(BYTES_THERE, each.get("bytes", 0))) for each in numbers.values())
    run, there = len(numbers.keys() & set(keys)), objects - missing - failed
    red = _failed_ranges(instance, file_type, keys) - ended.keys()
    lines = [
        f"{run:,} of {len(keys):,} ID ranges have run",
        f"{there:,} objects ({size_text(size)}) at the destination",
        f"{missing:,} missing, {failed:,} failed",
        *([f"**{len(red):,} other ID ranges have failed**"] if red else []),
    ]
    # Short lines: on the asset's page the UI cuts off what is wider than a third of the window.
    return "  \n".join(lines)


def range_totals(counts: OutcomeCounts) -> dict[str, int]:
    """Return the numbers of a range whose run ends now, for `all_ranges`."""
    outcomes = {outcome.value: counts.outcomes[outcome] for outcome in (Outcome.MISSING, Outcome.FAILED)}
    return {"objects": counts.objects, BYTES_THERE: counts.bytes_there, **outcomes}


def _failed_ranges(instance: dg.DagsterInstance, file_type: FileType, keys: list[str]) -> set[str]:
    with dg.partition_loading_context(dynamic_partitions_store=instance):
        found = instance.get_status_by_partition(dg.AssetKey(file_type.value), keys, file_type.partitions)
    return {key for key, status in (found or {}).items() if status is dg.AssetPartitionStatus.FAILED}
