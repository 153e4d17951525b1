"""Rows of every version of Mastodon, with the keys that its own Paperclip produced for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent.parent / "data"


@dataclass(frozen=True)
class Case:
    """A row and its keys.

    Attributes:
        name: A name for reports.
        table: The row's table.
        version: The version of Mastodon that the row is of.
        row: Column to value, as JSON has it (points in time are text).
        keys: The keys, in Paperclip's order.
    """

    name: str
    table: str
    version: str
    row: dict[str, object]
    keys: tuple[str, ...]


def paperclip_cases() -> list[Case]:
    """Return all cases."""
    return [
        Case(
            name=f"{case['case']} {case['note']}",
            table=case["table"],
            version=case["mastodon_version"],
            row=case["row"],
            keys=tuple(case["expected_keys"]),
        )
        for case in json.loads((DATA / "paperclip_cases.json").read_text())
    ]
