"""Tables and a plot, from results."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from benchmarks import cases
from benchmarks.bars import DELAY_MS, bars
from benchmarks.servers import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.results import Result, Results

_BEGIN, _END = "<!-- measured: written by `make bench` -->", "<!-- end of measured -->"
_LEFT_OUT = ("filling",)


def markdown(results: Results) -> str:
    """Return everything that was measured as Markdown."""
    return "\n".join((*_short(results), *_about(results), *_bars(results), *_tables(results), *_ceilings(results)))


_FAST = Kind.MEMORY.value
_BIG_40 = (cases.BIG.format(count=40), Kind.RCLONE.value, 0)
_SHORT: tuple[tuple[str, tuple[str, str, int], Callable[[Result], str]], ...] = (
    (
        "First copy of 50,000 objects, 30 ms away: objects/s",
        (cases.FIRST, _FAST, DELAY_MS),
        lambda one: f"{one.rate:,.0f}",
    ),
    ("The same with no delay", (cases.FIRST, _FAST, 0), lambda one: f"{one.rate:,.0f}"),
    ("CPU seconds per 1,000 objects", (cases.FIRST, _FAST, 0), lambda one: f"{one.cpu_per_thousand:.2f}"),
    ("Peak memory, MB", (cases.FIRST, _FAST, DELAY_MS), lambda one: f"{one.peak_rss_mb:.0f}"),
    (
        "10,000 objects over HTTPS, no delay: objects/s",
        (cases.FIRST, Kind.RCLONE_HTTPS.value, 0),
        lambda one: f"{one.rate:,.0f}",
    ),
    ("Everything is present, 30 ms away: seconds", (cases.AGAIN, _FAST, DELAY_MS), lambda one: f"{one.seconds:.1f}"),
    ("1 % is new, 30 ms away: seconds", (cases.SOME_NEW, _FAST, DELAY_MS), lambda one: f"{one.seconds:.1f}"),
    ("40 objects of 64 MB: seconds", _BIG_40, lambda one: f"{one.seconds:.1f}"),
    (
        "10,000 objects, 1 % of GETs stalled for 10 s: seconds",
        (cases.STALLED, Kind.STALLING.value, 0),
        lambda one: f"{one.seconds:.1f}",
    ),
)
"""What an admin wants to know: in words, where it was measured, and how to write it down."""


def _short(results: Results) -> Iterator[str]:
    names = ("mastosync", "rclone", "juicefs sync")
    yield "### In short\n"
    yield _row("what", *names)
    yield _row("---", *["---:"] * len(names))
    for what, setting, written in _SHORT:
        found = (results.result(*setting, name) for name in names)
        yield _row(what, *("" if one is None else written(one) for one in found))
    yield ""


def _about(results: Results) -> Iterator[str]:
    yield from (f"- {name}: {value}" for name, value in results.about.items())
    yield from (f"- Left out: {note}" for note in results.notes)
    yield ""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _bars(results: Results) -> Iterator[str]:
    yield "### What must hold\n"
    yield _row("what", "bar", "measured", "holds")
    yield _row("---", "---", "---", "---")
    for bar in bars(results):
        holds = {None: "", True: "yes", False: "**no**"}[bar.holds]
        yield _row(bar.what, bar.bar, bar.measured or "not measured", holds)
    yield ""


def title(case: str, server: str, delay_ms: int) -> str:
    """Return a heading for a comparison."""
    return f"{case[0].upper()}{case[1:]}, {server}, {f'{delay_ms} ms' if delay_ms else 'no delay'}"


def _tables(results: Results) -> Iterator[str]:
    for setting in results.settings():
        if setting[0] in _LEFT_OUT:
            continue
        contenders = results.contenders(*setting)
        yield f"### {title(*setting)}\n"
        heads = ["who", "objects", "in flight", "seconds (runs)", "objects/s"]
        heads += ["CPU s per 1,000", "peak RSS MB", "requests per object"]
        base = next((one for one in contenders if one.contender == "rclone"), None)
        if base is not None:
            heads[5:5] = ["x rclone"]
            heads[7:7] = ["x rclone"]
        yield _row(*heads)
        yield _row("---", *["---:"] * (len(heads) - 1))
        for one in contenders:
            yield _row(*_cells(one, base))
        yield ""


def _cells(one: Result, base: Result | None) -> list[str]:
    spread = f"{one.fastest:.2f} to {one.slowest:.2f}, {one.repetitions}" if one.repetitions > 1 else "1"
    rate, cpu = (f"{one.rate:,.0f}", f"{one.cpu_per_thousand:.3f}") if one.objects else ("", "")
    requests = "" if one.requests_per_object is None else f"{one.requests_per_object:.4g}"
    cells = [one.contender, f"{one.objects:,}", str(one.concurrency), f"{one.seconds:.2f} ({spread})", rate]
    cells += [cpu, f"{one.peak_rss_mb:.0f}", requests]
    if base is not None:
        cells[5:5] = [f"{one.rate / base.rate:.2f}"]
        cells[7:7] = [f"{one.cpu_per_thousand / base.cpu_per_thousand:.2f}"]
    return cells


def _ceilings(results: Results) -> Iterator[str]:
    if not results.ceilings:
        return
    yield "### Ceilings of servers and delay line\n"
    yield _row("what", "measured")
    yield _row("---", "---:")
    for name, value in results.ceilings.items():
        yield _row(name, f"{value:,.1f}")
    yield ""


def put_into(document: Path, results: Results) -> None:
    """Write everything that was measured into a page."""
    replace_between(document, _BEGIN, _END, markdown(results))


def replace_between(document: Path, begin: str, end: str, text: str) -> None:
    """Write a text between two lines of a page. Raises ValueError where it lacks them."""
    page = document.read_text()
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"{document} has no lines {begin} and {end}")
    document.write_text(pattern.sub(lambda _: f"{begin}\n\n{text}\n{end}", page))


_WIDTH, _LABEL, _BAR, _GAP, _TITLE = 760, 250, 20, 6, 30
_COLOURS = {"mastosync": "#6364ff", "rclone": "#8c8d99", "boto3": "#c9a227"}


def svg(results: Results) -> str:
    """Return a plot: a panel per comparison, a bar per contender, objects per second."""
    panels = [
        (setting, results.contenders(*setting))
        for setting in (
            (cases.FIRST, Kind.MEMORY.value, DELAY_MS),
            (cases.FIRST, Kind.MEMORY.value, 0),
            (cases.FIRST, Kind.RCLONE.value, DELAY_MS),
            (cases.AGAIN, Kind.MEMORY.value, DELAY_MS),
            (cases.SOME_NEW, Kind.MEMORY.value, DELAY_MS),
        )
    ]
    parts: list[str] = []
    top = 10
    for setting, contenders in panels:
        if contenders:
            parts += _panel(top, f"{title(*setting)}: objects/s", contenders)
            top += _TITLE + len(contenders) * (_BAR + _GAP) + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" viewBox="0 0 {_WIDTH} {top}"'
        ' font-family="sans-serif" font-size="13">\n'
        f'<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(top: int, heading: str, contenders: Sequence[Result]) -> Iterator[str]:
    yield f'<text x="10" y="{top + 18}" font-weight="bold" fill="#222">{html.escape(heading)}</text>'
    most = max(one.rate for one in contenders)
    room = _WIDTH - _LABEL - 90
    for number, one in enumerate(contenders):
        y = top + _TITLE + number * (_BAR + _GAP)
        width = max(1, round(one.rate / most * room))
        colour = next((colour for name, colour in _COLOURS.items() if one.contender.startswith(name)), "#444")
        label = html.escape(one.contender.partition(", --")[0].replace(", whole bucket", " (whole bucket)"))
        yield f'<text x="{_LABEL - 8}" y="{y + 15}" text-anchor="end" fill="#222">{label}</text>'
        yield f'<rect x="{_LABEL}" y="{y}" width="{width}" height="{_BAR}" fill="{colour}"/>'
        yield f'<text x="{_LABEL + width + 6}" y="{y + 15}" fill="#222">{one.rate:,.0f}</text>'
