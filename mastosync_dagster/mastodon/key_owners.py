"""Whose a key can be: the reverse of ``id_partition``, for keys that a listing shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from mastosync_dagster.mastodon.keys import CACHE
from mastosync_dagster.mastodon.tables import TABLES, Remote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_GROUP = 3
_GROUPS = re.compile(r"(?:[0-9]{3}/)+", re.ASCII)
_HIGHEST_ID = 2**63 - 1
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
        table: Their table.
        row_id: The id that the folder spells: every other row is a rare exception. (-99 for the instance's own.)
        ids: All ids that come into question, as ranges ``(lowest, highest)``.
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
"""The folders in which Mastodon keeps objects, each with its table. All others are somebody else's."""

CACHE_FOLDERS = frozenset(f"{CACHE}{table.name}/" for table in TABLES.values() if table.remote is not Remote.NEVER)
"""The folders that it has in ``cache/``."""


def owners(key: str) -> Owners | None:
    """Return whose a key can be.

    Where the folders of a key can be read in several ways (style folders of site uploads have three digits too), the
    longest reading names the row, and all of them count among ``ids``.

    Args:
        key: Relative to the key prefix.

    Returns:
        None where no row of any table has objects under such a key.
    """
    beginning = _beginning(key)
    if beginning is None:
        return None
    found = _GROUPS.match(key, len(beginning))
    if found is None or found.end() == len(key):
        return None
    digits = found[0].replace("/", "")
    ids: list[tuple[int, int]] = []
    for length in range(len(digits), _GROUP, -_GROUP):
        ids += _ids(digits[:length])
    return Owners(FOLDERS[beginning], ids[0][0], tuple(ids)) if ids else None


def _beginning(key: str) -> str | None:
    slash = key.find("/", key.find("/", len(CACHE) if key.startswith(CACHE) else 0) + 1)
    beginning = key[: slash + 1]
    return beginning if beginning in FOLDERS else None


def _ids(digits: str) -> Iterator[tuple[int, int]]:
    """Yield the ids whose partition has these digits, the one that it spells first."""
    number = int(digits)
    if digits == _INSTANCE_ACTOR:
        yield -99, -1
    if number >= _LOWEST.get(len(digits), _HIGHEST_ID):
        yield number, number
    # Ids with one or two digits more: those of 13, 14, 16, 17 and 19 digits, and of 10 and 11 before 3.5.
    if number >= _LOWEST_DROPPING.get(len(digits), _HIGHEST_ID):
        for dropped in (10, 100):
            if number * dropped <= _HIGHEST_ID:
                yield number * dropped, min(number * dropped + dropped - 1, _HIGHEST_ID)
