"""A generated instance: its rows, its objects at the source, and what a sync must copy of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

"""The tables that have an asset."""


@dataclass(frozen=True, slots=True)
class GeneratedObject:
    """An object that the destination must hold after a sync. Keys are relative to the key prefix.

    Attributes:
        key: At the destination.
        md5: Of its content, in hex.
        cache_control: None: it has no such header.
        metadata: User metadata, names in lower case.
        private: Not everybody may read it.
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
        private: Not everybody might read it.
        harmless: Its absence is to be expected.
    """

    table: str
    row_id: int
    key: str
    private: bool
    harmless: bool


@dataclass(frozen=True)
class Instance:
    """What was generated.

    Attributes:
        rows: By table, ascending by id; columns that are not named have their defaults.
        objects: What the destination must hold after a sync of everything, and nothing else.
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
        """Return the missing objects of the rows of these tables."""
        return tuple(lost for lost in self.missing if lost.table in tables)
