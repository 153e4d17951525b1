"""ID ranges: the partitions of every file type, their text form, and their registration with Dagster."""

from __future__ import annotations

import bisect
import contextlib
import math
import re
import time
from typing import TYPE_CHECKING

from mastosync_dagster.errors import AdminError
from mastosync_dagster.mastodon import HIGHEST_ID, IdRange, id_boundaries
from mastosync_dagster.ranges.file_types import FileType as FileType  # noqa: PLC0414, TC001  (imported from here too)

if TYPE_CHECKING:
    from collections.abc import Iterable

    import dagster as dg

    from mastosync_dagster.mastodon import Connect

_KEY = re.compile(r"(-?[0-9]{1,19})-(-?[0-9]{1,19})", re.ASCII)
_KEY_FORM = (
    "a range key is LOWEST-HIGHEST id, both included, such as 1-50000 or 110000000000000000-110500000000000000;"
    " `mastosync ranges --all` prints those that are registered"
)


class InvalidRangeError(AdminError):
    """A partition key is not an ID range, or not registered. The message says what a key looks like."""


def range_key(ids: IdRange) -> str:
    """Return the partition key ``lo-hi``, without padding: the UI shows about 27 characters of a key."""
    return f"{ids.lo}-{ids.hi}"


def parse_range(key: str) -> IdRange:
    """Return the ID range of a partition key, or raise InvalidRangeError."""
    found = _KEY.fullmatch(key)
    if found is None:
        raise InvalidRangeError(f"{key!r} is not an ID range: {_KEY_FORM}")
    lo, hi = int(found[1]), int(found[2])
    if lo > hi:
        raise InvalidRangeError(f"{key!r} is not an ID range: {lo} is above {hi}; {_KEY_FORM}")
    if max(abs(lo), abs(hi)) > HIGHEST_ID:
        raise InvalidRangeError(f"{key!r} is not an ID range: ids are 64-bit integers; {_KEY_FORM}")
    return IdRange(lo=lo, hi=hi)


def range_of_run(context: dg.OpExecutionContext | dg.AssetExecutionContext, file_type: FileType) -> IdRange:
    """Return the ID range that a run is about, or raise InvalidRangeError: none, several, or one that is no range."""
    if not context.has_partition_key:
        raise InvalidRangeError(not_one_range(file_type, several=context.has_partition_key_range))
    return registered_range(context.instance, file_type, context.partition_key)


def not_one_range(file_type: FileType, *, several: bool) -> str:
    """Return the message about a run that names no ID range, or ``several``."""
    return (
        f"A run of this job is about one ID range of {file_type.value}, and names {'several' if several else 'none'}:"
        f" name one that `mastosync ranges --all {file_type.value}` prints, with --partition RANGE (dg launch) or with"
        ' --tags \'{"dagster/partition": "RANGE"}\' (dagster job execute)'
    )


def registered_range(instance: dg.DagsterInstance, file_type: FileType, key: str) -> IdRange:
    """Return the ID range of a registered partition key, or raise InvalidRangeError."""
    ids = parse_range(key)
    if not instance.has_dynamic_partition(file_type.partitions_name, key):
        raise InvalidRangeError(unregistered(file_type.value, key))
    return ids


def unregistered(table: str, key: str) -> str:
    """Return the message about an ID range that is not registered."""
    return (
        f"{key} is not a registered ID range of {table}: `mastosync ranges --all {table}` registers new ones and"
        " prints all"
    )


def registered_ranges(instance: dg.DagsterInstance, file_type: FileType) -> list[IdRange]:
    """Return the registered ranges in the order of their registration, which is ascending.

    Keys that somebody added in the UI and that are no ranges are ignored here; their runs report the error.
    """
    found = []
    for key in instance.get_dynamic_partitions(file_type.partitions_name):
        with contextlib.suppress(InvalidRangeError):
            found.append(parse_range(key))
    return found


class RangeIndex:
    """Finds the range of an id among ranges that do not overlap."""

    def __init__(self, ranges: Iterable[IdRange] = ()) -> None:
        self.ranges = sorted(ranges, key=lambda ids: ids.lo)
        self._lowest = [ids.lo for ids in self.ranges]

    def find(self, row_id: int) -> IdRange | None:
        """Return the range that holds an id; None: none does."""
        index = bisect.bisect_right(self._lowest, row_id) - 1
        return self.ranges[index] if index >= 0 and row_id <= self.ranges[index].hi else None


def register_ranges(
    instance: dg.DagsterInstance,
    file_type: FileType,
    connect: Connect,
    *,
    rows_per_partition: int,
    full_only: bool = False,
    seconds: float = math.inf,
) -> list[IdRange]:
    """Register ranges above the last registered one and return the new ones, ascending. Earlier ones never change.

    The last range may hold fewer rows; with ``full_only`` such a range stays unregistered. After ``seconds`` the search
    for ranges ends; the next call continues it.
    """
    new = find_ranges(
        instance, file_type, connect, rows_per_partition=rows_per_partition, full_only=full_only, seconds=seconds
    )
    return add_ranges(instance, file_type, new)


def find_ranges(
    instance: dg.DagsterInstance,
    file_type: FileType,
    connect: Connect,
    *,
    rows_per_partition: int,
    full_only: bool,
    seconds: float = math.inf,
) -> list[IdRange]:
    """Return the ranges that `register_ranges` would register."""
    after = max((ids.hi for ids in registered_ranges(instance, file_type)), default=None)
    started, new = time.monotonic(), []
    for boundary in id_boundaries(connect, file_type.value, after=after, rows_per_range=rows_per_partition):
        if boundary.rows == rows_per_partition or not full_only:
            new.append(boundary.ids)
        if time.monotonic() - started > seconds:
            break
    return new


def add_ranges(instance: dg.DagsterInstance, file_type: FileType, new: list[IdRange]) -> list[IdRange]:
    """Register ranges, given ascending; return them without those that overlap with ranges registered meanwhile."""
    if not new:
        return []
    instance.add_dynamic_partitions(file_type.partitions_name, [range_key(ids) for ids in new])
    return _without_overlaps(instance, file_type, new)


def _without_overlaps(instance: dg.DagsterInstance, file_type: FileType, new: list[IdRange]) -> list[IdRange]:
    """Unregister new ranges that overlap with ranges of a concurrent registration; return the others.

    The range registered first stays: both processes see the same order.
    """
    highest = None
    ours, removed = set(new), set()
    for ids in registered_ranges(instance, file_type):
        if ids in ours and highest is not None and ids.lo <= highest:
            removed.add(ids)
            instance.delete_dynamic_partition(file_type.partitions_name, range_key(ids))
        else:
            highest = ids.hi if highest is None else max(highest, ids.hi)
    return [ids for ids in new if ids not in removed]
