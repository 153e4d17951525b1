"""Checks that the source belongs to the database: whether the originals of some rows are at source and destination."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.environment import CACHE_LOST, cache_lost
from mastosync_dagster.mastodon import TABLES, is_remote, rows_at_the_ends, stored_objects
from mastosync_dagster.pool import Pool
from mastosync_dagster.s3.acl import is_readable_at_source
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from mastosync_dagster.mastodon import Database
    from mastosync_dagster.s3.storage import Storage

_ROWS_AT_AN_END = 2_000
_ORIGINALS_AT_AN_END = 10
_THREADS = 16
_FEWEST = 5
"""Originals, of a table or of the newest rows, that suffice for a verdict."""
_NEARLY_NONE = 10
"""A source with less than one in so many originals does not belong to the database."""
_NEARLY_ALL = 0.9
_MANY = 20
"""Of a run of so many objects, the source may lack most only if it has originals of other rows."""

_KEYS = 100
"""Keys of public rows that are tried at the most: a source may have lost its cache."""


class _Original(NamedTuple):
    """An original of a row; ``newest``: it is one of the last of its table."""

    table: str
    keys: tuple[str, ...]
    remote: bool
    newest: bool


@dataclass(frozen=True, slots=True)
class OriginalCounts:
    """How many of the originals that were checked (``asked``) each storage has."""

    asked: int = 0
    at_source: int = 0
    at_destination: int = 0

    @property
    def lacks_nearly_all(self) -> bool:
        """Whether the source has none or nearly none of them."""
        return self.asked > 0 and self.at_source * _NEARLY_NONE < self.asked


@dataclass(frozen=True, slots=True)
class OriginalsCheck(OriginalCounts):
    """How many originals of some of the oldest and newest rows each storage has.

    An instance may lose remote files in masses (a cleared cache, a bucket with an expiry), so only local ones count
    where there are any.

    Attributes:
        newest: Counts of the newest of them, where there are enough: of each table, and of all together.
        remote: They are all files of other servers, for no row has a local one.
    """

    newest: tuple[OriginalCounts, ...] = ()
    remote: bool = False

    @property
    def is_lost_cache(self) -> bool:
        """Whether the admin says that this is what the right source looks like.

        Raises:
            SettingsError: MASTOSYNC_CACHE_LOST is neither true nor false.
        """
        return self.remote and self.lacks_nearly_all and cache_lost()

    @property
    def stale(self) -> OriginalCounts | None:
        """Newest originals of which the source has nearly none, and the destination less than half; None: none.

        If the destination has them, Mastodon already writes there, and nothing is to be copied.
        """
        return next(
            (each for each in self.newest if each.lacks_nearly_all and 2 * each.at_destination < each.asked), None
        )

    @property
    def is_wrong_source(self) -> bool:
        """Whether the source has none or nearly none of them, or of the newest of them, for no reason that is known."""
        return (self.lacks_nearly_all or self.stale is not None) and not self.is_lost_cache

    @property
    def is_proof(self) -> bool:
        """Whether they prove it without the objects of a run: a few may never have been uploaded.

        One proves it that was copied. Of an instance's first files, nothing else shows that they must be there.
        """
        return self.asked >= _FEWEST or self.at_destination > 0

    @property
    def has_gaps(self) -> bool:
        """Whether the source lacks more of them than an instance usually loses over the years."""
        return self.at_source < self.asked * _NEARLY_ALL

    def complaint(self, source: Storage, destination: Storage) -> str:
        """Return in a sentence what is wrong with such a source, and what to change."""
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
        lost = (
            f". All of them are files of other servers: if the source has lost those, set {CACHE_LOST}=true, and they"
            " are recorded as missing"
            if self.remote
            else ""
        )
        if self.at_destination >= self.asked * _NEARLY_ALL:
            return (
                f"{found}: source and destination are swapped, or the source was emptied. Check {names} and"
                f" {there.variable('S3_BUCKET')}{lost}"
            )
        return f"{found}: these are not the files of this database. Check {names}, and DATABASE_URL or DB_NAME{lost}"


def wrong_source(
    lacking: int,
    objects: int,
    check: Callable[[], OriginalsCheck],
    storages: tuple[Storage, Storage],
    warn: Callable[[str], object],
    *,
    once: bool,
) -> StorageError | None:
    """Return the error that ends a run whose source does not belong to the database; None: it may belong.

    The right source may lack most objects of a run: a cache was cleared, an upload has failed, or Mastodon already
    writes to the destination. So if it lacks most of the run's ``objects``, however few and wherever else they are,
    ``check`` is called, which is `check_originals` with its errors. If the source belongs to the database all the same,
    ``warn`` gets a message. ``storages`` are source and destination; ``once`` means that no other run takes these
    objects again, once this one has succeeded.
    """
    if 2 * lacking <= objects:
        return None
    found = check()
    message = f"the source lacks {lacking:,} of the {objects:,} objects of this run"
    # The few objects of a night are no proof themselves, but such nights must not use up the retries of what they lack.
    proven = objects >= _MANY or (once and lacking == objects) or found.is_proof
    if not found.is_wrong_source or not proven:
        warn(f"{message}; of {found.asked:,} originals of other rows it has {found.at_source:,}")
        return None
    return StorageError(f"{message}: {found.complaint(*storages)}", reason=Reason.UNEXPECTED, permanent=True)


def check_originals(
    database: Database, source: Storage, destination: Storage, tables: Collection[str] | None = None
) -> OriginalsCheck:
    """Check the originals of a few of the oldest and newest rows: some tens of HEAD requests to each storage.

    Rows of ``tables`` count, if those have enough local originals; None: of all tables.

    Raises:
        DatabaseReadError: The rows cannot be read.
        NotMastodonError: The database is not Mastodon's.
        StorageError: A storage fails for a reason that does not concern the object.
    """
    found = [each for table in TABLES if database.schema.has(table) for each in _originals(database, table)]
    local = [each for each in found if not each.remote]
    own = [each for each in local if tables is None or each.table in tables]
    # One local original proves more than all remote ones: a cache may be lost as a whole.
    chosen = own if len(own) >= _FEWEST else local or found
    with Pool(_THREADS) as pool:
        here, there = (
            pool.map(lambda each, storage=storage: _has(storage, each.keys), chosen)  # type: ignore[misc]  # mypy knows no such default
            for storage in (source, destination)
        )
    checked = list(zip(chosen, here, there, strict=True))
    newest = [line for line in checked if line[0].newest and not line[0].remote]
    of_tables = ([line for line in newest if line[0].table == table] for table in TABLES)
    return OriginalsCheck(
        len(chosen),
        sum(here),
        sum(there),
        newest=tuple(_counts(lines) for lines in (*of_tables, newest) if len(lines) >= _FEWEST),
        remote=not local,
    )


def hidden_source(database: Database, source: Storage) -> StorageError | None:
    """Return the error of a source that does not show objects of public rows to everybody; None: it shows one.

    With privacy=source, such a source would make every object private.

    Raises:
        DatabaseReadError: The rows cannot be read.
        NotMastodonError: The database is not Mastodon's.
        StorageError: The source does not answer.
    """
    checked = 0
    ends = [
        _public_keys(table, rows)
        for table in TABLES
        if database.schema.has(table)
        for rows in rows_at_the_ends(database, table, _ROWS_AT_AN_END)
    ]
    # In turn: a table whose files the source has lost must not use up the keys.
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*ends))
    for key in itertools.islice(filter(None, in_turn), _KEYS):
        if checked < _MANY and _shows(source, key):
            if is_readable_at_source(source, key):
                return None
            checked += 1
    # However few they are: Mastodon shows every object of a public row to everybody.
    if not checked:
        return None
    return StorageError(
        f"the source shows none of {checked:,} objects of public rows to everybody, by ACL or without a signature, so"
        " privacy=source would make a copy that nobody can read: leave privacy at mastodon, which goes by Mastodon's"
        " rows",
        reason=Reason.ACCESS_DENIED,
        permanent=True,
    )


def _public_keys(table: str, rows: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Yield the keys of public rows, local ones first: their files are the last to be lost."""
    for row in sorted(rows, key=partial(is_remote, table)):
        if not row["private"]:
            for stored in stored_objects(table, row):
                yield from (stored.key, *stored.candidates)


