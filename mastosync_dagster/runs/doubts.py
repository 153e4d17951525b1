"""The doubt lists of a run: what it reads of them, what it puts on them before it acts, and what it leaves there."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.environment import COPY_PRIVATE, MANIFESTS, copy_private
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
from mastosync_dagster.records.store import ManifestStoreError
from mastosync_dagster.runs.doubt_lists import DoubtList, Doubts, run_of
from mastosync_dagster.runs.manifests import LOST_DOUBTS, Damaged
from mastosync_dagster.runs.run_lock import IN_PROGRESS, RunState, living, state
from mastosync_dagster.runs.watermarks import copies
from mastosync_dagster.s3.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from dagster import DagsterInstance

    from mastosync_dagster.mastodon import Selection
    from mastosync_dagster.ranges.partitions import FileType
    from mastosync_dagster.records.store import ManifestStore, StoredManifest
    from mastosync_dagster.runs.context import RunContext
    from mastosync_dagster.runs.manifests import ManifestOrigin

CHANGES = "changes"
"""The partition's name for the files of an unpartitioned run."""

_GOOD = frozenset({Outcome.COPIED, Outcome.PRESENT})
_CHECKED = frozenset({Doubt.PRIVATE, Doubt.EXPOSED})
"""What the night has seen at the destination, whatever else becomes of the object."""
_RUNS_A_QUERY = 500
_UNKNOWN_RUN_AGE = timedelta(days=1)
"""A list whose run this history does not know is replaced after this time: another DAGSTER_HOME's run may go on."""


class RunDoubts:
    """The doubt list of one table in a run, from its first row to its first request that writes.

    ``partition`` is the key of the run's ID range, or `CHANGES`. `doubts` is what is on the list, of the rows that the
    run is about. `is_whole`: each file of it could be read.
    """

    def __init__(self, run: RunContext, partition: str, selection: Selection) -> None:
        self.table = selection.table
        self._run = run
        self._partition = partition
        self._list = DoubtList(run.store, run.origin, selection.table)
        # Checked before the lists are read: a run that has ended changes its list no more.
        mine = () if selection.ids is None else (partition,)
        ended = set(_ended(run.instance, self._list.files(mine)))
        damaged = Damaged(run.log.warning, LOST_DOUBTS)
        self.doubts, whole = self._list.read(damaged, mine and (*mine, CHANGES), selection.ids)
        self.is_whole = not damaged.names
        # A run that skips rows does not come to all objects of a list.
        self._replaced = [] if selection.is_cut else [file for file in whole if file in ended]
        # One over changed rows decides for each object whether it stays.
        self._carried: list[StoredManifest] = []

    def plan_all_rows(self) -> None:
        """Let what is on the list stay on it: the run plans all rows of its table or range, with all their objects."""
        self._carried = self._replaced

    def open(self, stack: ExitStack) -> None:
        """Open the file that `keep` writes to, until the stack closes it."""
        self._ahead = stack.enter_context(DoubtWriter(_ahead(self._run, self.table), self._run.origin.metadata()))
        for line in self._list.lines(self._carried):
            self._ahead.write(line)

    def keep(self, line: DoubtLine) -> None:
        """Leave an object on the list."""
        self._ahead.write(line)

    def add_planned(self) -> None:
        """Put on the list what carrying out the finished plan makes doubtful."""
        settings = self._run.destination.settings
        for line in planned_doubts(self._run.folder, self.table, settings.prefix, has_acls=settings.has_acls):
            self._ahead.write(line)

    def publish(self) -> None:
        """Publish the closed list, then remove those that it replaces. Where this fails, no object may be changed."""
        if self._ahead.lines:
            self._list.publish(_ahead(self._run, self.table), self._partition, self._run.run_id)
        try:
            self._list.remove(self._replaced)
        except (ManifestStoreError, StorageError) as problem:
            # What they name stays in doubt, and is asked for by further nights: that is all.
            self._run.log.warning(
                "earlier lists of what is in doubt stay, though this run's has replaced them: %s. Let this user (in a"
                " bucket: the access key, s3:DeleteObject) delete where %s says",
                problem,
                MANIFESTS,
            )


def _ahead(run: RunContext, table: str) -> Path:
    """Return the file of what a run puts on the list before it acts."""
    return run.folder / f"doubts-{table}.parquet"


def add_to_list(run: RunContext, partition: str, table: str, lines: Sequence[DoubtLine], number: int) -> None:
    """Publish further doubtful objects of a run; ``number`` counts these lists, from 1. Failures: as in `publish`."""
    file = run.folder / f"doubts-{table}-{number}.parquet"
    with DoubtWriter(file, run.origin.metadata()) as writer:
        for line in lines:
            writer.write(line)
    DoubtList(run.store, run.origin, table).publish(file, partition, run.run_id, number)


