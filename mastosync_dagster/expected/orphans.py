"""Finds orphans, objects that no row expects: reads the rows of listed keys again after the listing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.mastodon import Rows, owners, split_name, stored_objects
from mastosync_dagster.mastodon.tables import ORIGINAL

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Self

    from mastosync_dagster.mastodon import Database, IdRange

UNKNOWN_STYLE = "a style of a row's file that is not known: a newer Mastodon may have made it"

_KEYS_A_QUERY = 500


class Orphans:
    """Finds the orphans among listed keys of an ID range. A context manager: it closes its connection.

    The key ranges of an ID range can hold keys of other rows, and a row may have been added after the range was read:
    so every row that may own a key is read before the key counts as an orphan.

    Some Mastodon versions add styles (4.0 and 4.3 did), and an older mastosync does not expect their objects: a key
    beside a row's file, under that file's basename, is an orphan with the remark `UNKNOWN_STYLE`.
    """

    def __init__(self, database: Database, table: str, ids: IdRange) -> None:
        self._table = table
        self._ids = ids
        self._rows = Rows(database, table)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()

    def among(
        self, keys: Sequence[str], ids: tuple[int, int] | None = None, witnesses: Sequence[int] = ()
    ) -> dict[str, str | None]:
        """Return the orphans among keys relative to the key prefix, each with the reason why it must stay, or None.

        Only keys of ids from ``ids[0]`` to ``ids[1]`` (None: of the range) count, whether such rows exist or not. A key
        in no folder of a row is no orphan. ``witnesses`` are ids of rows that are known to exist.

        Raises:
            NotMastodonError: A table or column does not exist any more.
            DatabaseReadError: The rows could not be read, after all retries.
            WitnessMissingError: A witness is not found.
        """
        orphans: dict[str, str | None] = {}
        ids = ids or (self._ids.lo, self._ids.hi)
        for start in range(0, len(keys), _KEYS_A_QUERY):
            orphans |= self._among(keys[start : start + _KEYS_A_QUERY], ids, witnesses)
        return orphans

    def _among(self, keys: Sequence[str], ids: tuple[int, int], witnesses: Sequence[int]) -> dict[str, str | None]:
        orphans: set[str] = set()
        ranges = {(row_id, row_id) for row_id in witnesses}
        for key in keys:
            owner = owners(key)
            if owner is not None and owner.table == self._table and ids[0] <= owner.row_id <= ids[1]:
                orphans.add(key)
                ranges.update(owner.ids)
        if not orphans:
            return {}
        found = set()
        files: dict[str, set[str]] = {}
        for row in self._rows.within(sorted(ranges)):
            found.add(row["id"])
            for stored in stored_objects(self._table, row):
                expected = (stored.key, *stored.candidates)
                orphans.difference_update(expected)
                if stored.style == ORIGINAL:
                    for folder, name in map(_folder_and_name, expected):
                        files.setdefault(folder, set()).add(split_name(name)[0])
        # The database may have been restored or replaced since the range was read.
        if not found.issuperset(witnesses):
            raise WitnessMissingError
        return {key: UNKNOWN_STYLE if _is_beside(key, files) else None for key in orphans}


def _folder_and_name(key: str) -> tuple[str, str]:
    """Return the folder of the attachment's styles, and the file name, of a key."""
    folder, _, name = key.rpartition("/")
    return folder.rpartition("/")[0], name


def _is_beside(key: str, files: Mapping[str, Collection[str]]) -> bool:
    """Return whether a key's folder holds a file with the same basename; ``files`` are basenames by folder."""
    folder, name = _folder_and_name(key)
    return any(name == base or name.startswith(f"{base}.") for base in files.get(folder, ()))


class WitnessMissingError(Exception):
    """The database no longer returns a row that it returned before."""
