"""The timestamp that a run's reading of the database stands for, and whether the run's success may claim it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from statistics import median
from typing import TYPE_CHECKING

from mastosync_dagster.mastodon import newest_row, read_schema, read_snapshot, wait_for_open_transactions
from mastosync_dagster.runs.watermarks import OVERLAP
from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.headers import http_date

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.s3.storage import Storage

LONG_TRANSACTION = timedelta(days=1)
"""No transaction of Mastodon is open so long."""

_RANGE_WAITS = 2.0
"""Seconds that a run of an ID range waits for open transactions: there are many of them, and none moves a watermark."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The time at which a run reads the database, as far as it is known.

    Attributes:
        read_at: Not after any clock that was compared. Where it is `claimable`, every row that was written before is
            read; of a run of an ID range that holds in any case.
        earliest: The time of the clock that is most behind; on a standby `read_at` may lie far before.
        latest: The time of the clock that is most ahead: nothing that is read was written later.
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
    """Return the time of the destination's clock, by a HEAD of the bucket; None: no answer has shown it."""
    try:
        headers = storage.ask(lambda client: client.head_bucket()).headers
    except StorageError as error:
        if not isinstance(error.__cause__, S3Error):
            return None  # the copy will report what is wrong
        # Also a refusal shows the time. Where clocks differ by a quarter of an hour, every signature is refused.
        headers = error.__cause__.reply.headers
    shown = http_date(headers.get("date"))
    # The header has whole seconds, so the time may be as late as the end of this one.
    return None if shown is None else shown + timedelta(seconds=1)


def destination_clock(storage: Storage) -> Callable[[], datetime] | None:
    """Ask for the time of the destination's clock, and return a clock that goes on from there; None as above."""
    shown, asked_at = destination_now(storage), time.monotonic()
    return None if shown is None else lambda: shown + timedelta(seconds=time.monotonic() - asked_at)


def begin_reading(
    connection: Connection,
    destination_time: Callable[[], datetime] | None,
    *,
    claims: bool,
    wait_seconds: float,
    info: Callable[[str], object],
    warn: Callable[[str], object],
) -> Reading:
    """Compare the clocks and wait for open transactions, before a run reads the database.

    The connection must be in no transaction. No storage is asked meanwhile: the server ends a session that waits for
    one. ``destination_time`` is a `destination_clock`. A run that ``claims`` nothing, over an ID range or as a trial,
    waits for a short time only.
    """
    snapshot = read_snapshot(connection)
    clocks = {"the database's": snapshot.now, "this machine's": machine_now()}
    if destination_time is not None:
        clocks["the destination's"] = destination_time()
    if differ := clocks_that_differ(clocks):
        warn(differ)
    earliest, latest = min(clocks.values()), max(clocks.values())
    ended = wait_for_open_transactions(
        connection, snapshot, wait_seconds if claims else min(_RANGE_WAITS, wait_seconds)
    )
    claimable, read_at = ended and snapshot.as_of is not None, snapshot.as_of
    if read_at is None:
        # It shows all that was committed before its newest row was written, whenever that was.
        read_at = newest_row(connection, read_schema(connection)) or earliest
    read_at = min(read_at, earliest)
    if not claimable:
        why = (
            "a transaction that writes is open (pg_stat_activity and pg_prepared_xacts show which), and its rows come"
            " later"
        )
        if snapshot.subscribed:
            why = (
                "the database gets its tables by a subscription (logical replication, see pg_subscription), whose"
                " delay is unknown: name the server that Mastodon writes to in DATABASE_URL or DB_HOST, or DROP"
                " SUBSCRIPTION if this is it by now"
            )
        elif snapshot.as_of is None:
            why = "the database is a standby that has replayed nothing since it was started: its delay is unknown"
        if not claims:
            read_at -= LONG_TRANSACTION
            info(f"{why}. So the range counts as read a day earlier")
        else:
            warn(f"{why}. So no watermark moves, and the next run takes more")
    return Reading(read_at, earliest, latest, claimable)


def clocks_that_differ(clocks: Mapping[str, datetime]) -> str | None:
    """Return a message about clocks, by name, that differ by more than the overlap of runs; None: they do not."""
    if max(clocks.values()) - min(clocks.values()) <= OVERLAP:
        return None
    middle = median(shown.timestamp() for shown in clocks.values())
    apart = {name: abs(shown.timestamp() - middle) for name, shown in clocks.items()}
    odd = [name for name, seconds in apart.items() if seconds > OVERLAP.total_seconds()]
    two = len(clocks) < 3  # noqa: PLR2004  (two clocks do not show which one it is)
    which = "one of them is wrong" if two or len(odd) != 1 else f"{odd[0]} is the one that differs"
    times = ", ".join(f"{name} shows {shown.isoformat(' ', 'seconds')}" for name, shown in clocks.items())
    return f"the clocks differ: {times}; {which}. Set it right (NTP). The watermark goes by the earliest of them."
