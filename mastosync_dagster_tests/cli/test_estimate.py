"""Estimates of a copy, from the database's numbers and a table of prices."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.cli.console import estimate_lines
from mastosync_dagster.cli.estimate import Prices, Rate, estimate, measured_rate, price_table
from mastosync_dagster.environment import SettingsError
from mastosync_dagster.mastodon import TableSize
from mastosync_dagster.runs.watermarks import RangeRead

if TYPE_CHECKING:
    from pathlib import Path

SIZE = TableSize(rows=1500, originals=1000, objects=1800, bytes=2_000_000_000, large=2, parts=20)
SOURCE = Prices(list=0.005, put=0.005, get=0.0004, egress=0.09, month=0.023)
DESTINATION = Prices(list=0.0045, put=0.0045, get=0.00036, egress=0, month=0.015)
NO_RATE = Rate(None, None)


def test_requests_money_and_size_follow_from_the_objects() -> None:
    result = estimate(SIZE, SOURCE, DESTINATION, NO_RATE, preview_bytes=50_000)
    assert (result.objects, result.bytes) == (1800, 2_040_000_000)
    # Two pages a storage; a PUT for each small object, and for a large one its parts, its beginning and its end.
    assert (result.lists, result.gets, result.puts) == (4, 1800, 1798 + 20 + 4)
    requests = (2 * 9.5 + 1800 * 0.4 + 1822 * 4.5) / 1_000_000
    assert result.dollars == pytest.approx(requests + 2.04 * 0.09, abs=0.01)
    assert result.dollars_a_month == pytest.approx(2.04 * 0.015, abs=0.01)
    assert result.hours is None


@pytest.mark.parametrize(
    ("rate", "hours"),
    [(Rate(0.5, None), 1.0), (Rate(None, 2_000_000_000 / 7200), 2.0), (Rate(0.5, 2_000_000_000 / 7200), 2.0)],
)
def test_the_slower_of_two_rates_decides_how_long_it_takes(rate: Rate, hours: float) -> None:
    assert estimate(SIZE, SOURCE, DESTINATION, rate, preview_bytes=0).hours == hours


def test_the_rate_is_measured_from_runs_that_copied_something() -> None:
    def read(**numbers: float) -> RangeRead:
        return RangeRead(datetime(2026, 1, 1, tzinfo=timezone.utc), "run", numbers)

    reads = [
        read(copied=100, bytes=1000, seconds=10),
        read(copied=0, bytes=0, seconds=50),
        read(copied=300, bytes=5000, seconds=10),
    ]
    assert measured_rate(reads) == Rate(20, 300)
    assert measured_rate([]) == NO_RATE


def test_the_table_that_comes_along_can_be_read() -> None:
    assert {"free", "amazon", "cloudflare"} <= price_table().keys()


@pytest.mark.parametrize("content", ["", "- a", "amazon: 5", "amazon: {list: 1}", "amazon: {list: x, put: 1}", "{"])
def test_a_file_that_is_no_table_of_prices_is_refused_with_a_line_that_would_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "prices.yaml").write_text(content)
    with pytest.raises(SettingsError, match=r"prices\.yaml is no table of prices: .*egress"):
        price_table(tmp_path / "prices.yaml")
    with pytest.raises(SettingsError, match="cannot be read"):
        price_table(tmp_path / "absent.yaml")


@pytest.mark.parametrize("price", ["-0.01", "-1e-300", ".nan", ".inf", "-.inf", "1e305", "nan", "inf", "'-1'"])
@pytest.mark.parametrize("kind", ["list", "put", "get", "egress", "month"])
def test_a_price_that_is_none_is_refused_with_its_file_and_its_field(tmp_path: Path, kind: str, price: str) -> None:
    prices = {"list": "0", "put": "0", "get": "0", "egress": "0", "month": "0"} | {kind: price}
    lines = ", ".join(f"{name}: {value}" for name, value in prices.items())
    (tmp_path / "prices.yaml").write_text(
        f"good: {{list: 0, put: 1, get: 2.5, egress: 0.09, month: 1}}\nbad: {{{lines}}}"
    )
    with pytest.raises(SettingsError) as raised:
        price_table(tmp_path / "prices.yaml")
    text = str(raised.value)
    assert text.startswith(f"{tmp_path}/prices.yaml: bad.{kind} must be a number from 0 to ")
    assert "\n" not in text


def shown(rate: Rate, names: tuple[str | None, str | None] = (None, None)) -> str:
    """The lines of an estimate in a terminal."""
    return "\n".join(estimate_lines(estimate(SIZE, SOURCE, DESTINATION, rate, preview_bytes=0, names=names)))


def test_without_prices_it_asks_for_them_and_shows_no_sum_that_looks_like_nothing() -> None:
    text = shown(NO_RATE)
    assert "dollars" not in text
    assert "--from and --to" in text
    assert "--prices" in text
    read, written = shown(NO_RATE, ("amazon", None)), shown(NO_RATE, (None, "cloudflare"))
    assert re.search(r"cost +[\d.]+ US dollars for reading from amazon; .*--to", read)
    assert re.search(r"cost +[\d.]+ US dollars for writing to cloudflare, .* a month to keep it; .*--from", written)
    assert "a month" not in read
    assert "no prices" not in read + written
    assert "from amazon to cloudflare" in shown(NO_RATE, ("amazon", "cloudflare"))


@pytest.mark.parametrize(
    ("rate", "time", "named"),
    [
        (Rate(10, None, given=True), "3 min,", "10.0 objects/s, as given"),
        (Rate(100, 500_000.0), "1 h 7 min,", "100.0 objects/s and 0.50 MB/s, measured"),
        (Rate(100, None), "18 s,", "100.0 objects/s, measured"),
    ],
)
def test_it_names_its_rate_and_shows_minutes(rate: Rate, time: str, named: str) -> None:
    text = shown(rate)
    assert f"time      {time}" in text
    assert f"rate      {named}" in text
