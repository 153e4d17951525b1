"""What must hold, each beside what was measured. No number is massaged: a bar that does not hold says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import cases, growth
from benchmarks.servers import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.results import Figures, Results

DELAY_MS = 30
WHOLE, ENGINE, PLANNING, RCLONE = "mastosync", "mastosync, engine alone", "mastosync, planning alone", "rclone"
LOOKING = "rclone, looking first"


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
    return [*_first_copies(results), *_engine(results), *_again(results), *_big(results), *_growth(results)]


@dataclass(frozen=True)
class Ratio:
    """A ratio of one figure between a contender and rclone, and its limit.

    Attributes:
        what: In words.
        bar: The limit, in words.
        setting: Case, server and delay.
        contender: Who is compared with rclone.
        rclone: With which rclone.
        of: Makes the ratio of two contenders' figures.
        holds: Tells whether a ratio is within the limit.
    """

    what: str
    bar: str
    setting: tuple[str, str, int]
    contender: str
    rclone: str
    of: Callable[[Figures, Figures], float]
    holds: Callable[[float], bool]

    def bar_of(self, results: Results) -> Bar:
        """Return the bar with what was measured."""
        ours, theirs = (results.figures(*self.setting, name) for name in (self.contender, self.rclone))
        if ours is None or theirs is None:
            return Bar(self.what, self.bar)
        ratio = self.of(ours, theirs)
        return Bar(self.what, self.bar, f"{ratio:.2f} x", self.holds(ratio))


def _rate(what: str, limit: float, setting: tuple[str, str, int], contender: str, rclone: str = RCLONE) -> Ratio:
    return Ratio(
        f"{what}, objects/s",
        f"at least {limit:g} x",
        setting,
        contender,
        rclone,
        lambda ours, theirs: ours.rate / theirs.rate,
        lambda ratio: ratio >= limit,
    )


def _cpu(what: str, limit: float, setting: tuple[str, str, int], contender: str, rclone: str = RCLONE) -> Ratio:
    return Ratio(
        f"{what}, CPU per object",
        f"at most {limit:g} x",
        setting,
        contender,
        rclone,
        lambda ours, theirs: ours.cpu_per_thousand / theirs.cpu_per_thousand,
        lambda ratio: ratio <= limit,
    )


def _first_copies(results: Results) -> Iterator[Bar]:
    for kind, servers in ((Kind.RCLONE, ""), (Kind.MEMORY, ", fast servers")):
        at_once, delayed = ((cases.FIRST, kind.value, delay_ms) for delay_ms in (0, DELAY_MS))
        yield _share_of_limit(results, delayed, servers)
        for name in (LOOKING, RCLONE):
            far, near = (f"Whole run against {_told(name)}, {time}{servers}" for time in (f"{DELAY_MS} ms", "no delay"))
            yield _rate(far, 1.8, delayed, WHOLE, name).bar_of(results)
            yield _rate(near, 1.5, at_once, WHOLE, name).bar_of(results)
            yield _cpu(far, 0.5, delayed, WHOLE, name).bar_of(results)
            yield _cpu(near, 0.5, at_once, WHOLE, name).bar_of(results)


def _told(rclone: str) -> str:
    """Return what a contender was told, in words."""
    return "rclone told not to look at the destination" if rclone == RCLONE else rclone


def _share_of_limit(results: Results, setting: tuple[str, str, int], servers: str) -> Bar:
    what, bar = f"Whole run against concurrency / (2 x {DELAY_MS} ms){servers}", "at least 85 %"
    ours = results.figures(*setting, WHOLE)
    if ours is None:
        return Bar(what, bar)
    limit = ours.concurrency / (2 * DELAY_MS / 1000)
    measured = f"{ours.rate / limit:.0%} ({ours.rate:,.0f} of {limit:,.0f} objects/s)"
    return Bar(what, bar, measured, ours.rate >= 0.85 * limit)


def _engine(results: Results) -> Iterator[Bar]:
    fast, real = ((cases.FIRST, kind.value, 0) for kind in (Kind.MEMORY, Kind.RCLONE))
    for name in (LOOKING, RCLONE):
        what = f"Engine alone against {_told(name)}, no delay"
        yield _rate(f"{what}, fast servers", 2.5, fast, ENGINE, name).bar_of(results)
        yield _cpu(f"{what}, fast servers", 0.35, fast, ENGINE, name).bar_of(results)
        yield _cpu(what, 0.35, real, ENGINE, name).bar_of(results)


def _again(results: Results) -> Iterator[Bar]:
    delayed = (cases.AGAIN, Kind.MEMORY.value, DELAY_MS)
    words = f"with everything present, against rclone, {DELAY_MS} ms"
    yield _rate(f"Whole run {words}", 6, delayed, WHOLE).bar_of(results)
    yield _rate(f"Planning alone {words}", 20, delayed, PLANNING).bar_of(results)
    what = "Requests of a whole run with everything present"
    ours = results.figures(cases.AGAIN, Kind.MEMORY.value, 0, WHOLE)
    bar = "at most 3 per 1,000 keys and side, none for a single object"
    if ours is None or ours.requests is None:
        yield Bar(what, bar)
        return
    lists = {side: counts.get("LIST", 0) / ours.objects * 1000 for side, counts in ours.requests.items()}
    others = {
        side: sum(count for kind, count in counts.items() if kind not in {"LIST", "OTHER"})
        for side, counts in ours.requests.items()
    }
    yield Bar(
        what,
        bar,
        ", ".join(f"{side} {lists[side]:.2f}" for side in lists) + f"; for single objects {sum(others.values())}",
        max(lists.values()) <= 3 and not any(others.values()),  # noqa: PLR2004  (the bar)
    )


def _big(results: Results) -> Iterator[Bar]:
    for contender in (WHOLE, ENGINE):
        what = f"Peak RSS of 20 objects of 64 MB at {cases.BIG_CONCURRENCY} in flight, {contender}"
        ours = results.figures(cases.BIG.format(count=20), Kind.RCLONE.value, 0, contender)
        if ours is None:
            yield Bar(what, "under 250 MB")
        else:
            yield Bar(what, "under 250 MB", f"{ours.peak_rss_mb:.0f} MB", ours.peak_rss_mb < 250)  # noqa: PLR2004  (the bar)


def _growth(results: Results) -> Iterator[Bar]:
    def at(count: int, case: str) -> Figures | None:
        return results.figures(case.format(count=count), Kind.MEMORY.value, 0, WHOLE)

    few, many = growth.COUNTS[0], growth.COUNTS[-1]
    empty = results.figures(cases.EMPTY, Kind.RCLONE.value, 0, WHOLE)
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
    what = f"ID ranges of {growth.BOUNDARY_ROWS:,} rows"
    ranges = results.figures(
        growth.BOUNDARIES.format(count=growth.BOUNDARY_ROWS), Kind.MEMORY.value, 0, "mastosync, ID ranges alone"
    )
    if ranges is None:
        yield Bar(what, "under 60 s")
    else:
        yield Bar(what, "under 60 s", f"{ranges.seconds:.1f} s", ranges.seconds < 60)  # noqa: PLR2004  (the bar)
    what = "A run with nothing to do (empty range)"
    if empty is None:
        yield Bar(what, "at most 2.5 s")
    else:
        yield Bar(what, "at most 2.5 s", f"{empty.seconds:.2f} s", empty.seconds <= 2.5)  # noqa: PLR2004  (the bar)
