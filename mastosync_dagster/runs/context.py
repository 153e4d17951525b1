"""What every run is given: opened once, and handed down."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

from mastosync_dagster.environment import Environment, SettingsError
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import plain
from mastosync_dagster.resources import S3Bucket, ensure_two_places
from mastosync_dagster.resources.direction import SwappedError, ensure_not_swapped
from mastosync_dagster.runs.destination_folder import mark
from mastosync_dagster.runs.work_folder import work_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import dagster as dg

    from mastosync_dagster.mastodon import Connect
    from mastosync_dagster.records.store import ManifestStore
    from mastosync_dagster.resources import MastodonDatabase
    from mastosync_dagster.runs.manifests import ManifestOrigin
    from mastosync_dagster.runs.progress import ProgressReporter
    from mastosync_dagster.s3.storage import Storage


@dataclass(frozen=True)
class RunContext:
    """A run with its database, its storages and its log; ``source_bucket`` is None for a run that reads no objects.

    Settings are read when they are first asked for: inside an op, which turns a wrong one into a message.
    """

    instance: dg.DagsterInstance
    run_id: str
    log: dg.DagsterLogManager
    database: MastodonDatabase
    source_bucket: S3Bucket | None
    destination_bucket: S3Bucket
    progress: ProgressReporter
    log_event: Callable[[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation], None]

    @classmethod
    def of(
        cls,
        context: dg.OpExecutionContext | dg.AssetExecutionContext,
        database: MastodonDatabase,
        source: S3Bucket | None,
        destination: S3Bucket,
        progress: ProgressReporter,
    ) -> RunContext:
        """Return the context of the run that executes an op."""
        log, log_event = context.log, cast("Callable[[object], None]", context.log_event)  # its type lacks checks
        return cls(context.instance, context.run.run_id, log, database, source, destination, progress, log_event)

    @cached_property
    def source(self) -> Storage:
        """The storage that objects are read from."""
        assert self.source_bucket is not None  # noqa: S101  (a run without a source never asks for it)
        storage = self.source_bucket.storage()
        storage.tell(self.warn, at_once=self.progress.attended)
        return storage

    @cached_property
    def destination(self) -> Storage:
        """The storage that objects are written to."""
        storage = self.destination_bucket.storage()
        storage.tell(self.warn, at_once=self.progress.attended)
        # Before anything is read there: an empty mount point would look like a destination that has lost everything.
        mark(self.instance, storage)
        return storage

    @cached_property
    def store(self) -> ManifestStore:
        """The store of manifests, findings and doubt lists."""
        from mastosync_dagster.runs.manifests import manifest_store

        return manifest_store(self.instance, self.destination_bucket, self.source_bucket)

    @property
    def destination_id(self) -> str:
        """The destination's server, bucket and prefix: what is complete elsewhere says nothing about it."""
        return self.destination.settings.identity

    @property
    def origin(self) -> ManifestOrigin:
        """The destination, as the metadata of the run's manifests names it."""
        from mastosync_dagster.runs.manifests import ManifestOrigin

        return ManifestOrigin(self.destination_id, acls=self.destination.settings.has_acls)

    @property
    def folder(self) -> Path:
        """The run's own folder, which need not exist."""
        return work_folder(self.instance, self.run_id)

    def log_remarks(self) -> None:
        """Log what an admin should know of the settings, such as a misspelt variable."""
        for remark in Environment.read().remarks():
            self.log.warning(remark)

    def warn(self, text: str) -> None:
        """Say something that an admin should know at once: in the log, and to whoever waits in front of the run."""
        # In this order: the log waits for Dagster's history.
        self.progress.say(plain(text))
        self.log.warning(text)

    @contextlib.contextmanager
    def connections(self, *, first: bool = False) -> Iterator[Connect]:
        """Yield a function that opens connections to the database, and says in the log when it is lost and back.

        ``first``: these are the run's first ones. Where somebody watches, they are not retried: a setting is wrong.
        """
        retry_first = not (first and self.progress.attended)
        with self.database.session(retry_first=retry_first, warn=self.warn) as connect:
            yield connect

    def ensure_different(self) -> None:
        """Raise a SettingsError where source and destination are one bucket with one key prefix, or were exchanged.

        Of a run without a source, this is about the one that the variables describe, if they name one.
        """
        if self.source_bucket is not None:
            self._ensure_different(self.source_bucket)
        elif (source := S3Bucket.source()).is_named():
            try:
                self._ensure_different(source)
            except SwappedError:
                raise
            except AdminError as error:
                # After the switch the variables may name the new bucket, or one that is gone.
                raise SettingsError(
                    f"{error} This run needs no source, but deletes nothing at one: if the"
                    f" variables name an old bucket that is gone, or the new one since the switch, unset"
                    f" {' and '.join((source.variables['bucket'], source.folder_variable))} for it."
                ) from error

    def _ensure_different(self, source: S3Bucket) -> None:
        ensure_not_swapped(self.instance, source.settings(), self.destination_bucket.settings())
        ensure_two_places(source, self.destination_bucket)
