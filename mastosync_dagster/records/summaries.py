"""Summary of a run: counts for the UI, and the first missing and failed objects."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

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

CHECK_NAME = "nothing_missing_or_failed"
"""The asset check of every file type."""

ONLY_THERE = "only_at_destination"
"""Metadata key: number of present objects that the source does not have."""

BYTES_THERE = "bytes_at_destination"
"""Metadata key: bytes of all objects that are at the destination."""

COUNTERS = "counters"
"""Metadata key: the numbers that an admin seldom reads, as one entry, so that the UI does not plot each of them."""

FIRST_LINES = 50
_THOUSAND = 1_000
_MINUTE = 60
_ALERT_LINES = 5
_THERE = frozenset({Outcome.COPIED, Outcome.PRESENT})
_KIND: Callable[[ManifestLine], tuple[str, Outcome, Reason | None]] = attrgetter("group", "outcome", "reason")


@dataclass
class OutcomeCounts:
    """Counts of manifest lines; ``reasons`` of the failed ones, ``bytes`` of the copied objects.

    ``bytes_there`` are those of present objects too; ``left_out`` are objects that the policy leaves out.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[Reason] = field(default_factory=Counter)
    bytes: int = 0
    bytes_there: int = 0
    only_at_destination: int = 0
    left_out: int = 0

    def add(self, outcome: Outcome, reason: Reason | None, lines: int, size: int) -> None:
        """Add some lines of one outcome and one reason, whose objects have ``size`` bytes together."""
        self.outcomes[outcome] += lines
        if reason is not None:
            self.reasons[reason] += lines
        if outcome is Outcome.COPIED:
            self.bytes += size
        self.bytes_there += size

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
            if outcome in _THERE:
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


def with_counters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an event's metadata, those of `COUNTERS` among them as if each were an entry."""
    counters = values.get(COUNTERS)
    return {**values, **counters} if isinstance(counters, dict) else dict(values)


def size_text(size: int) -> str:
    """Return a number of bytes for people, in units of 1,000: ``1.2 GB``."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < _THOUSAND:
            return f"{size:,} bytes" if unit == "bytes" else f"{amount:,.1f} {unit}"
        amount /= _THOUSAND
    return f"{amount:,.1f} TB"


def duration_text(seconds: float) -> str:
    """Return a duration for people: ``0.9 s``, ``3 min 12 s``, ``2 h 5 min``."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def markdown(summary: Summary, what_to_do: Sequence[str]) -> str:
    """Return a list of the first missing and failed objects, and what to do about each.

    ``what_to_do`` has a text, in Markdown, for each line of ``summary.first``.
    """
    if not summary.first:
        return "Nothing is missing, nothing failed."
    found = [
        (
            line.key,
            " ".join(filter(None, [line.outcome.value, line.reason.value if line.reason else ""])),
            line.row_id,
            f"{cell(line.detail)}: {remedy}" if line.detail else remedy,
        )
        for line, remedy in zip(summary.first, what_to_do, strict=True)
    ]
    outcomes = summary.total.outcomes
    more = outcomes[Outcome.FAILED] + outcomes[Outcome.MISSING] - len(found)
    return listed(found, more, "the manifest")


def listed(found: Iterable[tuple[str, str, int | None, str]], more: int, file: str) -> str:
    """Return objects in Markdown: of each its key, what was found, the row's id, and a text in Markdown.

    No table, and keys in two lines: the UI breaks no line within a key, and cuts off what is too wide. The last line
    says how many more a file has.
    """
    paragraphs = []
    for key, what, row_id, text in found:
        folder, separator, name = key.rpartition("/")
        folder, more_separator, style = folder.rpartition("/")
        parts = [f"{folder}{more_separator}", f"{style}{separator}{name}"]
        row = "" if row_id is None else f", row {row_id}"
        paragraphs.append(
            "  \n".join(
                [*(code_cell(part) for part in parts if part), f"**{what}**{row}" + (f": {text}" if text else "")]
            )
        )
    if more > 0:
        paragraphs.append(f"… and {more:,} more in {file}.")
    return "\n\n".join(paragraphs)


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
        " and stay, a further run takes the rest"
    )
    if total.reasons[Reason.PRIVATE_NOT_COPIED]:
        text += (
            f". Private objects need a decision where the destination has no ACLs: {COPY_PRIVATE}=true copies them, for"
            " a bucket that is not public; false skips them without a failure"
        )
    if total.reasons[Reason.NOT_ATTEMPTED] and not stopped:
        text += ". What is larger than all that a run may copy is attempted by none: raise max_gigabytes or max_dollars"
    if total.reasons[Reason.SIDES_DIFFER]:
        text += (
            ". Where the storages differ and nothing tells which is right, compare both: mastosync sync --overwrite, or"
            " overwrite: true in the plan's config, takes the source's"
        )
    return f"{stopped}. {text}" if stopped else text


def closing_text(of: OutcomeCounts, seconds: float) -> str:
    """Return the line that ends a run: what has become of its objects."""
    copied, present, missing, failed = (of.outcomes[outcome] for outcome in Outcome)
    return (
        f"{copied:,} of {of.objects:,} objects copied, {size_text(of.bytes)} in {duration_text(seconds)};"
        f" {present:,} were present, {missing:,} are missing, {failed:,} failed"
    )


def stopped_text(summary: Summary) -> str:
    """Return the line that ends a run which somebody has terminated."""
    total = summary.total
    rest = total.reasons[Reason.NOT_ATTEMPTED]
    return (
        f"stopped: {total.outcomes[Outcome.COPIED]:,} of {total.objects:,} objects were copied and stay,"
        f" {total.outcomes[Outcome.PRESENT]:,} were present, {rest:,} were not attempted; a further run takes the rest"
    )


def first_reasons(summary: Summary) -> str:
    """Return a few failed objects with their reasons, a line each, for an alert in Markdown."""
    failed = [line for line in summary.first if line.outcome is Outcome.FAILED]
    return "\n".join(
        ": ".join(filter(None, [line.reason.value if line.reason else "", cell(line.key), cell(line.detail)]))
        for line in failed[:_ALERT_LINES]
    )
