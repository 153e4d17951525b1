"""The doubt lists of a run: what it reads of them, what it puts on them before it acts, and what it leaves there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.records.doubts import (
    CONTENT,
    OPEN,
    Doubt,
    DoubtLine,
    DoubtWriter,
    left_doubts,
    outcomes_of,
    planned_doubts,
    read_doubts,
)
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.runs.doubt_lists import DoubtList, Doubts, run_of
from mastosync_dagster.runs.history import copies
from mastosync_dagster.runs.run_lock import RunState, living, state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from dagster import DagsterInstance

    from mastosync_dagster.mastodon import IdRange
    from mastosync_dagster.ranges.partitions import FileType
    from mastosync_dagster.records.store import ManifestStore, StoredManifest
    from mastosync_dagster.runs.manifests import Damaged, ManifestOrigin

CHANGES = "changes"
"""Stands for the partition where the files of an unpartitioned run lie."""

_GOOD = frozenset({Outcome.COPIED, Outcome.PRESENT})
_UNKNOWN_RUN_AGE = timedelta(days=1)
"""A list of a run that this history does not know is replaced after this time: another home's run may go on."""
_IN_PROGRESS = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


@dataclass(frozen=True)
class ListPlace:
    """Where the lists of a run are.

    Attributes:
        store: The store.
        origin: The destination.
        destination_prefix: Its key prefix.
        partition: The run's ID range, or `CHANGES`.
        run_id: The run.
        folder: Its own folder.
    """

    store: ManifestStore
    origin: ManifestOrigin
    destination_prefix: str
    partition: str
    run_id: str
    folder: Path

    def ahead(self, table: str) -> Path:
        """The file of what the run puts on the list before it acts."""
        return self.folder / f"doubts-{table}.parquet"

    def final(self, table: str) -> Path:
        """The file of what it leaves on the list."""
        return self.folder / f"left-{table}.parquet"


class RunDoubts:
    """The doubt list of one table in the hands of a run, from its first row to its first request that writes.

    Args:
        place: Where lists are.
        table: The table.
        damaged: Passes over lists that cannot be read.
        instance: Knows which runs are over.
        ids: The ID range that the run is about; None: the whole table.
        settles: It asks for what is on the list, and puts its own in the place of all others.
        plans_all: It plans every row that it is about, and so every object that is on the list.

    Attributes:
        table: The table.
        doubts: What is on the list, of the rows that the run is about.

    Raises:
        ManifestStoreError: Lists cannot be read.
        StorageError: The bucket refuses.
    """

    def __init__(
        self,
        place: ListPlace,
        table: str,
        *,
        damaged: Damaged,
        instance: DagsterInstance,
        ids: IdRange | None,
        settles: bool,
        plans_all: bool,
    ) -> None:
        self.table = table
        self._place = place
        self._list = DoubtList(place.store, place.origin, table)
        # Asked before they are read: what a run that is over has left, it does not change any more.
        mine = () if ids is None else (place.partition,)
        over = {file for file in self._list.files(mine) if _is_over(instance, file)}
        self.doubts, whole = self._list.read(damaged, mine and (*mine, CHANGES), ids)
        own = [file for file in whole if ids is None or file.partition == place.partition]
        self._replaced = [file for file in own if file in over] if settles or plans_all else []
        # Who asks for what is on the list says of each object whether it stays.
        self._carried = [] if settles else self._replaced

    def open(self, stack: ExitStack) -> None:
        """Open the file that `keep` writes to, until the stack closes it."""
        self._ahead = stack.enter_context(DoubtWriter(self._place.ahead(self.table), self._place.origin.metadata()))
        for line in self._list.lines(self._carried):
            self._ahead.write(line)

    def keep(self, line: DoubtLine) -> None:
        """Leave an object on the list."""
        self._ahead.write(line)

    def add_planned(self, *, has_acls: bool) -> None:
        """Put on the list what carrying out the finished plan makes doubtful."""
        for line in planned_doubts(self._place.folder, self.table, self._place.destination_prefix, has_acls=has_acls):
            self._ahead.write(line)

    def publish(self) -> None:
        """Publish the list, when its files are closed; then remove those that it replaces.

        Raises:
            ManifestStoreError: It cannot be written: nothing may be done to an object.
            StorageError: The bucket refuses.
        """
        if self._ahead.lines:
            self._list.publish(self._place.ahead(self.table), self._place.partition, self._place.run_id)
        self._list.remove(self._replaced)


def add_to_list(place: ListPlace, table: str, lines: Sequence[DoubtLine], number: int) -> None:
    """Publish further doubtful objects of a run, beside those that it has put on the list before.

    Args:
        place: Where lists are.
        table: The table.
        lines: The objects.
        number: Number of the addition, from 1.

    Raises:
        ManifestStoreError: It cannot be written: nothing may be done to the objects.
        StorageError: The bucket refuses.
    """
    file = place.folder / f"doubts-{table}-{number}.parquet"
    with DoubtWriter(file, place.origin.metadata()) as writer:
        for line in lines:
            writer.write(line)
    DoubtList(place.store, place.origin, table).publish(file, place.partition, place.run_id, number)


