"""ID ranges that a run over whole tables has finished: to Dagster they are materialized, as by runs of their own."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastosync_dagster.ranges.partitions import RangeIndex
from mastosync_dagster.records.outcomes import ONLY_AT_DESTINATION, Outcome
from mastosync_dagster.records.summaries import OutcomeCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mastosync_dagster.mastodon import IdRange
    from mastosync_dagster.records.manifest import ManifestLine

_NAMED = frozenset({Outcome.MISSING, Outcome.FAILED})
_FIRST_LINES, _ALL_LINES = 10, 1_000
"""So many missing and failed objects are named on each range's page, and on all of them together."""


@dataclass(frozen=True, slots=True)
class PlannedRange:
    """A range whose wanted rows are all planned; ``database_bytes`` and ``left_out`` as in `Planned`.

    ``new``: it is to be registered at the end of the run.
    """

    ids: IdRange
    database_bytes: int
    left_out: int = 0
    new: bool = False


class RangeCounts:
    """Counts the lines of a manifest by planned range: what grows in memory is the number of ranges.

    `first` has the first lines of a range that are missing or failed, for people.
    """

    def __init__(self, planned: Mapping[str, Sequence[PlannedRange]]) -> None:
        self._planned = planned
        self._ranges = {table: RangeIndex(each.ids for each in ranges) for table, ranges in planned.items() if ranges}
        self._counts: defaultdict[tuple[str, IdRange], OutcomeCounts] = defaultdict(OutcomeCounts)
        self.first: defaultdict[tuple[str, IdRange], list[ManifestLine]] = defaultdict(list)
        self._kept = 0

    def passing(self, batches: Iterable[Sequence[ManifestLine]]) -> Iterator[Sequence[ManifestLine]]:
        """Count the lines of a manifest on their way to a reader."""
        for batch in batches:
            for line in batch if self._ranges else ():
                ranges = self._ranges.get(line.group)
                ids = None if ranges is None else ranges.find(line.row_id)
                if ids is not None:
                    counts = self._counts[line.group, ids]
                    counts.add(line.outcome, line.reason, 1, line.size or 0)
                    counts.only_at_destination += line.detail == ONLY_AT_DESTINATION
                    if line.outcome in _NAMED:
                        self._keep(line, ids)
            yield batch

    def _keep(self, line: ManifestLine, ids: IdRange) -> None:
        first = self.first[line.group, ids]
        if len(first) < _FIRST_LINES and self._kept < _ALL_LINES:
            first.append(line)
            self._kept += 1

    def each(self) -> Iterator[tuple[str, PlannedRange, OutcomeCounts]]:
        """Yield every planned range with its table and the counts of its objects."""
        for table, ranges in self._planned.items():
            for planned in ranges:
                counts = self._counts.get((table, planned.ids), OutcomeCounts())
                counts.left_out = planned.left_out
                yield table, planned, counts


def lacks_too_much(total: OutcomeCounts) -> bool:
    """Return whether the source lacks so much that a run has to check first whether it is the right one."""
    return 2 * (total.outcomes[Outcome.MISSING] + total.only_at_destination) > total.objects
