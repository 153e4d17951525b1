"""Runs that have left no manifest: what they had done to objects when they died, nobody has put on record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.history import SYNC_CHANGES, copies, read_until_tag
from mastosync_dagster.launcher import RunProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagster import DagsterInstance

    from mastosync_dagster.partitions import FileType
    from mastosync_dagster.transfer.manifest_store import ManifestStore, StoredManifest

_ENDED_BADLY = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_IN_PROGRESS = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


@dataclass(frozen=True, slots=True)
class Trust:
    """Tells which manifests still describe objects: those of runs that began after the last one without a manifest.

    An earlier one may describe what a run without a manifest has overwritten since, from a plan that was older.

    Attributes:
        instance: Knows when runs began.
        since: When the last run without a manifest ended; None: there is none.
    """

    instance: DagsterInstance
    since: datetime | None

    def __call__(self, manifest: StoredManifest) -> bool:
        """Tell whether what a manifest says of objects can be relied on."""
        if self.since is None:
            return True
        record = self.instance.get_run_record_by_id(manifest.run_id)
        began = record.start_time if record else None
        return began is not None and began >= self.since.timestamp()


def trust(instance: DagsterInstance, store: ManifestStore, file_type: FileType) -> Trust:
    """Find the last run that may have copied objects of a file type and has left no manifest.

    Args:
        instance: Whose history counts.
        store: Where manifests are.
        file_type: The file type.

    Raises:
        ManifestStoreError: They cannot be listed.
        StorageError: The bucket refuses.
    """
    tag = read_until_tag(file_type)
    ended = [
        (record.end_time, record.dagster_run.run_id)
        for record in instance.get_run_records(dg.RunsFilter(statuses=list(_ENDED_BADLY)))
        # The tag is set before the first copy. A run that is started once more has the tags of the first one.
        if record.end_time is not None
        and copies(record.dagster_run, file_type)
        and record.dagster_run.tags.get(tag, "").partition("|")[2] == record.dagster_run.run_id
    ]
    recorded = store.runs(file_type.value) | store.runs(SYNC_CHANGES) if ended else set()
    last = max((moment for moment, run_id in ended if run_id not in recorded), default=None)
    return Trust(instance, None if last is None else datetime.fromtimestamp(last, timezone.utc))


def end_dead_runs(instance: DagsterInstance, log: Callable[[str], object]) -> None:
    """Have the history say of runs whose process is gone that they have failed.

    Run monitoring does that too, where Dagster's daemon runs: beside runs of the command line it need not.
    """
    for run in instance.get_runs(dg.RunsFilter(statuses=list(_IN_PROGRESS))):
        process = RunProcess.of(run)
        if process is not None and process.is_alive() is False:
            instance.report_run_failed(run, "The process that executed the run is gone.")
            log(f"the process of run {run.run_id} is gone: the run is a failure now")
