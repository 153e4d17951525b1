"""Run config of the ops: what an admin can set per run in the UI, on the command line and in schedules."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from dateutil.parser import isoparse
from pydantic import Field, field_validator

from mastosync_dagster.copy.limits import CopySettings
from mastosync_dagster.copy.spending import Budget, Limits, make_budget
from mastosync_dagster.environment import MEMORY_MB, RUN
from mastosync_dagster.errors import AdminError
from mastosync_dagster.expected.privacy import Privacy
from mastosync_dagster.mastodon import Selection
from mastosync_dagster.memory import run_memory
from mastosync_dagster.ranges.file_types import known_file_types
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.runs.config import PolicyConfig, RunConfig, RunSettingError, setting
from mastosync_dagster.runs.watermarks import LAST
from mastosync_dagster.sync.incremental import History, TableSelection, every_row, since_last, since_timestamp
from mastosync_dagster.units import LARGEST_NUMBER, MEGABYTE, MOST_ROWS

_EARLIEST = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NO_LIMIT = "no limit"


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

    page_rows: int = setting("page_rows", 5_000, "Rows a query reads.", ge=1, le=50_000)
    listers: int = setting("listers", 8, "Listing requests in flight, at both storages together.", ge=1, le=64)
    wait_seconds: float = setting(
        "wait_seconds",
        60,
        "Seconds to wait, before rows are read, for transactions that write. One that is open still: the watermark"
        " stays where it is.",
        ge=0,
        le=3_600,
    )
    copy_private: bool | None = setting(
        "copy_private",
        None,
        "Private objects, and a destination without ACLs. true: they are copied, for the bucket is not public; false:"
        " they are skipped, and that is no failure.",
        "they are skipped, and the run fails",
    )
    privacy: Privacy = setting(
        "privacy",
        Privacy.mastodon,
        "Which objects are written private: mastodon, those of suspended accounts and removed posts, and backups;"
        " source, those that are private there, a request more each; none: all get the permission.",
    )
    overwrite: bool = Field(
        default=False,
        description="Where source and destination have an object with different bytes, copy the source's also where the"
        " destination's may be the right one: written there by Mastodon, or good while the source's is damaged.",
    )


class ChangesConfig(PlanConfig):
    """Which rows an unpartitioned run takes."""

    file_types: list[str] = Field(
        default=[file_type.value for file_type in FileType], description="Which tables; all by default."
    )
    changed_since: str | None = Field(
        default=None,
        description="Only rows changed after this time (ISO 8601 with a time zone), less ten minutes. "
        f"{LAST!r}: go on where the last incremental run ended. Unset or null: every row.",
    )
    limit: int | None = Field(
        default=None, ge=0, le=MOST_ROWS, description="Rows per file type at the most. Unset or null: all."
    )
    offset: int = Field(default=0, ge=0, le=MOST_ROWS, description="Rows per file type to skip first, by id.")

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


def _rate(name: str) -> Any:
    storage, unit = name.split("_")[:2]
    return setting(name, None, f"Limit at the {storage}: {unit} a second.", _NO_LIMIT, gt=0, le=LARGEST_NUMBER)


class CopyConfig(RunConfig):
    """How fast the objects are copied, and the resources that may take."""

    concurrency: int | None = setting(
        "concurrency",
        None,
        "Requests in flight at each storage: so many objects are read while as many are written.",
        "64, or 16 where memory is short",
        ge=1,
        le=1_024,
    )
    adaptive: bool = setting("adaptive", True, "Slow down while a storage answers 503, 429 or not in time.")
    memory_mb: int | None = setting(
        "memory_mb",
        None,
        "Megabytes of bodies held at the same time.",
        f"what {MEMORY_MB} leaves for each run",
        ge=16,
        le=1_000_000,
    )
    large_in_flight: int = setting("large_in_flight", 4, "Objects above 16 MiB in flight.", ge=1, le=1_024)
    single_put_mb: int = setting(
        "single_put_mb",
        200,
        "Objects up to so many MiB go in one PUT, if they came to the source in one. Lower it where a proxy before the"
        " storage limits bodies (HTTP 413); 0: above 16 MiB always in parts.",
        ge=0,
        le=5_000,
    )
    max_attempts: int = setting("max_attempts", 6, "Requests for one object before it has failed.", ge=1, le=20)
    silence_seconds: int = setting(
        "silence_seconds",
        100,
        "The run ends when a storage has given no sign for so many seconds; a further one takes the rest.",
        ge=20,
        le=86_400,
    )
    source_requests_per_second: float | None = _rate("source_requests_per_second")
    source_megabytes_per_second: float | None = _rate("source_megabytes_per_second")
    destination_requests_per_second: float | None = _rate("destination_requests_per_second")
    destination_megabytes_per_second: float | None = _rate("destination_megabytes_per_second")
    max_gigabytes: float | None = setting(
        "max_gigabytes",
        None,
        "Stop before the run has copied more (10^9 bytes). The rest fails as not attempted; a further run takes it.",
        _NO_LIMIT,
        gt=0,
        le=LARGEST_NUMBER,
    )
    max_dollars: float | None = setting(
        "max_dollars",
        None,
        "Stop likewise before requests and traffic cost more, by the prices of prices_from and prices_to.",
        _NO_LIMIT,
        gt=0,
        le=LARGEST_NUMBER,
    )
    prices_from: str = setting("prices_from", "free", "The source's name in the price table, such as amazon.")
    prices_to: str = setting("prices_to", "free", "The destination's name in the price table.")
    prices: str | None = setting("prices", None, "Path of a price table.", "the one that comes with mastosync")
    refetch: bool = setting(
        "refetch",
        False,
        "Fetch originals that the source has lost from the servers that they are copies of, where the rows have their"
        " addresses. It connects to any server of the internet, over HTTPS.",
    )

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        # Those of variables are also there for estimates.
        names = [name for name in ("prices", "prices_from", "prices_to") if given.get(name) is not None]
        if names and self.max_dollars is None:
            raise RunSettingError(
                f"{', '.join(names)} without max_dollars (--prices, --from, --to without --max-dollars) limits nothing:"
                f" set that, or {RUN['max_dollars']}, or leave the prices out."
            )

    def budget(self, *, lists: int = 0, gets: int = 0, acls: int = 0) -> Budget | None:
        """Return what the run may copy and spend, after so many requests to both storages: see `make_budget`."""
        limits = Limits(self.max_gigabytes, self.max_dollars, self.prices_from, self.prices_to, self.prices)
        return make_budget(limits, lists=lists, gets=gets, acls=acls)

    def copy_settings(self, budget: Budget | None = None) -> CopySettings:
        """Return the settings of the copy.

        Raises:
            SettingsError: MASTOSYNC_MEMORY_MB is no number.
        """
        memory = run_memory()
        return CopySettings(
            budget=budget,
            concurrency=self.concurrency or memory.concurrency,
            adaptive=self.adaptive,
            memory_mb=self.memory_mb or memory.bodies_mb,
            large_in_flight=self.large_in_flight,
            single_put_mb=self.single_put_mb,
            max_attempts=self.max_attempts,
            silence_seconds=self.silence_seconds,
            source_requests_per_second=self.source_requests_per_second,
            source_bytes_per_second=_bytes(self.source_megabytes_per_second),
            destination_requests_per_second=self.destination_requests_per_second,
            destination_bytes_per_second=_bytes(self.destination_megabytes_per_second),
        )


def _bytes(megabytes: float | None) -> float | None:
    return None if megabytes is None else megabytes * MEGABYTE
