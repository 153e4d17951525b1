"""The cases: what the contenders are asked to do, in which setting."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.contenders import RCLONE_FIRST, RCLONE_LOOKS, Boto3Loop, Engine, Juicefs, Planning, Rclone, WholeRun
from benchmarks.network import ETHERNET_PACKET
from benchmarks.servers import Kind, remove

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.contenders import Contender
    from benchmarks.dataset import Rows

FIRST = "first copy"
AGAIN = "everything present"
SOME_NEW = "1 % new"
BIG = "{count} objects of 64 MB"
EMPTY = "empty range"
FLAGS = "flags of rclone"

NEW_SHARE = 0.01
BIG_CONCURRENCY = 16
STALLED = "first copy of 10,000"
_FOR_BOTO3 = 10_000
"""So many objects for the boto3 loop: its pace is the same however many there are, and slow."""
_FOR_FLAGS = 5_000

FLAG_CHOICES = (
    ("--no-traverse",),
    ("--fast-list",),
    ("--no-traverse", "--s3-no-head"),
    ("--no-traverse", "--no-check-dest", "--s3-no-head"),
    ("--no-traverse", "--no-check-dest", "--s3-no-head", "--s3-no-head-object"),
    ("--no-traverse", "--no-check-dest", "--s3-no-head", "--s3-no-head-object", "--s3-use-unsigned-payload=true"),
    ("--no-traverse", "--no-check-dest", "--s3-no-head", "--s3-no-head-object", "--buffer-size=0"),
)
"""What rclone's documentation offers to make a copy of many small objects faster."""


def first(rows: Rows, count: int) -> Rows:
    """Return rows with their first objects only: for contenders that take keys, not ids."""
    return replace(rows, bodies=rows.bodies[:count])


def first_copy(bench: Bench, kind: Kind, delay_ms: int, rows: Rows) -> None:
    """Copy everything to an empty destination."""
    contenders: list[Contender] = [WholeRun(), Engine(), Rclone(RCLONE_FIRST), Juicefs()]
    if delay_ms:
        # A transfer of rclone's is at one storage at a time: with as many again it could be at both with all requests.
        contenders.append(Rclone(RCLONE_FIRST, name="rclone, twice the transfers", transfers=2))
    else:
        # With a delay these take minutes, and are no nearer.
        contenders += [Rclone(RCLONE_LOOKS, name="rclone, looking first"), Boto3Loop()]
    with bench.place(delay_ms) as place, bench.server(kind, place, rows) as source:
        for repetition in range(1, bench.repetitions + 1):
            # Whoever begins, begins each time with another: no one always has the warm machine.
            turn = repetition % len(contenders)
            for contender in contenders[turn:] + contenders[:turn]:
                task = first(rows, _FOR_BOTO3) if isinstance(contender, Boto3Loop) else rows
                with bench.server(kind, place) as destination:
                    bench.measure(FIRST, contender, task, source, destination, repetition=repetition)


def small_packets(bench: Bench, delay_ms: int, rows: Rows) -> None:
    """Copy everything over a way on which TCP has to grow its windows, and each packet costs the machine its time."""
    contenders: list[Contender] = [WholeRun(), Engine(), Rclone(RCLONE_FIRST)]
    with bench.place(delay_ms, ETHERNET_PACKET) as place, bench.server(Kind.MEMORY, place, rows) as source:
        for contender in contenders:
            with bench.server(Kind.MEMORY, place) as destination:
                bench.measure(FIRST, contender, rows, source, destination)


def flags(bench: Bench, delay_ms: int, rows: Rows) -> None:
    """Try what rclone offers, so that it is compared at its best."""
    task = first(rows, _FOR_FLAGS)
    for kind in (Kind.RCLONE, Kind.MEMORY):
        with bench.place(delay_ms) as place, bench.server(kind, place, task) as source:
            for choice in FLAG_CHOICES:
                with bench.server(kind, place) as destination:
                    contender = Rclone(choice, name=f"rclone {' '.join(choice)}")
                    bench.measure(FLAGS, contender, task, source, destination)


