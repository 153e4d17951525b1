"""Tells a folder that is the destination from the empty mount point of its disk, by a file that runs put into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.environment import DESTINATION_FOLDER, SettingsError
from mastosync_dagster.folder.storage import FolderStorage

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from mastosync_dagster.s3.storage import Storage

_TEXT = "mastosync copies to this folder, and knows by this file that its disk is mounted. Do not delete it.\n"


def ensure_mounted(instance: DagsterInstance, destination: Storage) -> None:
    """Raise a SettingsError where a destination folder lacks the marker that a run has put there."""
    folder = _writable(destination)
    if folder is not None and not folder.is_marked and _is_noted(instance, folder):
        raise SettingsError(
            f"{DESTINATION_FOLDER} names {folder.marker.parent}, which lacks the file {folder.marker.name} that"
            " mastosync has put there: is its disk mounted? If it is the right folder (restored, or emptied on"
            f" purpose), create the file: touch {folder.marker}"
        )


def mark(instance: DagsterInstance, destination: Storage) -> None:
    """Put the marker into a destination folder that was never used, and note in Dagster's storage that it has it.

    A note, and not the history of runs: a first run that fails leaves no record, and its files all the same.

    Raises:
        SettingsError: It lacks the marker that a run has put there, or cannot be written to.
    """
    ensure_mounted(instance, destination)
    folder = _writable(destination)
    if folder is None:
        return
    if not folder.is_marked:
        try:
            folder.mark(_TEXT)
        except OSError as error:
            raise SettingsError(
                f"{DESTINATION_FOLDER} names {folder.marker.parent}, where {folder.marker.name} cannot be written"
                f" ({error.strerror}): let this user write there, or run mastosync as the user that Mastodon runs as."
            ) from error
    if not _is_noted(instance, folder):
        instance.daemon_cursor_storage.set_cursor_values({_note(folder): "marked"})


def _writable(storage: Storage) -> FolderStorage | None:
    return storage if isinstance(storage, FolderStorage) and storage.writable else None


def _note(folder: FolderStorage) -> str:
    return f"mastosync-destination-folder:{folder.settings.identity}"


def _is_noted(instance: DagsterInstance, folder: FolderStorage) -> bool:
    return bool(instance.daemon_cursor_storage.get_cursor_values({_note(folder)}))
