"""Whether a source is the one that the rows speak of: the originals of some of them, looked for at both sides."""

from __future__ import annotations

import contextlib
import itertools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.mastodon import TABLES, is_remote, read_schema, rows_at_the_ends, stored_objects
from mastosync_dagster.pool import Pool
from mastosync_dagster.s3.acl import is_readable_at_source
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from mastosync_dagster.mastodon import Connect, Schema
    from mastosync_dagster.s3.storage import Storage

_ROWS_AT_AN_END = 2_000
_OF_AN_END = 10
_THREADS = 16
_FEWEST = 5
"""Originals that suffice to judge by them alone: a table's, or an end's."""
_NEARLY_NONE = 10
"""A source with less than one in so many of them is not theirs."""
_NEARLY_ALL = 0.9
_MANY = 20
"""Objects from which on it is looked whether the source is the right one, if it lacks most of them. Of fewer it is
looked where it lacks all of them and nobody will ask for them again."""

_KEYS = 100
"""Keys that are tried for objects of public rows at the most: a source may have lost its cache."""


class _Witness(NamedTuple):
    """An original that a row says exists.

    Attributes:
        newest: It is one of the last of its table.
    """

    table: str
    keys: tuple[str, ...]
    remote: bool
    newest: bool


@dataclass(frozen=True, slots=True)
class Sighted:
    """How many originals of some rows each side has.

    Attributes:
        asked: How many were looked for.
        at_source: How many the source has.
        at_destination: How many the destination has.
    """

    asked: int = 0
    at_source: int = 0
    at_destination: int = 0

    @property
    def lacks_nearly_all(self) -> bool:
        """Whether the source has none or nearly none of them."""
        return self.asked > 0 and self.at_source * _NEARLY_NONE < self.asked


@dataclass(frozen=True, slots=True)
class Witnesses(Sighted):
    """How many originals of some of the oldest and newest rows each side has.

    What other servers have too an instance may lose in masses (a cache that was cleared, a bucket with an expiry):
    where there is anything else, it is that which counts.

    Attributes:
        newest: The same of the newest of them alone, where there are enough: of each table, and of all together.
    """

    newest: tuple[Sighted, ...] = ()

    @property
    def stale(self) -> Sighted | None:
        """Newest originals of which the source has nearly none, and which are not at the destination; None: none.

        Where the destination has them, Mastodon writes there by now, and nothing is to be copied.
        """
        return next(
            (each for each in self.newest if each.lacks_nearly_all and 2 * each.at_destination < each.asked), None
        )

    @property
    def speak_against(self) -> bool:
        """Whether the source has none or nearly none of them, or of the newest of them."""
        return self.lacks_nearly_all or self.stale is not None

    @property
    def has_gaps(self) -> bool:
        """Whether the source lacks more of them than an instance loses in the course of the years."""
        return self.at_source < self.asked * _NEARLY_ALL

    def complaint(self, source: Storage, destination: Storage) -> str:
        """Say in a sentence what is wrong with such a source, and what to change."""
        here, there = source.settings, destination.settings
        names = ", ".join(here.variable(name) for name in ("S3_BUCKET", "S3_ENDPOINT", "S3_KEY_PREFIX"))
        if not self.lacks_nearly_all and self.stale is not None:
            return (
                f"the source ({here.identity}) has {self.stale.at_source:,} of the {self.stale.asked:,} newest"
                f" originals that rows of the database have, and the destination has {self.stale.at_destination:,}:"
                f" the source is an old copy of the files. Check {names}, and DATABASE_URL or DB_NAME"
            )
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