def again(bench: Bench, kind: Kind, delay_ms: int, rows: Rows) -> None:
    """Run over a destination that has everything, then over one that lacks the newest objects.

    rclone has filled it: it compares times that it kept with the objects itself.
    """
    contenders: list[Contender] = [
        WholeRun(),
        Planning(),
        Rclone(RCLONE_LOOKS),
        Rclone(("--checksum", "--fast-list"), name="rclone, whole bucket, --checksum --fast-list", files=False),
        Juicefs(),
    ]
    updaters: tuple[Contender, ...] = (WholeRun(), Rclone(RCLONE_LOOKS))
    new = [body.key for body in rows.bodies[-round(len(rows.bodies) * NEW_SHARE) :]]
    with (
        bench.place(delay_ms) as place,
        bench.server(kind, place, rows) as source,
        bench.server(kind, place) as destination,
    ):
        bench.measure("filling", Rclone(RCLONE_FIRST), rows, source, destination)
        for repetition in range(1, bench.repetitions + 1):
            for contender in contenders:
                bench.measure(AGAIN, contender, rows, source, destination, repetition=repetition)
        for repetition in range(1, bench.repetitions + 1):
            for contender in updaters:
                remove(destination, new)
                bench.measure(SOME_NEW, contender, rows, source, destination, repetition=repetition)


def big(bench: Bench, rows: Rows) -> None:
    """Copy objects of 64 MB, with no delay."""
    contenders: tuple[Contender, ...] = (WholeRun(), Engine(), Rclone(RCLONE_FIRST), Juicefs(), Boto3Loop())
    case = BIG.format(count=rows.count)
    with bench.place(0) as place, bench.server(Kind.RCLONE, place, rows) as source:
        for repetition, contender in itertools.product(range(1, bench.repetitions + 1), contenders):
            with bench.server(Kind.RCLONE, place) as destination:
                bench.measure(
                    case,
                    contender,
                    rows,
                    source,
                    destination,
                    repetition=repetition,
                    concurrency=BIG_CONCURRENCY,
                )


def https(bench: Bench, rows: Rows) -> None:
    """Copy everything over TLS, as from and to every provider."""
    contenders: tuple[Contender, ...] = (WholeRun(), Engine(), Rclone(RCLONE_FIRST))
    with bench.place(0) as place, bench.server(Kind.RCLONE_HTTPS, place, rows) as source:
        for repetition, contender in itertools.product(range(1, bench.repetitions + 1), contenders):
            with bench.server(Kind.RCLONE_HTTPS, place) as destination:
                bench.measure(FIRST, contender, rows, source, destination, repetition=repetition)


def stalls(bench: Bench, rows: Rows) -> None:
    """Copy from a server that answers one GET of a hundred only after ten seconds, and from one that does not."""
    contenders: tuple[Contender, ...] = (WholeRun(), Rclone(RCLONE_FIRST))
    for kind in (Kind.MEMORY, Kind.STALLING):
        with bench.place(0) as place, bench.server(kind, place, rows) as source:
            for repetition, contender in itertools.product(range(1, max(3, bench.repetitions) + 1), contenders):
                with bench.server(Kind.MEMORY, place) as destination:
                    bench.measure(STALLED, contender, rows, source, destination, repetition=repetition)


def empty(bench: Bench, rows: Rows) -> None:
    """Run over a range of ids without rows: what a run costs when there is nothing to do."""
    nothing = replace(rows, lo=rows.hi + 10**15, hi=rows.hi + 2 * 10**15, count=0, bodies=())
    with (
        bench.place(0) as place,
        bench.server(Kind.RCLONE, place) as source,
        bench.server(Kind.RCLONE, place) as destination,
    ):
        for repetition in range(1, max(5, bench.repetitions) + 1):
            bench.measure(EMPTY, WholeRun(), nothing, source, destination, repetition=repetition)
