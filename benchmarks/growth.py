"""How time and memory grow with the number of rows."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from benchmarks import dataset
from benchmarks.contenders import Boundaries, WholeRun
from benchmarks.servers import Kind

if TYPE_CHECKING:
    from benchmarks.bench import Bench

GROWTH = "growth, {count:,} rows, first copy"
GROWTH_AGAIN = "growth, {count:,} rows, everything present"
SUBSET_ALL = "subset, {count:,} attachments, two thirds remote: everything"
SUBSET_LOCAL = "subset, {count:,} attachments, two thirds remote: local files only"
SUBSET_ROWS = 1_000_000
BOUNDARIES = "ID ranges of {count:,} rows"
COUNTS = (10_000, 100_000, 1_000_000)
BOUNDARY_ROWS = 10_000_000
_STEP = 1_000_000
_TIMES_SMALLEST = 5
"""So often the smallest range is copied: it takes a second beyond what every run takes, and is what others are held
against."""


def growth(bench: Bench, counts: tuple[int, ...]) -> None:
    """Copy ranges of ever more rows with small bodies, and run over each again."""
    next_id = 1
    for count in counts:
        with contextlib.closing(dataset.connect(bench.database)) as connection:
            rows = dataset.small(connection, count, first=next_id)
        next_id = rows.hi + 1
        dataset.settle(bench.database)
        with bench.place(0) as place, bench.server(Kind.MEMORY, place, rows) as source:
            for repetition in range(1, (_TIMES_SMALLEST if count == COUNTS[0] else 1) + 1):
                with bench.server(Kind.MEMORY, place) as destination:
                    for case in (GROWTH, GROWTH_AGAIN):
                        name = case.format(count=count)
                        bench.measure(name, WholeRun(), rows, source, destination, repetition=repetition)


def subset(bench: Bench, count: int) -> None:
    """Copy attachments of which two thirds are remote: everything, and the local ones alone."""
    with contextlib.closing(dataset.connect(bench.database)) as connection:
        rows = dataset.small_media(connection, count)
    dataset.settle(bench.database)
    with bench.place(0) as place, bench.server(Kind.MEMORY, place, rows) as source:
        for case, variables in ((SUBSET_ALL, {}), (SUBSET_LOCAL, {"MASTOSYNC_LOCAL_ONLY": "true"})):
            with bench.server(Kind.MEMORY, place) as destination:
                name = case.format(count=count)
                bench.measure(name, WholeRun(variables), rows, source, destination, complete=not variables)


def boundaries(bench: Bench, count: int) -> None:
    """Divide a table of many rows into ID ranges."""
    first = 100_000_000
    with contextlib.closing(dataset.connect(bench.database)) as connection:
        for at in range(first, first + count, _STEP):
            dataset.insert_preview_cards(connection, min(_STEP, first + count - at), first=at)
    dataset.settle(bench.database)
    rows = dataset.Rows("preview_cards", first, first + count - 1, count, ())
    with (
        bench.place(0) as place,
        bench.server(Kind.MEMORY, place) as source,
        bench.server(Kind.MEMORY, place) as destination,
    ):
        bench.measure(BOUNDARIES.format(count=count), Boundaries(), rows, source, destination, complete=False)
