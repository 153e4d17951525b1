"""Whether a source is the one that the rows speak of: the originals of some of them, looked for at both sides."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.mastodon import TABLES, is_remote, read_schema, rows_at_the_ends, stored_objects
from mastosync_dagster.transfer.errors import StorageError
from mastosync_dagster.transfer.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from mastosync_dagster.mastodon import Connect, Schema
    from mastosync_dagster.transfer.storage import Storage

_ROWS_AT_AN_END = 2_000
_OF_AN_END = 10
_THREADS = 16
_FEWEST = 5
"""Local originals that suffice to judge by them alone."""
_NEARLY_NONE = 10
"""A source with less than one in so many of them is not theirs."""
_NEARLY_ALL = 0.9


class _Witness(NamedTuple):
    """An original that a row says exists."""

    table: str
    keys: tuple[str, ...]
    remote: bool


@dataclass(frozen=True, slots=True)
class Witnesses:
    """How many originals of some rows each side has.

    What other servers have too an instance may lose in masses (a cache that was cleared, a bucket with an expiry):
    where there are enough others, it is those that count.

    Attributes:
        asked: How many were looked for.
        at_source: How many the source has.
        at_destination: How many the destination has.
    """

    asked: int = 0
    at_source: int = 0
    at_destination: int = 0

    @property
    def speak_against(self) -> bool:
        """Whether the source has none or nearly none of them."""
        return self.asked > 0 and self.at_source * _NEARLY_NONE < self.asked

    def complaint(self, source: Storage, destination: Storage) -> str:
        """Say in a sentence what is wrong with such a source, and what to change."""
        here, there = source.settings, destination.settings
        names = ", ".join(here.variable(name) for name in ("S3_BUCKET", "S3_ENDPOINT", "S3_KEY_PREFIX"))
        found = (
            f"the source ({here.identity}) has {self.at_source:,} of {self.asked:,} originals that some rows of the"
            f" database have, and the destination has {self.at_destination:,}"
        )
        if self.at_destination >= self.asked * _NEARLY_ALL:
            return (
                f"{found}: source and destination are swapped, or the source was emptied. Check {names} and"
                f" {there.variable('S3_BUCKET')}"
            )
        return f"{found}: these are not the files of this database. Check {names}, and DATABASE_URL or DB_NAME"


def look_for_originals(
    connect: Connect, source: Storage, destination: Storage, tables: Collection[str] | None = None
) -> Witnesses:
    """Look for the originals of a few of the oldest and newest rows at both sides: some tens of HEAD requests a side.

    Args:
        connect: Opens a connection.
        source: One side.
        destination: The other.
        tables: Rows of these tables count, if they have enough local ones; None: of all tables.

    Raises:
        DatabaseReadError: The rows cannot be read.
        NotMastodonError: The database is not Mastodon's.
        StorageError: A side does not say, for a reason that has nothing to do with the object.
    """
    with contextlib.closing(connect()) as connection:
        schema = read_schema(connection)
    found = [each for table in TABLES if schema.has(table) for each in _witnesses(connect, schema, table)]
    local = [each for each in found if not each.remote]
    own = [each for each in local if tables is None or each.table in tables]
    chosen: Sequence[_Witness] = next((some for some in (own, local) if len(some) >= _FEWEST), found)
    with Pool(_THREADS, stop=threading.Event()) as pool:
        here, there = (
            pool.map(lambda each, side=side: _has(side, each.keys), chosen)  # type: ignore[misc]  # mypy knows no such default
            for side in (source, destination)
        )
        return Witnesses(len(chosen), sum(here), sum(there))


def _witnesses(connect: Connect, schema: Schema, table: str) -> Iterator[_Witness]:
    for rows in rows_at_the_ends(connect, schema, table, _ROWS_AT_AN_END):
        originals = [
            _Witness(table, (stored.key, *stored.candidates), is_remote(table, row))
            for row in rows
            for stored in stored_objects(table, row)
            if stored.style == "original" and not stored.may_be_absent
        ]
        # Local ones first: they are not fetched again, so nobody clears them away.
        originals.sort(key=lambda each: each.remote)
        yield from originals[:_OF_AN_END]


def _has(side: Storage, keys: tuple[str, ...]) -> bool:
    """Tell whether a side shows an object under one of its keys."""
    return any(_shows(side, key) for key in keys)


def _shows(side: Storage, key: str) -> bool:
    try:
        return side.head(key) is not None
    except StorageError as error:
        # Refused: so S3 answers for absent objects too, without the right to list, and servers for keys that they
        # would not take.
        if error.retryable or error.permanent:
            raise
    return False
