"""Findings for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.escaping import cell
from mastosync_dagster.records.findings import FindingLine, read_findings
from mastosync_dagster.records.summaries import FIRST_LINES, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from mastosync_dagster.records.findings import Finding

_NAMES_IN_A_LINE = 10


def first_findings(path: Path, wanted: Sequence[Finding]) -> list[FindingLine]:
    """Return the first `FIRST_LINES` lines with these findings, in the order of ``wanted``."""
    found: dict[Finding, list[FindingLine]] = {finding: [] for finding in wanted}
    for lines in read_findings(path):
        for line in lines:
            kept = found.get(line.finding)
            if kept is not None and len(kept) < FIRST_LINES:
                kept.append(line)
    return [line for lines in found.values() for line in lines][:FIRST_LINES]


def findings_list(lines: Collection[FindingLine], total: int, nothing: str) -> str:
    """Return a list of the first findings out of ``total``, or the text ``nothing`` where there are none."""
    if not lines:
        return nothing
    found = [(line.key, line.finding.value, line.row_id, cell(line.detail)) for line in lines]
    return listed(found, total - len(found), "the file of findings")


def counted(findings: Mapping[Finding, int], wanted: Collection[Finding]) -> str:
    """Return counts in words, without zeros: ``1 absent, 2 extra``."""
    return ", ".join(f"{findings[finding]:,} {finding.value}" for finding in wanted if findings[finding])


def foreign_text(storage: str, top: Mapping[str, bool] | None) -> str:
    """Return what lies at the top of the source or destination (`Top.names`) and is not copied; empty: nothing."""
    if top is None:
        return f"the top of the {storage} may not be listed: what lies beside the folders that are copied is unknown"
    foreign = [cell(name) for name, is_foreign in top.items() if is_foreign]
    return f"at the {storage}, and not copied: {_first(foreign, _NAMES_IN_A_LINE)}" if foreign else ""


def top_text(top: Mapping[str, bool] | None) -> str:
    """Return all that lies at the top of a storage, in Markdown, with a remark at what is not copied."""
    if top is None:
        return "may not be listed"
    foreign_first = sorted(top.items(), key=lambda each: (not each[1], each[0]))
    names = [f"`{cell(name)}`" + (" (not copied)" if is_foreign else "") for name, is_foreign in foreign_first]
    return _first(names, FIRST_LINES) or "nothing"


def _first(names: Sequence[str], limit: int) -> str:
    rest = [f"and {len(names) - limit:,} more"] if len(names) > limit else []
    return ", ".join([*names[:limit], *rest])
