"""``mastosync check --max-age``: how old the last good night is, for monitoring."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from mastosync_dagster.errors import AdminError
from mastosync_dagster.expected.policy import instance_policy
from mastosync_dagster.mastodon import TABLES
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.runs.watermarks import Wanted, last_good

if TYPE_CHECKING:
    import dagster as dg

_AGE = re.compile(r"\s*(?:(\d{1,5})\s*d)?\s*(?:(\d{1,6})\s*h)?\s*(?:(\d{1,8})\s*m(?:in)?)?\s*", re.ASCII)


class AgeError(AdminError):
    """The copy is too old, or the text is no age. The message says what to look at."""


def parse_age(text: str) -> timedelta:
    """Return the age that a text such as ``26h``, ``1d 2h`` or ``90m`` stands for."""
    found = _AGE.fullmatch(text)
    days, hours, minutes = (int(number or 0) for number in (found.groups() if found else ("", "", "")))
    age = timedelta(days=days, hours=hours, minutes=minutes)
    if not age:
        raise AgeError(f"--max-age is {text!r}: write 26h, 90m, 2d or 1d12h.")
    return age


def check_age(instance: dg.DagsterInstance, destination_id: str, limit: timedelta, now: datetime | None = None) -> str:
    """Return how old the last good night is.

    A night is good if its run has succeeded, and wanted all that the settings want. Its age counts from when it read
    the rows.

    Raises:
        AgeError: It is older than the limit, or there is none. Of the file types the oldest counts.
        AdminError: The settings of what is wanted are wrong.
    """
    now, policy = now or datetime.now(timezone.utc), instance_policy()
    found = {each: last_good(instance, each, destination_id, Wanted(policy.rule(each.value), now)) for each in FileType}
    # A table that not every Mastodon has may have no nights.
    never = [each.value for each, at in found.items() if at is None and not TABLES[each.value].optional]
    advice = "look at the runs of sync_changes, and whether dagster-daemon and the schedule nightly_incremental are on"
    if never:
        raise AgeError(f"no run of sync_changes over all rows has succeeded for {', '.join(never)}: {advice}")
    at, oldest = min((at, each.value) for each, at in found.items() if at is not None)
    age = now - at
    text = f"{_written(age)} old: {oldest} has all changes up to {at:%Y-%m-%d %H:%M} UTC"
    if age > limit:
        raise AgeError(f"{text}. It may be {_written(limit)} old: {advice}")
    return text


def _written(age: timedelta) -> str:
    hours, minutes = divmod(max(0, int(age.total_seconds())) // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
