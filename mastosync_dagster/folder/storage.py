"""A folder as a storage: `s3.storage` with another client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.folder.client import FolderClient
from mastosync_dagster.s3.settings import FOLDER_SCHEME, StorageSettings
from mastosync_dagster.s3.storage import Storage

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster.s3.client import Client
    from mastosync_dagster.s3.loop import Loop


def folder_settings(name: str, variable_prefix: str, folder: Path) -> StorageSettings:
    """Return the settings of a folder. Files that everybody may read, and those that only their owner may, are ACLs."""
    url = f"{FOLDER_SCHEME}{folder}"
    return StorageSettings(
        name=name, bucket="", endpoint_url=url, permission="public-read", variable_prefix=variable_prefix
    )


class FolderStorage(Storage):
    """A folder at this machine, which ``settings.endpoint_url`` names as ``file:///path``."""

    def __init__(self, settings: StorageSettings, folder: Path, *, writable: bool) -> None:
        super().__init__(settings)
        self._path = folder
        self._writable = writable

    def client_on(self, loop: Loop) -> Client:
        """As `Storage.client_on`."""
        return FolderClient(loop, self._path, writable=self._writable)

    @property
    def region(self) -> str:
        """None is needed."""
        return ""

    def same_server(self, other: Storage) -> bool:  # noqa: ARG002  (as `Storage`)
        """Return False: nobody copies by itself."""
        return False
