"""The table of docs/deploy.md: memory of the machine, settings that follow, what was measured there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.environment import MEMORY_MB
from mastosync_dagster.memory import run_memory

if TYPE_CHECKING:
    from collections.abc import Mapping

_MEASURED = Path(__file__).with_name("measured.json")
_PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"
_BEGIN, _END = "<!-- Written by make bench-hosts: -->\n", "<!-- until here -->\n"
_MACHINES = (256, 512, 1024, 2048, 4096)
_HEAD = (
    f"| memory of the machine | `{MEMORY_MB}` that follows | runs at a time | bodies that each holds | requests in"
    " flight at each storage | measured there, with one processor |\n|---|---|---|---|---|---|\n"
)


def note(measured: Mapping[str, str]) -> None:
    """Keep sentences about what was measured, by the name of what it is: MB of a machine, or another part."""
    _MEASURED.write_text(json.dumps({**_read(), **measured}, indent=1, sort_keys=True) + "\n")


def _read() -> dict[str, str]:
    found: dict[str, str] = json.loads(_MEASURED.read_text()) if _MEASURED.exists() else {}
    return found


def table() -> str:
    """Return the table, and a line for each further part that was measured."""
    measured, before = _read(), os.environ.get(MEMORY_MB)
    rows = []
    for memory in _MACHINES:
        # Half of it, as without the variable.
        os.environ[MEMORY_MB] = str(memory // 2)
        follows = run_memory()
        size = f"{memory} MB" if memory < 1024 else f"{memory // 1024} GB"  # noqa: PLR2004  (MB of a GB)
        rows.append(
            f"| {size} | {memory // 2:,} | {follows.runs} | {follows.bodies_mb} MB | {follows.concurrency}"
            f" | {measured.get(str(memory), 'not measured')} |\n"
        )
    if before is None:
        del os.environ[MEMORY_MB]
    else:
        os.environ[MEMORY_MB] = before
    others = [f"- {text}\n" for name, text in measured.items() if not name.isdecimal()]
    return _HEAD + "".join(rows) + "\n" + "".join(others)


def write() -> None:
    """Put the table into the page."""
    text = _PAGE.read_text()
    begin, end = text.index(_BEGIN) + len(_BEGIN), text.index(_END)
    _PAGE.write_text(f"{text[:begin]}{table()}{text[end:]}")


if __name__ == "__main__":
    write()
