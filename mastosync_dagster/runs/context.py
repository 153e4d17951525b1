"""What every run is given: opened once, and handed down."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mastosync_dagster.resources import ensure_different
from mastosync_dagster.runs.doubts import ListPlace
from mastosync_dagster.runs.manifests import ManifestOrigin, manifest_store
from mastosync_dagster.runs.work_folder import work_folder

if TYPE_CHECKING:
    from pathlib import Path

    import dagster as dg

    from mastosync_dagster.records.store import ManifestStore
    from mastosync_dagster.resources import MastodonDatabase, S3Bucket
    from mastosync_dagster.runs.progress import ProgressReporter
    from mastosync_dagster.s3.storage import Storage


@dataclass(frozen=True)
class RunContext:
    """A run: where its rows and objects are, and who hears of it.

    What is read from settings, here or in a resource, is read when it is first asked for: an op turns what is wrong
    with them into a sentence.

    Attributes:
        instance: Dagster's.
        run_id: Which run.
        log: Shown in the UI.
        database: Holds the rows.
        source_bucket: Where objects are read; None: nobody reads any.
        destination_bucket: Where they go.
        progress: Told how far the run is.
    """

    instance: dg.DagsterInstance
    run_id: str
    log: dg.DagsterLogManager
    database: MastodonDatabase
    source_bucket: S3Bucket | None
    destination_bucket: S3Bucket
    progress: ProgressReporter

    @classmethod
    def of(
        cls,
        context: dg.OpExecutionContext | dg.AssetExecutionContext,
        database: MastodonDatabase,
        source: S3Bucket | None,
        destination: S3Bucket,
        progress: ProgressReporter,
    ) -> RunContext:
        """Return the run of an op."""
        return cls(context.instance, context.run.run_id, context.log, database, source, destination, progress)

    @cached_property
    def source(self) -> Storage:
        """Where objects are read."""
        assert self.source_bucket is not None  # noqa: S101  (who has none asks for none)
        return self.source_bucket.storage()

    @cached_property
    def destination(self) -> Storage:
        """Where they go."""
        return self.destination_bucket.storage()

    @cached_property
    def store(self) -> ManifestStore:
        """Where manifests stay."""
        return manifest_store(self.instance, self.destination_bucket, self.source_bucket)

    @property
    def place(self) -> str:
        """The destination's identity: what is complete elsewhere says nothing about it."""
        return self.destination.settings.identity

    @property
    def origin(self) -> ManifestOrigin:
        """What manifests say of where their objects are."""
        return ManifestOrigin(self.place, acls=self.destination.settings.has_acls)

    @property
    def folder(self) -> Path:
        """The run's own folder, which need not exist."""
        return work_folder(self.instance, self.run_id)

    def list_place(self, partition: str) -> ListPlace:
        """Return where the doubt lists of a run over an ID range (or over changed rows) are."""
        prefix = self.destination.settings.prefix
        return ListPlace(self.store, self.origin, prefix, partition, self.run_id, self.folder)

    def ensure_different(self) -> None:
        """Make sure that a copy does not go onto itself.

        Raises:
            SettingsError: Both sides are one bucket with one key prefix, or a setting is missing or wrong.
        """
        if self.source_bucket is not None:
            ensure_different(self.source_bucket, self.destination_bucket)
