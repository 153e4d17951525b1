"""Manifests on their way to the store: what cannot be published waits on this machine until a later run can."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.escaping import plain
from mastosync_dagster.records.doubts import GROUP
from mastosync_dagster.records.store import ManifestStoreError
from mastosync_dagster.runs.run_lock import RunState, state
from mastosync_dagster.s3.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import dagster as dg

    from mastosync_dagster.records.store import ManifestStore

LATE = "late-{group}"
"""The group of manifests that a later run has published. They lie apart: manifests published meanwhile describe a later
state, and nobody is to take these for the newest."""

_NAME = "mastosync-unpublished"
_BETWEEN = "~"
"""Between the parts of a file's name; in none of them (`ManifestStore.write`)."""


class Outbox:
    """The folder beside Dagster's own files where manifests wait. It is made at once, before the disk may be full."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._folder = Path(instance.storage_directory()) / _NAME
        self._folder.mkdir(parents=True, exist_ok=True)

    def publish(self, store: ManifestStore, file: Path, group: str, partition: str, run_id: str) -> str:
        """Publish a run's manifest, and return its location. Where that fails it waits for a later run.

        The file is moved: the disk may have no room for a copy. After a ManifestStoreError or StorageError the manifest
        waits; after an OSError it cannot even wait, and the file is where it was.
        """
        kept = file.replace(self._folder / _BETWEEN.join((group, partition, run_id)))
        location = store.write(kept, group, partition, run_id)
        kept.unlink(missing_ok=True)
        return location

    def publish_waiting(self, store: ManifestStore, warn: Callable[[str], object]) -> None:
        """Publish the manifests that wait. Those that still cannot be published wait on, with a warning each."""
        for file in self._folder.glob(f"*{_BETWEEN}*{_BETWEEN}*"):
            group, partition, run_id = file.name.split(_BETWEEN, 2)
            run = self._instance.get_run_by_id(run_id)
            if run is not None and state(self._instance, run) is RunState.ALIVE:
                continue  # its own process is publishing it, whatever the history calls the run
            try:
                # A doubt list is read beside all others, whenever it comes.
                late = group if group.startswith(GROUP.format(table="")) else LATE.format(group=group)
                store.write(file, late, partition, run_id)
                file.unlink(missing_ok=True)
            except (ManifestStoreError, StorageError, OSError) as error:
                # If the file is not found, another run has published it meanwhile.
                if file.exists():
                    warn(f"the manifest of run {run_id} waits in {file}: {plain(str(error))}")
