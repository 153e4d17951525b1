"""What a run says at its end: counts for the UI's plots, the asset check, the first lines of what went wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from mastosync_dagster.environment import COPY_PRIVATE
from mastosync_dagster.escaping import cell, code_cell
from mastosync_dagster.records.outcomes import ONLY_AT_DESTINATION, Outcome
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mastosync_dagster.records.manifest import ManifestLine

CHECK_NAME = "complete"
"""The asset check of every file type: passes only when nothing is missing or failed."""

ONLY_THERE = "only_at_destination"
"""How metadata names the number of present objects that the source does not have."""

FIRST_LINES = 50
_MEGABYTE = 1_000_000
_ALERT_LINES = 5
_KIND: Callable[[ManifestLine], tuple[str, Outcome, Reason | None]] = attrgetter("group", "outcome", "reason")


@dataclass
class Tally:
    """Counts of manifest lines.

    Attributes:
        outcomes: Lines by outcome.
        reasons: Failed lines by reason.
        bytes: Sizes of the copied objects, added up.
        only_at_destination: Of the present lines, those whose objects the source does not have.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[Reason] = field(default_factory=Counter)
    bytes: int = 0
    only_at_destination: int = 0

    def add(self, outcome: Outcome, reason: Reason | None, lines: int, size: int) -> None:
        """Count some lines of one outcome and one reason, whose objects have so many bytes together."""
        self.outcomes[outcome] += lines
        if reason is not None:
            self.reasons[reason] += lines
        if outcome is Outcome.COPIED:
            self.bytes += size

    @property
    def objects(self) -> int:
        """Lines of any outcome."""
        return self.outcomes.total()


@dataclass(frozen=True)
class Summary:
    """What a manifest says, in a few hundred bytes.

    Attributes:
        total: Counts over all lines.
        groups: Counts by group (table).
        first: The first `FIRST_LINES` missing and failed lines, failed ones first.
    """

    total: Tally
    groups: Mapping[str, Tally]
    first: tuple[ManifestLine, ...]


def summarize(batches: Iterable[Sequence[ManifestLine]]) -> Summary:
    """Read a manifest once, in a stream, and count."""
    total, groups = Tally(), dict[str, Tally]()
    failed: list[ManifestLine] = []
    missing: list[ManifestLine] = []
    for batch in batches:
        # Counted by kind, in C: a line on its own is looked at only where something is wrong with it.
        kinds = Counter(map(_KIND, batch))
        for (group, outcome, reason), lines in kinds.items():
            copied = outcome is Outcome.COPIED
            size = (
                sum(line.size or 0 for line in batch if line.outcome is outcome and line.group == group)
                if copied
                else 0
            )
            for tally in (total, groups.setdefault(group, Tally())):
                tally.add(outcome, reason, lines, size)
        for group, lines in Counter(line.group for line in batch if line.detail == ONLY_AT_DESTINATION).items():
            for tally in (total, groups[group]):
                tally.only_at_destination += lines
        for found, outcome in ((failed, Outcome.FAILED), (missing, Outcome.MISSING)):
            if len(found) < FIRST_LINES and any(kind[1] is outcome for kind in kinds):
                found += [line for line in batch if line.outcome is outcome]
                del found[FIRST_LINES:]
    return Summary(total=total, groups=groups, first=tuple((failed + missing)[:FIRST_LINES]))


def counts(tally: Tally) -> dict[str, int]:
    """Return the counts under the names that metadata and tables use."""
    return {
        "objects": tally.objects,
        **{outcome.value: tally.outcomes[outcome] for outcome in Outcome},
        "bytes": tally.bytes,
    }


def rates(tally: Tally, seconds: float) -> dict[str, float]:
    """Return what was copied per second: objects, and megabytes of 10^6 bytes."""
    span = max(seconds, 1e-3)
    return {
        "objects/s": round(tally.outcomes[Outcome.COPIED] / span, 1),
        "MB/s": round(tally.bytes / _MEGABYTE / span, 2),
    }


def markdown(summary: Summary) -> str:
    """Return a table of the first missing and failed objects with their reasons."""
    if not summary.first:
        return "Nothing is missing, nothing failed."
    outcomes = summary.total.outcomes
    wrong = outcomes[Outcome.FAILED] + outcomes[Outcome.MISSING]
    lines = ["| outcome | reason | id | key | detail |", "|---|---|---|---|---|"]
    lines += [
        f"| {line.outcome.value} | {line.reason.value if line.reason else ''} | {line.row_id} | {code_cell(line.key)}"
        f" | {cell(line.detail)} |"
        for line in summary.first
    ]
    if wrong > len(summary.first):
        lines.append(f"\n… and {wrong - len(summary.first):,} more in the manifest.")
    return "\n".join(lines)


def failure_text(summary: Summary, stopped: str | None) -> str:
    """Return the one sentence with which a run with failed objects ends.

    Args:
        summary: What the manifest says.
        stopped: The permanent error that ended the copy early; None: it went through.
    """
    tally = summary.total
    failed = tally.outcomes[Outcome.FAILED]
    if stopped and not failed:
        return stopped
    reasons = ", ".join(f"{count:,} {reason.value}" for reason, count in tally.reasons.most_common())
    text = (
        f"{failed:,} of {tally.objects:,} objects failed ({reasons}); {tally.outcomes[Outcome.COPIED]:,} were copied"
        " and stay, a further run of the same range takes the rest"
    )
    if tally.reasons[Reason.PRIVATE_NOT_COPIED]:
        text += (
            f". Private objects need a decision where the destination has no ACLs: {COPY_PRIVATE}=true copies them, for"
            " a bucket that is not public; false leaves them out without a failure"
        )
    if tally.reasons[Reason.SIDES_DIFFER]:
        text += (
            ". Where the sides differ and nothing tells which is right, look at both: mastosync sync --overwrite, or"
            " overwrite: true in the plan's config, takes the source's"
        )
    return f"{stopped}. {text}" if stopped else text


def first_reasons(summary: Summary) -> str:
    """Return a few failed objects with their reasons, a line each: the most that fits into an alert, in Markdown."""
    failed = [line for line in summary.first if line.outcome is Outcome.FAILED]
    return "\n".join(
        ": ".join(filter(None, [line.reason.value if line.reason else "", cell(line.key), cell(line.detail)]))
        for line in failed[:_ALERT_LINES]
    )
