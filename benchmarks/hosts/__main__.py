"""Measures what mastosync takes of a small host: ``python -m benchmarks.hosts``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from benchmarks.hosts.idle import idle
from benchmarks.hosts.limits import backfill, command
from benchmarks.hosts.machine import installation
from benchmarks.hosts.slow_disk import slow_disk
from benchmarks.site import site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.hosts.limits import Outcome

_PARTS = ("limits", "idle", "disk")
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
    """Measure, and print. Exit status 1: a machine is too small for what the documentation says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="default: all")
    parser.add_argument("--ranges", type=int, default=4, help="ID ranges of 100,000 objects each (default 4)")
    parser.add_argument("--seconds", type=float, default=600, help="seconds of idleness (default 600)")
    arguments = parser.parse_args()
    good = True
    with installation() as opt:
        if "limits" in arguments.parts:
            for outcome in limits(opt, arguments.ranges):
                print(outcome, flush=True)
                good = good and not (outcome.wrong or outcome.kills)
        if "idle" in arguments.parts:
            with site(20) as made:
                for ui in (True, False):
                    print(idle(opt, made, arguments.seconds, ui=ui), flush=True)
    if "disk" in arguments.parts:
        with site(_FEW, small=True) as made:
            for slow in slow_disk(made, _FEW):
                print(slow, flush=True)
                good = good and slow.is_good
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