def leave_doubts(run: RunContext, partition: str, table: str, manifest: Path, *, is_night: bool) -> Path | None:
    """Write what a run leaves on the list, by its manifest: it replaces what the run put there before it acted.

    ``is_night``: the run was a night's and came to its end, so what it has asked for in vain counts as asked for.
    Return the file to be published; None: nothing is left, and the run's list has been removed.
    """
    ahead = _ahead(run, table)
    nights = {(line.row_id, line.part): line.nights + is_night for line in _lines(ahead) if line.why in CONTENT}
    left = run.folder / f"left-{table}.parquet"
    written: set[tuple[int, str, Doubt]] = set()
    with DoubtWriter(left, run.origin.metadata()) as writer:
        for line in _left(ahead, table, manifest, nights, has_acls=run.destination.settings.has_acls):
            # The list and the manifest have the same objects, and so do lists of several runs.
            if line[:3] not in written:
                written.add(line[:3])
                writer.write(line)
    if writer.lines:
        return left
    listed = DoubtList(run.store, run.origin, table)
    listed.remove(file for file in listed.files([partition]) if file.run_id == run.run_id)
    return None


def _left(
    ahead: Path, table: str, manifest: Path, nights: dict[tuple[int, str], int], *, has_acls: bool
) -> Iterator[DoubtLine]:
    rows = {line.row_id for line in _lines(ahead) if line.why not in _CHECKED}
    outcomes = outcomes_of(manifest, table, rows)
    for line in _lines(ahead):
        outcome = outcomes.get((line.row_id, line.part))
        if line.why in _CHECKED or outcome is None or (outcome is Outcome.FAILED and line.why not in CONTENT):
            yield line
        # The manifest has what has failed or is missing now.
        elif outcome in _GOOD and line.why not in CONTENT and (has_acls or line.why is Doubt.ACL):
            # The server has confirmed the ACL. A later night checks it; one without ACLs cannot.
            yield line._replace(why=Doubt.PRIVATE)
    yield from left_doubts(manifest, table, nights, has_acls=has_acls)


def _lines(file: Path) -> Iterator[DoubtLine]:
    if file.exists():
        for lines in read_doubts(file):
            yield from lines


def others_may_write(instance: DagsterInstance, file_type: FileType, run_id: str) -> bool:
    """Return whether another run may write objects of a file type by rows that it has read already."""
    found = {run.run_id: run for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS))}
    for other in living(instance):
        # The history may call a run ended whose process goes on.
        run = instance.get_run_by_id(other)
        if run is not None:
            found[other] = run
    # A run that has not begun will plan from rows that it reads later than this run.
    harmless = {RunState.DEAD, RunState.NOT_BEGUN}
    return any(
        run.run_id != run_id and copies(run, file_type) and state(instance, run) not in harmless
        for run in found.values()
    )


def _ended(instance: DagsterInstance, files: Sequence[StoredManifest]) -> Iterator[StoredManifest]:
    """Yield those lists whose runs can write no more."""
    for start in range(0, len(files), _RUNS_A_QUERY):
        some = files[start : start + _RUNS_A_QUERY]
        # After thousands of ranges, a query for each of their runs would read a hundred megabytes of the history.
        found = {run.run_id: run for run in instance.get_runs(dg.RunsFilter(run_ids=sorted({*map(run_of, some)})))}
        yield from (file for file in some if _has_ended(instance, file, found.get(run_of(file))))


def _has_ended(instance: DagsterInstance, file: StoredManifest, run: dg.DagsterRun | None) -> bool:
    """Return whether the run of a list can write no more; None: this history does not know it."""
    if run is None:
        return file.written < datetime.now(timezone.utc) - _UNKNOWN_RUN_AGE
    return run.is_finished and state(instance, run) is not RunState.ALIVE


def in_doubt(store: ManifestStore, origin: ManifestOrigin, table: str, damaged: Damaged) -> Doubts:
    """Return the doubt list of a table, as all runs have left it."""
    return DoubtList(store, origin, table).read(damaged)[0]


def open_reasons(*, has_acls: bool) -> tuple[Doubt, ...]:
    """Return for which reasons something is left to do or to check.

    What was skipped as private is left, unless an admin has decided that it may be, which counts without ACLs alone.
    """
    return OPEN if not has_acls and copy_private() is False else (*OPEN, Doubt.SKIPPED)


def open_objects(
    doubts: Doubts, reasons: Sequence[Doubt], wanted: Callable[[int], bool] = lambda _: True
) -> Counter[Doubt]:
    """Count the objects of a list by the first of these ``reasons``; ``wanted``: whether those of a row id count."""
    counts: Counter[Doubt] = Counter()
    for step in doubts.steps():
        for doubtful in step:
            why = next((why for why in reasons if why in doubtful.nights), None)
            if why is not None and wanted(doubtful.row_id):
                counts[why] += 1
    return counts


def doubt_text(counts: Mapping[Doubt, int]) -> str:
    """Return the message about objects in doubt."""
    texts = {
        Doubt.ACL: "wait for their ACL",
        Doubt.EXPOSED: "are private and at a destination without ACLs (delete them there, if everybody can read it)",
        Doubt.FAILED: "have failed",
        Doubt.SKIPPED: f"are private and were not copied (where there are no ACLs: decide with {COPY_PRIVATE})",
        Doubt.MISSING: "were not at the source",
    }
    reasons = ", ".join(f"{counts[why]:,} {text}" for why, text in texts.items() if counts.get(why))
    return f"{reasons}; the next nights ask again"
