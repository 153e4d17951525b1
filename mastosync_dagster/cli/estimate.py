"""What a copy will take: objects, bytes, requests, money, hours. Nothing is copied, and no storage is asked."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from importlib import resources
from typing import TYPE_CHECKING

import yaml

from mastosync_dagster.environment import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from mastosync_dagster.mastodon import TableSize
    from mastosync_dagster.runs.history import RangeRead

_KEYS_OF_A_PAGE = 900
_GIGABYTE = 1e9
_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Prices:
    """What a provider asks for, in US dollars.

    Attributes:
        list: 1,000 listings.
        put: 1,000 writes.
        get: 1,000 reads.
        egress: A gigabyte read over the internet.
        month: A gigabyte kept for a month.
    """

    list: float
    put: float
    get: float
    egress: float
    month: float


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a run copies.

    Attributes:
        objects: Objects a second; None: not known.
        bytes: Bytes a second; None: not known.
    """

    objects: float | None
    bytes: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a copy will take.

    Attributes:
        objects: Objects.
        bytes: Bytes: originals by the database, and a guess for each other object.
        lists: Listings of both sides together.
        gets: Reads from the source.
        puts: Writes to the destination, with the parts of large objects.
        dollars: For requests and traffic of the copy.
        dollars_a_month: For keeping it at the destination.
        hours: Of one run after the other; None: no rate is known.
    """

    objects: int
    bytes: int
    lists: int
    gets: int
    puts: int
    dollars: float
    dollars_a_month: float
    hours: float | None

    def numbers(self) -> dict[str, float | None]:
        """Return everything by name."""
        return asdict(self)


def price_table(path: Path | None = None) -> dict[str, Prices]:
    """Read a table of prices.

    Args:
        path: A file like ``prices.yaml``; None: that one.

    Raises:
        SettingsError: The file cannot be read, or is no table of prices.
    """
    where = "the price table" if path is None else str(path)
    try:
        text = (resources.files("mastosync_dagster.cli") / "prices.yaml" if path is None else path).read_text("utf-8")
        return {str(name): Prices(**_numbers(prices)) for name, prices in yaml.safe_load(text).items()}
    except OSError as error:
        raise SettingsError(f"{where} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise SettingsError(
            f"{where} is no table of prices: it needs lines such as"
            " 'name: {list: 0.005, put: 0.005, get: 0.0004, egress: 0.09, month: 0.023}'"
        ) from error


def _numbers(prices: Mapping[str, object]) -> dict[str, float]:
    return {name: float(str(value)) for name, value in prices.items()}


def measured_rate(reads: Iterable[RangeRead]) -> Rate:
    """Return how fast earlier runs over ID ranges have copied: their objects and bytes over their time."""
    copied = size = seconds = 0.0
    for read in reads:
        if read.numbers.get("copied"):
            copied += read.numbers["copied"]
            size += read.numbers.get("bytes", 0)
            seconds += read.numbers.get("seconds", 0)
    return Rate(copied / seconds, size / seconds) if seconds else Rate(None, None)


def estimate(size: TableSize, source: Prices, destination: Prices, rate: Rate, *, preview_bytes: int) -> Estimate:
    """Return what the copy of some objects will take.

    Args:
        size: The objects, by the database.
        source: What reading costs.
        destination: What writing and keeping costs.
        rate: How fast it goes.
        preview_bytes: How large an object is that is no original: the database does not say.
    """
    total = size.bytes + (size.objects - size.originals) * preview_bytes
    pages = math.ceil(size.objects / _KEYS_OF_A_PAGE)
    # A large object is created, sent in parts and completed.
    puts = size.objects - size.large + size.parts + 2 * size.large
    dollars = (
        pages * (source.list + destination.list) + size.objects * source.get + puts * destination.put
    ) / 1000 + total / _GIGABYTE * source.egress
    times = [
        amount / per_second for amount, per_second in ((size.objects, rate.objects), (total, rate.bytes)) if per_second
    ]
    return Estimate(
        objects=size.objects,
        bytes=total,
        lists=2 * pages,
        gets=size.objects,
        puts=puts,
        dollars=round(dollars, 2),
        dollars_a_month=round(total / _GIGABYTE * destination.month, 2),
        hours=round(max(times) / _HOUR, 2) if times else None,
    )
