"""What must hold, each beside what was measured. No number is massaged: a bar that does not hold says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import cases, growth
from benchmarks.servers import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.results import Result, Results

DELAY_MS = 30
WHOLE, ENGINE, PLANNING, RCLONE = "mastosync", "mastosync, engine alone", "mastosync, planning alone", "rclone"


@dataclass(frozen=True)
class Bar:
    """One thing that must hold.

    Attributes:
        what: In words.
        bar: The limit, in words.
        measured: What came out, in words; None: not measured.
        holds: Whether it holds; None: not measured.
    """

    what: str
    bar: str
    measured: str | None = None
    holds: bool | None = None


def bars(results: Results) -> list[Bar]:
    """Return all bars of the benchmark."""
    return [*_first_copies(results), *_again(results), *_big(results), *_growth(results)]


@dataclass(frozen=True)
class Ratio:
    """A ratio of one figure between a contender and rclone, and its limit.

    Attributes:
        what: In words.
        bar: The limit, in words.
        setting: Case, server and delay.
        contender: Who is compared with rclone.
            of: Makes the ratio of two contenders' results.
        holds: Tells whether a ratio is within the limit.
    """

    what: str
    bar: str
    setting: tuple[str, str, int]
    contender: str
    of: Callable[[Result, Result], float]
    holds: Callable[[float], bool]

    def bar_of(self, results: Results) -> Bar:
        """Return the bar with what was measured."""
        ours, theirs = (results.result(*self.setting, name) for name in (self.contender, RCLONE))
        if ours is None or theirs is None:
            return Bar(self.what, self.bar)
        ratio = self.of(ours, theirs)
        return Bar(self.what, self.bar, f"{ratio:.2f} x", self.holds(ratio))


def _rate(what: str, limit: float, setting: tuple[str, str, int], contender: str) -> Ratio:
    def rates(ours: Result, theirs: Result) -> float:
        return ours.rate / theirs.rate

    bar = f"at least {limit:g} x"
    return Ratio(f"{what}, objects/s against rclone", bar, setting, contender, rates, lambda ratio: ratio >= limit)


def _cost(what: str, limit: float, setting: tuple[str, str, int], contender: str, figure: str) -> Ratio:
    def costs(ours: Result, theirs: Result) -> float:
        return float(getattr(ours, figure)) / float(getattr(theirs, figure))

    bar = f"at most {limit:g} x"
    return Ratio(f"{what} against rclone", bar, setting, contender, costs, lambda ratio: ratio <= limit)


def _cpu(what: str, limit: float, setting: tuple[str, str, int], contender: str) -> Ratio:
    return _cost(f"{what}, CPU", limit, setting, contender, "cpu_per_thousand")


def _seconds(what: str, limit: float, setting: tuple[str, str, int], contender: str) -> Ratio:
    return _cost(f"{what}, seconds", limit, setting, contender, "seconds")


def _first_copies(results: Results) -> Iterator[Bar]:
    at_once, delayed = ((cases.FIRST, Kind.MEMORY.value, delay_ms) for delay_ms in (0, DELAY_MS))
    yield _cpu("Engine alone, no delay", 0.35, at_once, ENGINE).bar_of(results)
    yield _rate("Engine alone, no delay", 1.8, at_once, ENGINE).bar_of(results)
    yield _cpu("Whole run, no delay", 0.5, at_once, WHOLE).bar_of(results)
    yield _rate("Whole run, no delay", 1.5, at_once, WHOLE).bar_of(results)
    yield _cpu("Engine alone, no delay, HTTPS", 0.6, (cases.FIRST, Kind.RCLONE_HTTPS.value, 0), ENGINE).bar_of(results)
    yield _share_of_limit(results, delayed)
    yield _rate(f"Whole run, {DELAY_MS} ms", 1.8, delayed, WHOLE).bar_of(results)
    yield _stalls(results)


def _share_of_limit(results: Results, setting: tuple[str, str, int]) -> Bar:
    what, bar = f"Whole run, {DELAY_MS} ms, against concurrency / (2 x {DELAY_MS} ms)", "at least 90 %"
    ours = results.result(*setting, WHOLE)
    if ours is None:
        return Bar(what, bar)
    limit = ours.concurrency / (2 * DELAY_MS / 1000)
    measured = f"{ours.rate / limit:.0%} ({ours.rate:,.0f} of {limit:,.0f} objects/s)"
    return Bar(what, bar, measured, ours.rate >= 0.9 * limit)


def _stalls(results: Results) -> Bar:
    what, bar = "Whole run with 1 % of GETs stalled for 10 s, against one without, seconds", "at most 1.2 x"
    calm, stalled = (results.result(cases.STALLED, kind.value, 0, WHOLE) for kind in (Kind.MEMORY, Kind.STALLING))
    if calm is None or stalled is None:
        return Bar(what, bar)
    ratio = stalled.seconds / calm.seconds
    return Bar(what, bar, f"{ratio:.2f} x", ratio <= 1.2)  # noqa: PLR2004  (the bar)


def _again(results: Results) -> Iterator[Bar]:
    delayed = (cases.AGAIN, Kind.MEMORY.value, DELAY_MS)
    words = f"with everything present, {DELAY_MS} ms"
    yield _rate(f"Whole run {words}", 6, delayed, WHOLE).bar_of(results)
    yield _rate(f"Planning alone {words}", 20, delayed, PLANNING).bar_of(results)
    what = "Requests of a whole run with everything present"
    ours = results.result(cases.AGAIN, Kind.MEMORY.value, 0, WHOLE)
    # Another tool has filled the destination: a run looks at twenty objects of it, at both storages and for their ACLs.
    bar = "at most 3 per 1,000 keys and storage, and 60 for a sample of single objects"
    if ours is None or ours.requests is None:
        yield Bar(what, bar)
        return
    lists = {storage: counts.get("LIST", 0) / ours.objects * 1000 for storage, counts in ours.requests.items()}
    others = {
        storage: sum(count for kind, count in counts.items() if kind not in {"LIST", "OTHER"})
        for storage, counts in ours.requests.items()
    }
    yield Bar(
        what,
        bar,
        ", ".join(f"{name} {number:.2f}" for name, number in lists.items())
        + f"; for single objects {sum(others.values())}",
        max(lists.values()) <= 3 and sum(others.values()) <= 60,  # noqa: PLR2004  (the bar)
    )


def _big(results: Results) -> Iterator[Bar]:
    setting = (cases.BIG.format(count=40), Kind.RCLONE.value, 0)
    what = f"40 objects of 64 MB, {cases.BIG_CONCURRENCY} in flight"
    yield _seconds(f"{what}, whole run", 1.2, setting, WHOLE).bar_of(results)
    yield _seconds(f"{what}, engine alone", 1.0, setting, ENGINE).bar_of(results)
    yield _cpu(f"{what}, whole run", 1.5, setting, WHOLE).bar_of(results)
    ours = results.result(*setting, WHOLE)
    if ours is None:
        yield Bar(f"{what}, whole run, peak RSS", "at most 200 MB")
    else:
        measured = f"{ours.peak_rss_mb:.0f} MB"
        yield Bar(f"{what}, whole run, peak RSS", "at most 200 MB", measured, ours.peak_rss_mb <= 200)  # noqa: PLR2004  (the bar)


def _growth(results: Results) -> Iterator[Bar]:
    def at(count: int, case: str) -> Result | None:
        return results.result(case.format(count=count), Kind.MEMORY.value, 0, WHOLE)

    few, many = growth.COUNTS[0], growth.COUNTS[-1]
    empty = results.result(cases.EMPTY, Kind.RCLONE.value, 0, WHOLE)
    for case, words in ((growth.GROWTH, "first copy"), (growth.GROWTH_AGAIN, "everything present")):
        small, large = at(few, case), at(many, case)
        memory = f"Peak RSS at {many:,} rows against {few:,}, {words}"
        time = f"Time per object at {many:,} rows against {few:,}, an empty run's time taken off both, {words}"
        if small is None or large is None or empty is None:
            yield Bar(memory, "within 10 %")
            yield Bar(time, "within 20 %")
            continue
        ratio = large.peak_rss_mb / small.peak_rss_mb
        yield Bar(memory, "within 10 %", f"{ratio:.2f} x", ratio <= 1.1)  # noqa: PLR2004  (the bar)
        ratio = (large.seconds - empty.seconds) / large.objects / ((small.seconds - empty.seconds) / small.objects)
        yield Bar(time, "within 20 %", f"{ratio:.2f} x", ratio <= 1.2)  # noqa: PLR2004  (the bar)
    what = f"Local files only of {growth.SUBSET_ROWS:,} attachments, two thirds remote, seconds against everything"
    everything, local = at(growth.SUBSET_ROWS, growth.SUBSET_ALL), at(growth.SUBSET_ROWS, growth.SUBSET_LOCAL)
    if everything is None or local is None:
        yield Bar(what, "at most 0.45 x")
    else:
        ratio = local.seconds / everything.seconds
        yield Bar(what, "at most 0.45 x", f"{ratio:.2f} x", ratio <= 0.45)  # noqa: PLR2004  (the bar)
    what = f"ID ranges of {growth.BOUNDARY_ROWS:,} rows"
    ranges = results.result(
        growth.BOUNDARIES.format(count=growth.BOUNDARY_ROWS), Kind.MEMORY.value, 0, "mastosync, ID ranges alone"
    )
    if ranges is None:
        yield Bar(what, "under 60 s")
    else:
        yield Bar(what, "under 60 s", f"{ranges.seconds:.1f} s", ranges.seconds < 60)  # noqa: PLR2004  (the bar)
    what = "A run with nothing to do (empty range)"
    if empty is None:
        yield Bar(what, "at most 2.0 s")
    else:
        yield Bar(what, "at most 2.0 s", f"{empty.seconds:.2f} s", empty.seconds <= 2.0)  # noqa: PLR2004  (the bar)
