"""The moment that a run's reading of the database stands for, and whether its success may claim it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from statistics import median
from typing import TYPE_CHECKING

from mastosync_dagster.mastodon import newest_row, read_schema, read_snapshot, wait_for_open_transactions
from mastosync_dagster.runs.history import OVERLAP
from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psycopg2.extensions import connection as Connection  # noqa: N812  (a class with a lower-case name)

    from mastosync_dagster.s3.storage import Storage

LONG_TRANSACTION = timedelta(days=1)
"""No transaction of Mastodon is open so long."""

_RANGE_WAITS = 2.0
"""Seconds that a run of an ID range waits for open transactions: there are many of them, and none moves a watermark."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of the moment at which a run reads the database.

    Attributes:
        read_at: No clock that was asked says an earlier moment. Where it is `claimable`, every row that was written
            before is read; of a run of an ID range that holds in any case.
        earliest: What the clock that is most behind says; on a standby `read_at` may lie far before.
        latest: What the clock that is most ahead says: nothing that is read was written later.
        claimable: Whether the success of a run may claim `read_at`.
    """

    read_at: datetime
    earliest: datetime
    latest: datetime
    claimable: bool


def machine_now() -> datetime:
    """Return the time of this machine's clock."""
    return datetime.now(timezone.utc)


def destination_now(storage: Storage) -> datetime | None:
    """Return the time of the destination's clock, by a request that looks at nothing else; None: it does not tell."""
    try:
        headers = storage.ask(lambda client: client.head_bucket()).headers
    except StorageError as error:
        if not isinstance(error.__cause__, S3Error):
            return None  # the copy will say what is wrong
        # Refused, and told all the same: where clocks differ by a quarter of an hour, every signature is.
        headers = error.__cause__.reply.headers
    try:
        told = parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError):
        return None
    # It is told in whole seconds, so it may be as late as the end of this one.
    return told.astimezone(timezone.utc) + timedelta(seconds=1)


def begin_reading(
    connection: Connection,
    destination: Storage | None,
    *,
    wait_seconds: float,
    info: Callable[[str], object],
    warn: Callable[[str], object],
) -> Reading:
    """Find out what a reading of the database, that is about to begin, stands for.

    Args:
        connection: A connection that is in no transaction.
        destination: Asked for its clock too; None: the run moves no watermark.
        wait_seconds: How long to wait for transactions that are open, where it does.
        info: Takes a line for the log.
        warn: Takes a warning.
    """
    snapshot = read_snapshot(connection)
    clocks = {"the database's": snapshot.now, "this machine's": machine_now()}
    told = destination_now(destination) if destination is not None else None
    if told is not None:
        clocks["the destination's"] = told
    if differ := clocks_that_differ(clocks):
        warn(differ)
    earliest, latest = min(clocks.values()), max(clocks.values())
    ended = wait_for_open_transactions(
        connection, snapshot, wait_seconds if destination is not None else min(_RANGE_WAITS, wait_seconds)
    )
    claimable, read_at = ended and snapshot.as_of is not None, snapshot.as_of
    if read_at is None:
        # It shows all that was committed before its newest row was written, whenever that was.
        read_at = newest_row(connection, read_schema(connection)) or earliest
    read_at = min(read_at, earliest)
    if not claimable:
        info(
            "a transaction that writes is open, and its rows come later"
            if snapshot.as_of is not None
            else "the database is a standby that has replayed nothing since it was started, and does not know how far"
            " behind it is"
        )
        info(
            "so no watermark moves, and the next run takes more"
            if destination is not None
            else "so the range counts as read a day earlier"
        )
        if destination is None:
            read_at -= LONG_TRANSACTION
    return Reading(read_at, earliest, latest, claimable)


def clocks_that_differ(clocks: Mapping[str, datetime]) -> str | None:
    """Return a sentence about clocks that differ by more than what is overlapped anyway; None: they do not.

    Args:
        clocks: What each says, by its name.
    """
    if max(clocks.values()) - min(clocks.values()) <= OVERLAP:
        return None
    middle = median(moment.timestamp() for moment in clocks.values())
    apart = {name: abs(moment.timestamp() - middle) for name, moment in clocks.items()}
    odd = [name for name, seconds in apart.items() if seconds > OVERLAP.total_seconds()]
    two = len(clocks) < 3  # noqa: PLR2004  (with two nobody can tell which one it is)
    which = "one of them is wrong" if two or len(odd) != 1 else f"{odd[0]} is the one that differs"
    told = ", ".join(f"{name} says {moment.isoformat(' ', 'seconds')}" for name, moment in clocks.items())
    return f"the clocks differ: {told}; {which}. Set it right (NTP). The watermark goes by the earliest of them."