def leave_doubts(place: ListPlace, table: str, manifest: Path, *, has_acls: bool, is_night: bool) -> Path | None:
    """Write what a run leaves on the list, by its manifest: to be published in the place of what it put there before.

    Args:
        place: Where lists are.
        table: The table.
        manifest: The run's whole manifest.
        has_acls: The destination has ACLs.
        is_night: The run was a night's and came to its end: what it has asked for in vain counts as asked for.

    Returns:
        The file; None: nothing is left, and the run's list has been removed.

    Raises:
        ManifestStoreError: The list could not be removed.
        StorageError: The bucket refuses.
    """
    nights = {
        (line.row_id, line.part): line.nights + is_night for line in _lines(place.ahead(table)) if line.why in CONTENT
    }
    final = place.final(table)
    written: set[tuple[int, str, Doubt]] = set()
    with DoubtWriter(final, place.origin.metadata()) as writer:
        for line in _left(place, table, manifest, nights, has_acls=has_acls):
            # The list and the manifest speak of the same objects, and so do lists of several runs.
            if line[:3] not in written:
                written.add(line[:3])
                writer.write(line)
    if writer.lines:
        return final
    listed = DoubtList(place.store, place.origin, table)
    listed.remove(file for file in listed.files([place.partition]) if file.run_id == place.run_id)
    return None


def _left(
    place: ListPlace, table: str, manifest: Path, nights: dict[tuple[int, str], int], *, has_acls: bool
) -> Iterator[DoubtLine]:
    rows = {line.row_id for line in _lines(place.ahead(table)) if line.why is not Doubt.PRIVATE}
    outcomes = outcomes_of(manifest, table, rows)
    for line in _lines(place.ahead(table)):
        outcome = outcomes.get((line.row_id, line.part))
        if line.why is Doubt.PRIVATE or outcome is None:
            yield line
        elif line.why in CONTENT:
            continue  # the manifest says anew what has failed or is missing
        elif outcome is Outcome.FAILED:
            yield line
        elif outcome in _GOOD and (has_acls or line.why is Doubt.ACL):
            # The server has said so. A later night asks whether it is so; one without ACLs cannot.
            yield line._replace(why=Doubt.PRIVATE)
    yield from left_doubts(manifest, table, nights, has_acls=has_acls)


def _lines(file: Path) -> Iterator[DoubtLine]:
    if file.exists():
        for lines in read_doubts(file):
            yield from lines


def others_may_write(instance: DagsterInstance, file_type: FileType, run_id: str) -> bool:
    """Tell whether another run may write objects of a file type by rows that it has read already."""
    found = {run.run_id: run for run in instance.get_runs(dg.RunsFilter(statuses=_IN_PROGRESS))}
    for other in living(instance):
        # The history may call a run ended whose process goes on.
        run = instance.get_run_by_id(other)
        if run is not None:
            found[other] = run
    # Of what has not begun, all is planned from rows that are read later than ours.
    harmless = {RunState.DEAD, RunState.NOT_BEGUN}
    return any(
        run.run_id != run_id and copies(run, file_type) and state(instance, run) not in harmless
        for run in found.values()
    )


def _is_over(instance: DagsterInstance, file: StoredManifest) -> bool:
    """Tell whether the run of a list can write no more."""
    run = instance.get_run_by_id(run_of(file))
    if run is None:
        return file.written < datetime.now(timezone.utc) - _UNKNOWN_RUN_AGE
    return run.is_finished and state(instance, run) is not RunState.ALIVE


def in_doubt(store: ManifestStore, origin: ManifestOrigin, table: str, damaged: Damaged) -> Doubts:
    """Return the doubt list of a table, as all runs have left it.

    Raises:
        ManifestStoreError: Lists cannot be read.
        StorageError: The bucket refuses.
    """
    return DoubtList(store, origin, table).read(damaged)[0]


def open_objects(doubts: Doubts, wanted: Callable[[int], bool] = lambda _: True) -> Counter[Doubt]:
    """Count the open objects of a list, each once, by the gravest reason for which it is.

    Args:
        doubts: The list.
        wanted: Whether the objects of a row, given its id, count.
    """
    counts: Counter[Doubt] = Counter()
    for step in doubts.steps():
        for noted in step:
            why = next((why for why in OPEN if why in noted.nights), None)
            if why is not None and wanted(noted.row_id):
                counts[why] += 1
    return counts


def doubt_text(counts: Mapping[Doubt, int]) -> str:
    """Return what people read about objects in doubt."""
    words = {
        Doubt.ACL: "wait for their ACL",
        Doubt.EXPOSED: "are private and at a destination without ACLs (delete them there, if everybody can read it)",
        Doubt.FAILED: "have failed",
        Doubt.MISSING: "were not at the source",
    }
    told = ", ".join(f"{counts[why]:,} {text}" for why, text in words.items() if counts.get(why))
    return f"{told}; the next nights ask again"
