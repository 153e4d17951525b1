"""The generator's book: what lies where, and what a sync must make of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_TYPES = ("media_attachments", "accounts", "custom_emojis", "preview_cards", "site_uploads", "backups")
"""The tables that have an asset."""


@dataclass(frozen=True, slots=True)
class GeneratedObject:
    """An object that the destination must hold after a sync. Keys are relative to the key prefix.

    Attributes:
        table: The table of its row.
        row_id: The id of its row.
        key: Its key at the destination.
        source_key: Its key at the source.
        size: In bytes.
        md5: Of its content, in hex.
        content_type: Header.
        cache_control: Header; None: it has none.
        metadata: User metadata, names in lower case.
        private: Must not be readable by everybody.
    """

    table: str
    row_id: int
    key: str
    source_key: str
    size: int
    md5: str
    content_type: str
    cache_control: str | None
    metadata: Mapping[str, str]
    private: bool


@dataclass(frozen=True, slots=True)
class MissingObject:
    """An object that a row says exists and the source does not have. The key is relative to the key prefix.

    Attributes:
        table: The table of its row.
        row_id: The id of its row.
        key: The key that the row derives.
        private: Would not be readable by everybody.
        harmless: Its absence is to be expected.
    """

    table: str
    row_id: int
    key: str
    private: bool
    harmless: bool


@dataclass(frozen=True)
class Instance:
    """What the generator put where, by its own bookkeeping.

    Attributes:
        rows: Table to its rows, ascending by id; columns that are not named have their defaults.
        objects: What a sync of everything must have brought to the destination, nothing more and nothing less.
        missing: What the source does not have.
        strays: Keys at the source that nothing may copy.
        cases: (table, name of the case) to the ids of the rows that are such.
        key_prefix: S3_KEY_PREFIX at the source, "" for none.
    """

    rows: Mapping[str, tuple[Mapping[str, object], ...]]
    objects: tuple[GeneratedObject, ...]
    missing: tuple[MissingObject, ...]
    strays: tuple[str, ...]
    cases: Mapping[tuple[str, str], tuple[int, ...]]
    key_prefix: str

    def objects_of(self, *tables: str) -> tuple[GeneratedObject, ...]:
        """Return the objects of the rows of these tables."""
        return tuple(expected for expected in self.objects if expected.table in tables)

    def missing_of(self, *tables: str) -> tuple[MissingObject, ...]:
        """Return the objects of the rows of these tables that the source has lost."""
        return tuple(lost for lost in self.missing if lost.table in tables)
