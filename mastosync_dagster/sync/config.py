"""Run config of the ops: what an admin can set per run in the UI, on the command line and in schedules."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import dagster as dg
from dateutil.parser import isoparse
from pydantic import Field, field_validator

from mastosync_dagster.copy.budget import Budget, Limits, make_budget
from mastosync_dagster.copy.engine import CopySettings
from mastosync_dagster.environment import COPY_PRIVATE, concurrency, copy_private, rate
from mastosync_dagster.errors import AdminError
from mastosync_dagster.expected.privacy import Privacy
from mastosync_dagster.mastodon import Selection
from mastosync_dagster.memory import run_memory
from mastosync_dagster.ranges.file_types import known_file_types
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.runs.policy_config import PolicyConfig
from mastosync_dagster.sync.incremental import LAST, History, TableSelection, every_row, since_last, since_timestamp
from mastosync_dagster.units import MEGABYTE

_EARLIEST = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NO_RATE = "None: the variable of this name, in capitals and after MASTOSYNC_; else no limit."


class InvalidTimestampError(AdminError, ValueError):
    """A text that is no timestamp, or one without a time zone, in the future or absurdly early."""


def parse_timestamp(text: str, *, now: datetime) -> datetime:
    """Return the timestamp, not after ``now``, that an ISO 8601 text with a time zone stands for.

    Raises:
        InvalidTimestampError: With a message that shows what a timestamp looks like.
    """
    form = f"write 2026-11-01T03:00:00Z or 2026-11-01T03:00:00+01:00, or {LAST!r} for the last incremental run"
    try:
        timestamp = isoparse(text.strip())
    except (ValueError, OverflowError):
        raise InvalidTimestampError(f"changed_since is {text!r}, which is not a timestamp: {form}") from None
    if timestamp.tzinfo is None:
        raise InvalidTimestampError(f"changed_since is {text!r}, which has no time zone: {form}")
    if timestamp > now:
        raise InvalidTimestampError(f"changed_since is {text!r}, which lies in the future")
    if timestamp < _EARLIEST:
        raise InvalidTimestampError(f"changed_since is {text!r}, which no Mastodon is old enough for: leave it out")
    return timestamp.astimezone(timezone.utc)


class PlanConfig(PolicyConfig):
    """How the rows are read, and the source and the destination are listed."""

    page_rows: int = Field(default=5_000, ge=1, le=50_000, description="Rows a query reads.")
    listers: int = Field(default=8, ge=1, le=64, description="Listing requests in flight, at both storages together.")
    wait_seconds: float = Field(
        default=60,
        ge=0,
        le=3_600,
        description="Seconds to wait, before rows are read, for transactions that write. One that is open still: the"
        " watermark stays where it is.",
    )
    copy_private: bool | None = Field(
        default=None,
        description="Private objects, and a destination without ACLs. true: they are copied, for the bucket is not"
        f" public; false: they are skipped, and that is no failure. None: {COPY_PRIVATE}; without it they are skipped,"
        " and the run fails.",
    )
    privacy: Privacy = Field(
        default=Privacy.mastodon,
        description="Which objects are written private: mastodon, those of suspended accounts and removed posts, and"
        " backups; source, those that are private there, a request more each; none: all get the permission.",
    )
    overwrite: bool = Field(
        default=False,
        description="Where source and destination have an object with different bytes, copy the source's also where the"
        " destination's may be the right one: written there by Mastodon, or good while the source's is damaged.",
    )

    def effective_copy_private(self) -> bool | None:
        """Tell whether private objects go to a destination without ACLs too; None: neither config nor variable decides.

        Raises:
            SettingsError: MASTOSYNC_COPY_PRIVATE is neither true nor false.
        """
        return copy_private() if self.copy_private is None else self.copy_private


class ChangesConfig(PlanConfig):
    """Which rows an unpartitioned run takes."""

    file_types: list[str] = Field(
        default=[file_type.value for file_type in FileType], description="Which tables; all by default."
    )
    changed_since: str | None = Field(
        default=None,
        description="Only rows changed after this time (ISO 8601 with a time zone), less ten minutes. "
        f"{LAST!r}: go on where the last incremental run ended. None: every row.",
    )
    limit: int | None = Field(default=None, ge=0, description="Rows per file type at the most.")
    offset: int = Field(default=0, ge=0, description="Rows per file type to skip first, by id.")

    _known = field_validator("file_types")(known_file_types)

    @property
    def every_selection(self) -> list[Selection]:
        """Every row of each file type, within limit and offset."""
        return [Selection(name, limit=self.limit, offset=self.offset) for name in dict.fromkeys(self.file_types)]

    def shares(self, history: History, now: datetime) -> tuple[TableSelection, ...]:
        """Return what to take of each file type; ``changed_since`` may not be after ``now``, what the database shows.

        Raises:
            InvalidTimestampError: As `parse_timestamp`.
        """
        selections = [replace(rows, remote=history.policy.window(rows.table, now)) for rows in self.every_selection]
        if self.changed_since is None:
            return tuple(map(every_row, selections))
        if self.changed_since.strip() == LAST:
            return tuple(since_last(history, rows, now) for rows in selections)
        timestamp = parse_timestamp(self.changed_since, now=now)
        return tuple(since_timestamp(history, rows, timestamp) for rows in selections)


class CopyConfig(dg.Config):
    """How fast the objects are copied, and the resources that may take."""

    concurrency: int | None = Field(
        default=None,
        ge=1,
        le=1_024,
        description="Requests in flight at each storage: so many objects are read while as many are written. None:"
        " MASTOSYNC_CONCURRENCY, or 64, or 16 where memory is short.",
    )
    adaptive: bool = Field(default=True, description="Slow down while a storage answers 503, 429 or not in time.")
    memory_mb: int | None = Field(
        default=None,
        ge=16,
        description="Megabytes of bodies held at the same time. None: what MASTOSYNC_MEMORY_MB leaves for each run.",
    )
    large_in_flight: int = Field(default=4, ge=1, description="Objects above 16 MiB in flight.")
    single_put_mb: int = Field(
        default=200,
        ge=0,
        le=5_000,
        description="Objects up to so many MiB go in one PUT, if they came to the source in one. Lower it where a proxy"
        " before the storage limits bodies (HTTP 413); 0: above 16 MiB always in parts.",
    )
    max_attempts: int = Field(default=6, ge=1, le=20, description="Requests for one object before it has failed.")
    silence_seconds: int = Field(
        default=100,
        ge=20,
        le=86_400,
        description="The run ends when a storage has given no sign for so many seconds; a further one takes the rest.",
    )
    source_requests_per_second: float | None = Field(default=None, gt=0, description=_NO_RATE)
    source_megabytes_per_second: float | None = Field(default=None, gt=0, description=_NO_RATE)
    destination_requests_per_second: float | None = Field(default=None, gt=0, description=_NO_RATE)
    destination_megabytes_per_second: float | None = Field(default=None, gt=0, description=_NO_RATE)
    max_gigabytes: float | None = Field(
        default=None,
        gt=0,
        description="Stop before the run has copied more (10^9 bytes). The rest fails as not attempted; a further run"
        " takes it. None: no limit.",
    )
    max_dollars: float | None = Field(
        default=None,
        gt=0,
        description="Stop likewise before requests and traffic cost more, by the prices of prices_from and prices_to.",
    )
    prices_from: str = Field(default="free", description="The source's name in the price table, such as amazon.")
    prices_to: str = Field(default="free", description="The destination's name in the price table.")
    prices: str | None = Field(default=None, description="Path of a price table. None: the one that comes with it.")
    refetch: bool = Field(
        default=False,
        description="Fetch originals that the source has lost from the servers that they are copies of, where the"
        " rows have their addresses. It connects to any server of the internet, over HTTPS.",
    )

    def budget(self, *, lists: int = 0, gets: int = 0, acls: int = 0) -> Budget | None:
        """Return what the run may copy and spend, after so many requests to both storages: see `make_budget`."""
        limits = Limits(self.max_gigabytes, self.max_dollars, self.prices_from, self.prices_to, self.prices)
        return make_budget(limits, lists=lists, gets=gets, acls=acls)

    def copy_settings(self, budget: Budget | None = None) -> CopySettings:
        """Return the settings of the copy.

        Raises:
            SettingsError: A variable is needed and is no number.
        """
        memory = run_memory()
        return CopySettings(
            budget=budget,
            concurrency=self.concurrency or concurrency(memory.concurrency),
            adaptive=self.adaptive,
            memory_mb=self.memory_mb or memory.bodies_mb,
            large_in_flight=self.large_in_flight,
            single_put_mb=self.single_put_mb,
            max_attempts=self.max_attempts,
            silence_seconds=self.silence_seconds,
            source_requests_per_second=self._rate("source_requests_per_second"),
            source_bytes_per_second=_bytes(self._rate("source_megabytes_per_second")),
            destination_requests_per_second=self._rate("destination_requests_per_second"),
            destination_bytes_per_second=_bytes(self._rate("destination_megabytes_per_second")),
        )

    def _rate(self, name: str) -> float | None:
        own: float | None = getattr(self, name)
        return rate(name) if own is None else own


def _bytes(megabytes: float | None) -> float | None:
    return None if megabytes is None else megabytes * MEGABYTE
