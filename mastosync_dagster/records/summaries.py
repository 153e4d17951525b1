"""Summary of a run: counts for the UI, and the first missing and failed objects."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from mastosync_dagster.environment import COPY_PRIVATE
from mastosync_dagster.escaping import cell, code_cell
from mastosync_dagster.records.outcomes import ONLY_AT_DESTINATION, Outcome
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.units import MEGABYTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mastosync_dagster.records.manifest import ManifestLine

LEFT_OUT = "left_out"
"""Metadata key: number of objects that the policy leaves out. They are planned in no way, and have no outcome."""

CHECK_NAME = "complete"
"""The asset check of every file type: passes only when nothing is missing or failed."""

ONLY_THERE = "only_at_destination"
"""Metadata key: number of present objects that the source does not have."""

FIRST_LINES = 50
_ALERT_LINES = 5
_KIND: Callable[[ManifestLine], tuple[str, Outcome, Reason | None]] = attrgetter("group", "outcome", "reason")


@dataclass
class OutcomeCounts:
    """Counts of manifest lines; ``reasons`` of the failed ones, ``bytes`` of the copied objects.

    ``left_out``: objects without a line, since the policy leaves them out.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[Reason] = field(default_factory=Counter)
    bytes: int = 0
    only_at_destination: int = 0
    left_out: int = 0

    def add(self, outcome: Outcome, reason: Reason | None, lines: int, size: int) -> None:
        """Add some lines of one outcome and one reason, whose objects have ``size`` bytes together."""
        self.outcomes[outcome] += lines
        if reason is not None:
            self.reasons[reason] += lines
        if outcome is Outcome.COPIED:
            self.bytes += size

    @property
    def objects(self) -> int:
        """Lines in total."""
        return self.outcomes.total()


@dataclass(frozen=True)
class Summary:
    """Counts of a manifest, in total and by group (table), and its first `FIRST_LINES` failed or missing lines."""

    total: OutcomeCounts
    groups: Mapping[str, OutcomeCounts]
    first: tuple[ManifestLine, ...]


def summarize(batches: Iterable[Sequence[ManifestLine]], left_out: Mapping[str, int] | None = None) -> Summary:
    """Summarize a manifest; it is read once, as a stream. ``left_out``: number of objects by group."""
    total, groups = OutcomeCounts(), dict[str, OutcomeCounts]()
    failed: list[ManifestLine] = []
    missing: list[ManifestLine] = []
    for batch in batches:
        # Counted by kind, in C: Python handles single lines only where they are missing or failed.
        kinds = Counter(map(_KIND, batch))
        for (group, outcome, reason), lines in kinds.items():
            size = 0
            if outcome is Outcome.COPIED:
                size = sum(line.size or 0 for line in batch if line.outcome is outcome and line.group == group)
            for each in (total, groups.setdefault(group, OutcomeCounts())):
                each.add(outcome, reason, lines, size)
        for group, lines in Counter(line.group for line in batch if line.detail == ONLY_AT_DESTINATION).items():
            for each in (total, groups[group]):
                each.only_at_destination += lines
        for found, outcome in ((failed, Outcome.FAILED), (missing, Outcome.MISSING)):
            if len(found) < FIRST_LINES and any(kind[1] is outcome for kind in kinds):
                found += [line for line in batch if line.outcome is outcome]
                del found[FIRST_LINES:]
    _add_left_out(total, groups, left_out or {})
    return Summary(total=total, groups=groups, first=tuple((failed + missing)[:FIRST_LINES]))


def _add_left_out(total: OutcomeCounts, groups: dict[str, OutcomeCounts], left_out: Mapping[str, int]) -> None:
    for group, number in left_out.items():
        if number:
            total.left_out += number
            groups.setdefault(group, OutcomeCounts()).left_out += number


def counts(of: OutcomeCounts) -> dict[str, int]:
    """Return the counts under the names that metadata and tables use."""
    by_outcome = {outcome.value: of.outcomes[outcome] for outcome in Outcome}
    # Most installations have everything copied: the UI then plots no line of zeros.
    left_out = {LEFT_OUT: of.left_out} if of.left_out else {}
    return {"objects": of.objects, **by_outcome, **left_out, "bytes": of.bytes}


def rates(of: OutcomeCounts, seconds: float) -> dict[str, float]:
    """Return what was copied per second: objects, and megabytes of 10^6 bytes."""
    span = max(seconds, 1e-3)
    copied, megabytes = of.outcomes[Outcome.COPIED], of.bytes / MEGABYTE
    return {"objects/s": round(copied / span, 1), "MB/s": round(megabytes / span, 2)}


def markdown(summary: Summary) -> str:
    """Return a table of the first missing and failed objects with their reasons."""
    if not summary.first:
        return "Nothing is missing, nothing failed."
    rows = [
        (line.outcome.value, line.reason.value if line.reason else "", str(line.row_id), line.key, line.detail)
        for line in summary.first
    ]
    outcomes = summary.total.outcomes
    more = outcomes[Outcome.FAILED] + outcomes[Outcome.MISSING] - len(rows)
    return table(("outcome", "reason", "id", "key", "detail"), rows, more, "the manifest")


def table(header: Sequence[str], rows: Iterable[tuple[str | None, ...]], more: int, file: str) -> str:
    """Return a Markdown table whose last columns are key and detail; its last line says how many more a file has."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for *values, key, detail in rows:
        lines.append(f"| {' | '.join([*map(str, values), code_cell(key or ''), cell(detail)])} |")
    if more > 0:
        lines.append(f"\n… and {more:,} more in {file}.")
    return "\n".join(lines)


def failure_text(summary: Summary, stopped: str | None) -> str:
    """Return the message of a run with failed objects.

    ``stopped`` is the permanent error that ended the copy early; None: it was carried out.
    """
    total = summary.total
    failed = total.outcomes[Outcome.FAILED]
    if stopped and not failed:
        return stopped
    reasons = ", ".join(f"{count:,} {reason.value}" for reason, count in total.reasons.most_common())
    text = (
        f"{failed:,} of {total.objects:,} objects failed ({reasons}); {total.outcomes[Outcome.COPIED]:,} were copied"
        " and stay, a further run of the same range takes the rest"
    )
    if total.reasons[Reason.PRIVATE_NOT_COPIED]:
        text += (
            f". Private objects need a decision where the destination has no ACLs: {COPY_PRIVATE}=true copies them, for"
            " a bucket that is not public; false skips them without a failure"
        )
    if total.reasons[Reason.SIDES_DIFFER]:
        text += (
            ". Where the storages differ and nothing tells which is right, compare both: mastosync sync --overwrite, or"
            " overwrite: true in the plan's config, takes the source's"
        )
    return f"{stopped}. {text}" if stopped else text


def first_reasons(summary: Summary) -> str:
    """Return a few failed objects with their reasons, a line each, for an alert in Markdown."""
    failed = [line for line in summary.first if line.outcome is Outcome.FAILED]
    return "\n".join(
        ": ".join(filter(None, [line.reason.value if line.reason else "", cell(line.key), cell(line.detail)]))
        for line in failed[:_ALERT_LINES]
    )
