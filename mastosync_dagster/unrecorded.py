"""Runs that have left no manifest: what they had done to objects when they died, nobody has put on record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.history import SYNC_CHANGES, read_until_tag
from mastosync_dagster.run_lock import RunState, state

if TYPE_CHECKING:
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
        since: When the last run without a manifest ended, in seconds since 1970; None: there is none.
    """

    instance: DagsterInstance
    since: float | None

    def __call__(self, manifest: StoredManifest) -> bool:
        """Tell whether what a manifest says of objects can be relied on."""
        if self.since is None:
            return True
        record = self.instance.get_run_record_by_id(manifest.run_id)
        began = record.start_time if record else None
        return began is not None and began >= self.since


def trust(instance: DagsterInstance, store: ManifestStore, file_type: FileType) -> Trust:
    """Find the last run that may have copied objects of a file type and has left no manifest in time.

    Args:
        instance: Whose history counts.
        store: Where manifests are.
        file_type: The file type.

    Raises:
        ManifestStoreError: They cannot be listed.
        StorageError: The bucket refuses.
    """
    ended, moments = [], []
    for record in instance.get_run_records(dg.RunsFilter(statuses=[*_ENDED_BADLY, *_IN_PROGRESS])):
        run = record.dagster_run
        if not _may_have_copied(run, file_type):
            continue
        if run.is_finished:
            ended.append(record)
        elif state(instance, run) is not RunState.ALIVE:
            # Nobody has noticed yet that it ended, or it is another machine's.
            moments.append(time.time())
    recorded = store.runs(file_type.value) | store.runs(SYNC_CHANGES) if ended else set()
    unrecorded = (record for record in ended if record.dagster_run.run_id not in recorded)
    moments += [record.end_time for record in unrecorded if record.end_time is not None]
    return Trust(instance, max(moments, default=None))


def _may_have_copied(run: dg.DagsterRun, file_type: FileType) -> bool:
    # The tag is set before the first copy. A run that is started once more has the tags of the first one.
    return run.tags.get(read_until_tag(file_type), "").partition("|")[2] == run.run_id
