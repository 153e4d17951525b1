"""The file types. Nothing heavy is imported here: `mastosync --help` lists them."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg


class FileType(str, Enum):
    """Mastodon's tables with attachments that are assets; the values are asset and table names."""

    MEDIA_ATTACHMENTS = "media_attachments"
    ACCOUNTS = "accounts"
    CUSTOM_EMOJIS = "custom_emojis"
    PREVIEW_CARDS = "preview_cards"
    SITE_UPLOADS = "site_uploads"
    BACKUPS = "backups"

    @property
    def partitions_name(self) -> str:
        """Name of the dynamic partitions, as ``accounts_ids``."""
        return f"{self.value}_ids"

    @property
    def partitions(self) -> dg.DynamicPartitionsDefinition:
        """The partitions definition that the asset and its jobs share."""
        # The command line names file types without Dagster.
        from mastosync_dagster.ranges.definition import IdRanges  # noqa: PLC0415  (see the line above)

        return IdRanges(name=self.partitions_name)


FILE_TYPES = tuple(each.value for each in FileType)
"""Their names."""


def known_file_types(names: list[str]) -> list[str]:
    """Return the names that a run config gives. Raises a ValueError where there is none, or one is of no file type."""
    if not names:
        raise ValueError("no file type is named, so nothing would be done: leave it out for all of them")
    if unknown := sorted(set(names) - set(FILE_TYPES)):
        raise ValueError(f"unknown file type {', '.join(map(repr, unknown))}: known are {', '.join(FILE_TYPES)}")
    return names
