"""Which keys no row expects: asked of the database again, key by key, after the listing that showed them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.mastodon import Rows, owners, stored_objects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from mastosync_dagster.mastodon import Connect, IdRange, Schema

_KEYS_A_QUERY = 500


class Extras:
    """Tells which keys of an ID range no row expects. A context manager: it closes its connection.

    The key ranges of an ID range can hold keys of other rows, and a row may have come after the range was read: so
    every row that may own a key is read before the key is called extra.

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

    def among(self, keys: Sequence[str], ids: tuple[int, int] | None = None, witnesses: Sequence[int] = ()) -> set[str]:
        """Return those of some keys that belong to rows with some ids, be they there or not, and that no row expects.

        Keys of other ids are left to those who look there; what is in no folder of a row is nobody's.

        Args:
            keys: Relative to the key prefix.
            ids: The lowest and the highest id; None: of the range.
            witnesses: Ids of rows that are known to be there.

        Raises:
            NotMastodonError: A table or column does not exist any more.
            DatabaseReadError: The rows could not be read, after all retries.
            WitnessMissingError: One of the witnesses is not there any more.
        """
        extra: set[str] = set()
        ids = ids or (self._ids.lo, self._ids.hi)
        for start in range(0, len(keys), _KEYS_A_QUERY):
            extra |= self._among(keys[start : start + _KEYS_A_QUERY], ids, witnesses)
        return extra

    def _among(self, keys: Sequence[str], ids: tuple[int, int], witnesses: Sequence[int]) -> set[str]:
        ours: set[str] = set()
        ranges = {(row_id, row_id) for row_id in witnesses}
        for key in keys:
            owner = owners(key)
            if owner is not None and owner.table == self._table and ids[0] <= owner.row_id <= ids[1]:
                ours.add(key)
                ranges.update(owner.ids)
        if not ours:
            return ours
        seen = set()
        for row in self._rows.within(sorted(ranges)):
            seen.add(row["id"])
            for stored in stored_objects(self._table, row):
                ours.discard(stored.key)
                ours.difference_update(stored.candidates)
        if not seen.issuperset(witnesses):
            raise WitnessMissingError
        return ours


class WitnessMissingError(Exception):
    """The database does not return a row any more that it returned a moment ago."""