def _counts(lines: Sequence[tuple[_Original, bool, bool]]) -> OriginalCounts:
    return OriginalCounts(len(lines), sum(here for _, here, _ in lines), sum(there for _, _, there in lines))


def _originals(database: Database, table: str) -> Iterator[_Original]:
    """Yield the oldest and the newest originals of a table: local ones, where there are any."""
    found = [
        (is_remote(table, row), (stored.key, *stored.candidates))
        for rows in rows_at_the_ends(database, table, _ROWS_AT_AN_END)
        for row in rows
        for stored in stored_objects(table, row)
        if stored.style == "original" and not stored.may_be_absent
    ]
    # Mastodon's cleanups remove remote files only.
    found = [each for each in found if not each[0]] or found
    oldest = found[: min(_ORIGINALS_AT_AN_END, (len(found) + 1) // 2)]
    for number, some in enumerate((oldest, found[len(oldest) :][-_ORIGINALS_AT_AN_END:])):
        yield from (_Original(table, keys, remote, newest=number == 1) for remote, keys in some)


def _has(storage: Storage, keys: tuple[str, ...]) -> bool:
    """Return whether a storage has an object under one of its keys."""
    return any(_shows(storage, key) for key in keys)


def _shows(storage: Storage, key: str) -> bool:
    try:
        return storage.head(key) is not None
    except StorageError as error:
        # Other refusals mean "absent": S3 answers so without the right to list, and some servers for invalid keys.
        if error.retryable or error.permanent:
            raise
    return False
