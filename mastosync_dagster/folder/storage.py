"""A folder as a storage: `s3.storage` with another client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mastosync_dagster.folder.client import FolderClient
from mastosync_dagster.folder.content import CONTENT_TYPE, FIRST_BYTES, type_of_row_and_file
from mastosync_dagster.folder.tree import MARKER, empty_folders
from mastosync_dagster.s3.settings import FOLDER_SCHEME, StorageSettings
from mastosync_dagster.s3.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from mastosync_dagster.s3.client import Client
    from mastosync_dagster.s3.headers import Attributes
    from mastosync_dagster.s3.loop import Loop


def folder_settings(name: str, variable_prefix: str, folder: Path) -> StorageSettings:
    """Return the settings of a folder. Files that everybody may read, and those that only their owner may, are ACLs."""
    url = f"{FOLDER_SCHEME}{folder}"
    return StorageSettings(
        name=name, bucket="", endpoint_url=url, permission="public-read", variable_prefix=variable_prefix
    )


class FolderStorage(Storage):
    """A folder at this machine, which ``settings.endpoint_url`` names as ``file:///path``.

    Attributes:
        writable: It is a destination. A source is only read.
        marker: The file that tells a destination from the empty mount point of its disk. Listings do not show it.
    """

    def __init__(self, settings: StorageSettings, folder: Path, *, writable: bool) -> None:
        super().__init__(settings)
        self._path = folder
        self.writable = writable
        self.marker = folder / MARKER

    def unmounted(self, tops: Iterable[str]) -> list[str]:
        """Return a sentence for each folder, of some at the top and in these, whose disk seems not to be mounted."""
        return list(empty_folders(self._path, tops))

    def mark(self, text: str) -> None:
        """Put the marker into the folder, and into empty ones that links at its top, or a folder below, lead to.

        Raises:
            OSError: It cannot be written.
        """
        for folder in (each for level in ("*", "*/*") for each in self._path.glob(level)):
            if folder.is_symlink() and folder.is_dir() and not any(folder.iterdir()):
                (folder / MARKER).write_text(text, encoding="utf-8")
        self.marker.write_text(text, encoding="utf-8")

    @property
    def is_marked(self) -> bool:
        """Whether the marker is there now."""
        return os.path.isfile(self.marker)

    def client_on(self, loop: Loop) -> Client:
        """As `Storage.client_on`. While it is in use, a marker that was there has to stay."""
        anchor = self.marker if self.writable and self.is_marked else self._path
        return FolderClient(loop, self._path, writable=self.writable, anchor=anchor)

    def attributes(self, headers: Mapping[str, str], content_type: str | None) -> Attributes:
        """As `Storage.attributes`. The database's type counts as far as the file can be of it."""
        attributes = super().attributes(headers, content_type)
        kind = type_of_row_and_file(content_type, headers.get(FIRST_BYTES))
        return attributes if kind is None else attributes._replace(headers={**attributes.headers, CONTENT_TYPE: kind})

    @property
    def region(self) -> str:
        """None is needed."""
        return ""

    def same_server(self, other: Storage) -> bool:
        """Return False: nobody copies by itself."""
        return False
