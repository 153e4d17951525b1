"""Notices that source and destination were exchanged: Dagster's storage has a note of the way that objects were copied.

A note, and not the history of runs: that does not say what the source of a run was, and old runs are deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.environment import DESTINATION_FOLDER, SOURCE_FOLDER, SettingsError

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from mastosync_dagster.s3.settings import StorageSettings


class SwappedError(SettingsError):
    """Source and destination were exchanged since a run has copied."""


def ensure_not_swapped(instance: DagsterInstance, source: StorageSettings, destination: StorageSettings) -> None:
    """Raise a SwappedError where a run has copied from what is the destination now to what is the source now."""
    if not instance.daemon_cursor_storage.get_cursor_values({_note(destination, source)}):
        return
    here = SOURCE_FOLDER if source.is_folder else source.variable("S3_BUCKET")
    there = DESTINATION_FOLDER if destination.is_folder else destination.variable("S3_BUCKET")
    raise SwappedError(
        f"Source and destination are swapped: the runs of this home have copied from {destination.identity} to"
        f" {source.identity}. Exchange {here} and {there}, and the other variables of these two. If those runs were"
        " wrong, or to copy back on purpose, set DAGSTER_HOME to a new folder, whose runs know nothing of them."
    )


def note_direction(instance: DagsterInstance, source: StorageSettings, destination: StorageSettings) -> None:
    """Note that a run has copied objects from this source to this destination."""
    instance.daemon_cursor_storage.set_cursor_values({_note(source, destination): "copied"})


def _note(source: StorageSettings, destination: StorageSettings) -> str:
    return f"mastosync-copied:{source.identity}|{destination.identity}"
