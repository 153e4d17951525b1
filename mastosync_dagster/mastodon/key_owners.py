"""Which rows a listed key can belong to: the reverse of ``id_partition``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from mastosync_dagster.mastodon.id_ranges import HIGHEST_ID
from mastosync_dagster.mastodon.keys import CACHE
from mastosync_dagster.mastodon.tables import TABLES, Remote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_GROUP = 3
_GROUPS = re.compile(r"(?:[0-9]{3}/)+", re.ASCII)
_INSTANCE_ACTOR = "000000"
"""Digits of the folder of id -99: the minus sign is no digit, and the last two fill no group."""

# Digits of a partition -> lowest number that makes such a partition: Paperclip pads ids below 10^9 to nine digits,
# others to twelve, and drops digits that fill no group of three.
_LOWEST: Mapping[int, int] = MappingProxyType({9: 0, 12: 10**9, 15: 10**14, 18: 10**17})
_LOWEST_DROPPING: Mapping[int, int] = MappingProxyType({9: 10**8, 12: 10**11, 15: 10**14, 18: 10**17})


@dataclass(frozen=True, slots=True)
class Owners:
    """The rows whose objects may have a key.

    Attributes:
        row_id: The id that the folder spells, nearly always the right one. (-99 for the instance's own account.)
        ids: All possible ids, as ranges ``(lowest, highest)``.
    """

    table: str
    row_id: int
    ids: tuple[tuple[int, int], ...]


def _folders() -> Iterator[tuple[str, str]]:
    """Yield every attachment's folder, with its table."""
    for table in TABLES.values():
        for attachment in table.attachments:
            folder = f"{table.name}/{attachment.folder}/"
            yield folder, table.name
            if table.remote is not Remote.NEVER:
                yield CACHE + folder, table.name


FOLDERS: Mapping[str, str] = MappingProxyType(dict(_folders()))
"""The folders in which Mastodon keeps objects, with their tables. Other folders are not Mastodon's."""

CACHE_FOLDERS = frozenset(f"{CACHE}{table.name}/" for table in TABLES.values() if table.remote is not Remote.NEVER)
"""Mastodon's folders in ``cache/``."""


def owners(key: str) -> Owners | None:
    """Return which rows a key, relative to the key prefix, can belong to; None: no row of any table.

    Style folders of site uploads have three digits too, so a key may have several readings. The longest one gives
    ``row_id``; ``ids`` has all of them.
    """
    slash = key.find("/", key.find("/", len(CACHE) if key.startswith(CACHE) else 0) + 1)
    folder = key[: slash + 1]
    found = _GROUPS.match(key, slash + 1) if folder in FOLDERS else None
    if found is None or found.end() == len(key):
        return None
    digits = found[0].replace("/", "")
    ids: list[tuple[int, int]] = []
    for length in range(len(digits), _GROUP, -_GROUP):
        ids += _ids(digits[:length])
    return Owners(FOLDERS[folder], ids[0][0], tuple(ids)) if ids else None


def _ids(digits: str) -> Iterator[tuple[int, int]]:
    """Yield the ids whose partition has these digits, the one that it spells first."""
    number = int(digits)
    if digits == _INSTANCE_ACTOR:
        yield -99, -1
    if number >= _LOWEST.get(len(digits), HIGHEST_ID):
        yield number, number
    # Ids with one or two more digits, which were dropped: of 13, 14, 16, 17 and 19 digits, and of 10 and 11 before 3.5.
    if number >= _LOWEST_DROPPING.get(len(digits), HIGHEST_ID):
        for dropped in (10, 100):
            if number * dropped <= HIGHEST_ID:
                yield number * dropped, min(number * dropped + dropped - 1, HIGHEST_ID)
