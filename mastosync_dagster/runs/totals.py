"""What is done of an asset as a whole: the UI shows on its page the metadata of the ID range that ran last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.ranges.partitions import FileType, range_key, registered_ranges
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.summaries import BYTES_THERE, size_text
from mastosync_dagster.runs.watermarks import failed_reads, range_reads, range_states

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mastosync_dagster.records.summaries import OutcomeCounts


@dataclass(frozen=True)
class RangeTotals:
    """The numbers of a range whose run ends now, and whether it has failed."""

    numbers: Mapping[str, float]
    failed: bool

    @classmethod
    def of(cls, counts: OutcomeCounts, *, failed: bool) -> RangeTotals:
        """Return the range whose objects were counted."""
        outcomes = {outcome.value: counts.outcomes[outcome] for outcome in (Outcome.MISSING, Outcome.FAILED)}
        return cls({"objects": counts.objects, BYTES_THERE: counts.bytes_there, **outcomes}, failed)


@dataclass(frozen=True)
class AllRanges:
    """What is done of all ID ranges of a file type at a destination: ``text``, in Markdown.

    ``ended`` are ranges whose run ends now, and is not in Dagster's history yet; ``newest`` is the newest event that
    was there when the others were counted.
    """

    instance: dg.DagsterInstance
    file_type: FileType
    destination_id: str
    ended: Mapping[str, RangeTotals]
    newest: int
    text: str

    @classmethod
    def counted(
        cls,
        instance: dg.DagsterInstance,
        file_type: FileType,
        destination_id: str,
        ended: Mapping[str, RangeTotals],
    ) -> AllRanges:
        """Count the ranges, those that end now among them."""
        done, failed = _events(instance, file_type)
        newest = max([*done.values(), *failed.values()], default=0)
        text = _text(instance, file_type, destination_id, ended)
        return cls(instance, file_type, destination_id, ended, newest, text)

    def again(self) -> AllRanges | None:
        """Count again, once the ranges that end now are in the history; None: the page shows all that has run.

        Of two runs that end at the same time, neither had counted the other.
        """
        done, failed = _events(self.instance, self.file_type, self.newest)
        # The page shows the last materialization, whose run sees all others.
        if max(done, key=done.__getitem__, default="") not in self.ended:
            return None
        if done.keys() | failed.keys() <= self.ended.keys():
            return None
        found = self.counted(self.instance, self.file_type, self.destination_id, self.ended)
        return None if found.text == self.text else found


def _events(
    instance: dg.DagsterInstance, file_type: FileType, after: int | None = None
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Return the newest materialization of each range that has one after an event, and the newest observation."""
    asset = dg.AssetKey(file_type.value)
    return (
        instance.get_latest_storage_id_by_partition(
            asset, dg.DagsterEventType.ASSET_MATERIALIZATION, after_cursor=after
        ),
        instance.get_latest_storage_id_by_partition(asset, dg.DagsterEventType.ASSET_OBSERVATION, after_cursor=after),
    )


def _text(
    instance: dg.DagsterInstance, file_type: FileType, destination_id: str, ended: Mapping[str, RangeTotals]
) -> str:
    keys = [range_key(ids) for ids in registered_ranges(instance, file_type)]
    failures = failed_reads(instance, file_type, destination_id)
    reads = {**range_reads(instance, file_type, destination_id), **failures}
    numbers = {key: read.numbers for key, read in reads.items()} | {key: each.numbers for key, each in ended.items()}
    objects, missing, failed = (
        _total(numbers.values(), name) for name in ("objects", Outcome.MISSING.value, Outcome.FAILED.value)
    )
    # Materializations of earlier versions have the bytes of what they copied alone.
    size = sum(round(each.get(BYTES_THERE, each.get("bytes", 0))) for each in numbers.values())
    run, there = len(numbers.keys() & set(keys)), objects - missing - failed
    states = range_states(instance, file_type, keys, destination_id)
    red = {key for key, state in states.items() if state is dg.AssetPartitionStatus.FAILED}
    red = (red | failures.keys()) - ended.keys()
    red |= {key for key, each in ended.items() if each.failed}
    lines = [
        f"{run:,} of {len(keys):,} ID ranges have run",
        f"{there:,} objects ({size_text(size)}) at the destination",
        f"{missing:,} missing, {failed:,} failed",
        *([f"**ID ranges that have failed: {len(red):,}**"] if red else []),
    ]
    # Short lines: on the asset's page the UI cuts off what is wider than a third of the window.
    return "  \n".join(lines)


def _total(numbers: Iterable[Mapping[str, float]], name: str) -> int:
    return sum(round(each.get(name, 0)) for each in numbers)
