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
        import dagster as dg  # noqa: PLC0415  (the command line names file types without Dagster)

        return dg.DynamicPartitionsDefinition(name=self.partitions_name)


FILE_TYPES = tuple(each.value for each in FileType)
"""Their names."""
