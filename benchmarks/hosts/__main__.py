"""Measures what mastosync takes of a small host: ``python -m benchmarks.hosts``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from benchmarks.hosts import table
from benchmarks.hosts.idle import idle
from benchmarks.hosts.limits import backfill, command
from benchmarks.hosts.machine import installation
from benchmarks.hosts.nights import nights
from benchmarks.hosts.slow_disk import slow_disk
from benchmarks.site import site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.hosts.limits import Outcome

_PARTS = ("limits", "idle", "disk", "nights")
_FEW = 28
"""Objects of a small run."""
_RANGE_OBJECTS = 100_000
"""Objects of an ID range of 50,000 pictures: what `mastosync ranges` makes by itself."""


def limits(opt: Path, ranges: int) -> Iterator[Outcome]:
    """Run what each size of machine must hold."""
    with site(_RANGE_OBJECTS, small=True) as made:
        yield command(opt, made, 256, "sync", "media_attachments")
        yield command(opt, made, 512, "night")
    with site(ranges * _RANGE_OBJECTS, small=True) as made:
        yield backfill(opt, made)


def main() -> None:
    """Measure, print, and write what was measured into docs/deploy.md. Exit status 1: something is not as promised."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="default: all")
    parser.add_argument("--ranges", type=int, default=4, help="ID ranges of 100,000 objects each (default 4)")
    parser.add_argument("--seconds", type=float, default=600, help="seconds of idleness (default 600)")
    parser.add_argument(
        "--nights-a-part", type=int, default=4, help="nights of each of 24 parts but the first (default 4)"
    )
    parser.add_argument("--docs", action="store_true", help="write docs/deploy.md")
    arguments = parser.parse_args()
    if arguments.nights_a_part < 1:
        parser.error("--nights-a-part: at least 1")
    measured: dict[str, str] = {}
    good = [_part(part, arguments, measured) for part in arguments.parts]
    if arguments.docs:
        table.note(measured)
        table.write()
    raise SystemExit(not all(good))


def _part(part: str, arguments: argparse.Namespace, measured: dict[str, str]) -> bool:
    """Measure one part; return whether it is as promised."""
    good = True
    if part == "disk":
        with site(_FEW, small=True) as made:
            for slow in slow_disk(made, _FEW):
                print(slow, flush=True)
                measured[f"disk, {slow.home} home"] = str(slow)
                good = good and slow.is_good
        return good
    with installation() as opt:
        if part == "limits":
            for outcome in limits(opt, arguments.ranges):
                print(outcome, flush=True)
                measured[str(outcome.memory_mb)] = outcome.text
                good = good and not (outcome.wrong or outcome.kills)
        elif part == "idle":
            with site(_FEW, small=True) as made:
                for ui in (True, False):
                    seen = idle(opt, made, arguments.seconds, ui=ui)
                    print(seen, flush=True)
                    measured[f"idle, {'with' if ui else 'without'} UI"] = str(seen)
        else:
            with site(_FEW, small=True) as made:
                lived = nights(opt, made, arguments.nights_a_part)
                print(lived, flush=True)
                measured["nights"] = str(lived)
                good = lived.is_good
    return good


if __name__ == "__main__":
    main()
