"""What the history of runs says of the copy of a table: those facts of ``mastosync status`` that decide a switch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mastosync_dagster.cutover.answers import yes_or_no
from mastosync_dagster.records.doubts import Doubt
from mastosync_dagster.runs.doubts import doubt_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from mastosync_dagster.cutover.answers import Line


@dataclass(frozen=True, slots=True)
class TableProgress:
    """One table.

    Attributes:
        ranges: Registered ID ranges; of these
        failed: ended with a failure,
        running: are under way or queued,
        not_run: have no run into this destination.
        every_row: A run over every row has ended well, so that ranges which have not run lack nothing.
        objects: About how many objects its rows have.
        left: Objects that no run has taken, that failed, or that are private and wait for a decision.
        in_doubt: Objects whose state at the destination is not settled, by the reason.
        last_delta: Up to when incremental runs have taken what changed, by the database's clock; None: there was none.
        restored: The database was restored from a backup since, so what earlier runs have done does not count.
    """

    table: str
    ranges: int = 0
    failed: int = 0
    running: int = 0
    not_run: int = 0
    every_row: bool = False
    objects: int = 0
    left: int = 0
    in_doubt: Mapping[Doubt, int] = field(default_factory=dict)
    last_delta: datetime | None = None
    restored: bool = False

    def ranges_problem(self) -> str | None:
        """Return in words which ranges have not been copied; None: all have."""
        if self.restored:
            return f"{self.table}: the database was restored from a backup, so the table has to be copied again"
        if not self.ranges and not self.every_row and self.left:
            return f"{self.table}: nothing has been copied yet"
        kinds = {"are running": self.running}
        if not self.every_row:
            kinds = {"have not run": self.not_run, "have failed": self.failed, **kinds}
        counts = [f"{count:,} {kind}" for kind, count in kinds.items() if count]
        return f"{self.table}: of {self.ranges:,} ID ranges {', '.join(counts)}" if counts else None

    def doubts_problem(self) -> str | None:
        """Return in words which objects are not settled, apart from missing ones; None: all are."""
        counts: dict[Doubt, int] = {why: count for why, count in self.in_doubt.items() if why is not Doubt.MISSING}
        return f"{self.table}: {doubt_text(counts)}" if any(counts.values()) else None


def failed_objects(tables: Iterable[TableProgress]) -> Line:
    """Answer whether objects have failed, or wait for their ACL or for a decision about private ones."""
    return yes_or_no("failed objects", filter(None, (each.doubts_problem() for each in tables)), "none")
