"""Manifests that could not be published: kept on this machine until one of the next runs can."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.transfer.errors import StorageError
from mastosync_dagster.transfer.manifest_store import ManifestStoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    import dagster as dg

    from mastosync_dagster.transfer.manifest_store import ManifestStore

_NAME = "mastosync-unpublished"


class Outbox:
    """The folder beside Dagster's own files where they wait. ``<group>/<partition>/<run_id>``.

    Args:
        instance: Whose folder.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._folder = Path(instance.storage_directory()) / _NAME

    def keep(self, file: Path, group: str, partition: str, run_id: str) -> Path:
        """Take a manifest in. It is moved: where the disk is full there is no room for another one.

        Args:
            file: The finished manifest, on the same file system.
            group: As `ManifestStore.write` takes it.
            partition: The same.
            run_id: The same.

        Returns:
            Where it waits.

        Raises:
            OSError: It cannot be moved.
        """
        kept = self._folder / group / partition / run_id
        kept.parent.mkdir(parents=True, exist_ok=True)
        return file.replace(kept)

    def publish(self, store: ManifestStore, warn: Callable[[str], object]) -> None:
        """Publish what waits; what still cannot be published waits on, with a warning.

        Args:
            store: Where manifests stay.
            warn: Takes a warning.
        """
        for kept in sorted(self._folder.glob("*/*/*")):
            group, partition, run_id = kept.parts[-3:]
            try:
                store.write(kept, group, partition, run_id)
            except (ManifestStoreError, StorageError) as error:
                warn(f"the manifest of run {run_id} waits in {kept}: {error}")
            else:
                # A run beside this one may have been faster.
                kept.unlink(missing_ok=True)