def wrong_source(
    lacking: int,
    objects: int,
    look: Callable[[], Witnesses],
    sides: tuple[Storage, Storage],
    warn: Callable[[str], object],
    *,
    once: bool,
) -> StorageError | None:
    """Return the error that ends a run whose source is not the one that the rows speak of; None: it may be.

    Most of what a run wants may be absent from the right source: a cache was cleared, Mastodon writes to the
    destination by now. So other rows are asked.

    Args:
        lacking: Objects of the run that the source lacks, wherever else they are.
        objects: Objects of the run.
        look: Looks for originals, where that is needed.
        sides: Source and destination.
        warn: Takes a warning.
        once: The run is about all rows of a range or table: when it has succeeded, no other run asks for them.

    Raises:
        StorageError: As `look_for_originals`, and its other errors.
    """
    many = 2 * lacking > objects >= _MANY
    if not many and not (once and lacking == objects > 0):
        return None
    found = look()
    told = f"the source lacks {lacking:,} of the {objects:,} objects of this run"
    if not found.speak_against:
        warn(f"{told}; of {found.asked:,} originals of other rows it has {found.at_source:,}")
        return None
    return StorageError(f"{told}: {found.complaint(*sides)}", reason=Reason.UNEXPECTED, permanent=True)


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
    # One local original says more than all remote ones: a cache may be lost as a whole.
    chosen = own if len(own) >= _FEWEST else local or found
    with Pool(_THREADS, stop=threading.Event()) as pool:
        here, there = (
            pool.map(lambda each, side=side: _has(side, each.keys), chosen)  # type: ignore[misc]  # mypy knows no such default
            for side in (source, destination)
        )
    seen = list(zip(chosen, here, there, strict=True))
    newest = [line for line in seen if line[0].newest and not line[0].remote]
    of_tables = ([line for line in newest if line[0].table == table] for table in TABLES)
    return Witnesses(
        len(chosen),
        sum(here),
        sum(there),
        newest=tuple(_sighted(lines) for lines in (*of_tables, newest) if len(lines) >= _FEWEST),
    )


def hidden_source(connect: Connect, source: Storage) -> StorageError | None:
    """Return why it cannot be left to a source who may read an object: it shows nobody anything; None: it can.

    The originals of a few rows that are not private are asked for, until everybody may read one.

    Args:
        connect: Opens a connection.
        source: The source.

    Raises:
        DatabaseReadError: The rows cannot be read.
        NotMastodonError: The database is not Mastodon's.
        StorageError: The source does not say.
    """
    with contextlib.closing(connect()) as connection:
        schema = read_schema(connection)
    asked, halt = 0, threading.Event()
    public = (
        key
        for table in TABLES
        if schema.has(table)
        for rows in rows_at_the_ends(connect, schema, table, _ROWS_AT_AN_END)
        for row in rows
        if not row["private"]
        for stored in stored_objects(table, row)
        for key in (stored.key, *stored.candidates)
    )
    for key in itertools.islice(public, _KEYS):
        if asked < _MANY and _shows(source, key):
            if is_readable_at_source(source, key, halt):
                return None
            asked += 1
    if asked < _FEWEST:
        return None
    return StorageError(
        f"the source shows none of {asked:,} objects of public rows to everybody, by ACL or without a signature, so"
        " privacy=source would make a copy that nobody can read: leave privacy at mastodon, which goes by Mastodon's"
        " rows",
        reason=Reason.ACCESS_DENIED,
        permanent=True,
    )


def _sighted(lines: Sequence[tuple[_Witness, bool, bool]]) -> Sighted:
    return Sighted(len(lines), sum(here for _, here, _ in lines), sum(there for _, _, there in lines))


def _witnesses(connect: Connect, schema: Schema, table: str) -> Iterator[_Witness]:
    """Yield the oldest and the newest originals of a table: local ones, where there are any."""
    found = [
        (is_remote(table, row), (stored.key, *stored.candidates))
        for rows in rows_at_the_ends(connect, schema, table, _ROWS_AT_AN_END)
        for row in rows
        for stored in stored_objects(table, row)
        if stored.style == "original" and not stored.may_be_absent
    ]
    # Local ones are not fetched again, so nobody clears them away.
    found = [each for each in found if not each[0]] or found
    oldest = found[: min(_OF_AN_END, (len(found) + 1) // 2)]
    for number, some in enumerate((oldest, found[len(oldest) :][-_OF_AN_END:])):
        yield from (_Witness(table, keys, remote, newest=number == 1) for remote, keys in some)


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
