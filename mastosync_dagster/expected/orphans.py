"""Which keys no row expects: asked of the database again, key by key, after the listing that showed them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.mastodon import Rows, owners, split_name, stored_objects
from mastosync_dagster.mastodon.tables import ORIGINAL

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from typing_extensions import Self

    from mastosync_dagster.mastodon import Connect, IdRange, Schema

UNKNOWN_STYLE = "a style of a row's file that is not known: a newer Mastodon may have made it"

_KEYS_A_QUERY = 500


class Extras:
    """Tells which keys of an ID range no row expects. A context manager: it closes its connection.

    The key ranges of an ID range can hold keys of other rows, and a row may have come after the range was read: so
    every row that may own a key is read before the key is called extra.

    Mastodon gets new styles now and then (4.0 and 4.3 brought some), and an older mastosync does not expect their
    objects: what lies beside a row's file under that file's basename is extra with the remark `UNKNOWN_STYLE`.

    Args:
        connect: Opens a connection.
        schema: What the database has.
        table: The table.
        ids: The range.
    """

    def __init__(self, connect: Connect, schema: Schema, table: str, ids: IdRange) -> None:
        self._table = table
        self._ids = ids
        self._rows = Rows(connect, schema, table)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()

    def among(
        self, keys: Sequence[str], ids: tuple[int, int] | None = None, witnesses: Sequence[int] = ()
    ) -> dict[str, str | None]:
        """Return those of some keys that belong to rows with some ids, be they there or not, and that no row expects.

        Keys of other ids are left to those who look there; what is in no folder of a row is nobody's.

        Args:
            keys: Relative to the key prefix.
            ids: The lowest and the highest id; None: of the range.
            witnesses: Ids of rows that are known to be there.

        Returns:
            Each with the reason for which it must stay all the same; None: there is none.

        Raises:
            NotMastodonError: A table or column does not exist any more.
            DatabaseReadError: The rows could not be read, after all retries.
            WitnessMissingError: One of the witnesses is not there any more.
        """
        extra: dict[str, str | None] = {}
        ids = ids or (self._ids.lo, self._ids.hi)
        for start in range(0, len(keys), _KEYS_A_QUERY):
            extra |= self._among(keys[start : start + _KEYS_A_QUERY], ids, witnesses)
        return extra

    def _among(self, keys: Sequence[str], ids: tuple[int, int], witnesses: Sequence[int]) -> dict[str, str | None]:
        ours: set[str] = set()
        ranges = {(row_id, row_id) for row_id in witnesses}
        for key in keys:
            owner = owners(key)
            if owner is not None and owner.table == self._table and ids[0] <= owner.row_id <= ids[1]:
                ours.add(key)
                ranges.update(owner.ids)
        if not ours:
            return {}
        seen = set()
        files: dict[str, set[str]] = {}
        for row in self._rows.within(sorted(ranges)):
            seen.add(row["id"])
            for stored in stored_objects(self._table, row):
                expected = (stored.key, *stored.candidates)
                ours.difference_update(expected)
                if stored.style == ORIGINAL:
                    for folder, name in map(_folder_and_name, expected):
                        files.setdefault(folder, set()).add(split_name(name)[0])
        if not seen.issuperset(witnesses):
            raise WitnessMissingError
        return {key: UNKNOWN_STYLE if _is_beside(key, files) else None for key in ours}


def _folder_and_name(key: str) -> tuple[str, str]:
    """Return the folder that a row's attachment has its styles in, and the file name, of a key."""
    folder, _, name = key.rpartition("/")
    return folder.rpartition("/")[0], name


def _is_beside(key: str, files: Mapping[str, Collection[str]]) -> bool:
    """Tell whether a key lies in a folder of some files, given the basenames of each, and is named like one of them."""
    folder, name = _folder_and_name(key)
    return any(name == base or name.startswith(f"{base}.") for base in files.get(folder, ()))


class WitnessMissingError(Exception):
    """The database does not return a row any more that it returned a moment ago."""
