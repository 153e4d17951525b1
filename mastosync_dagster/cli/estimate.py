"""Estimates what a copy will take: objects, bytes, requests, money, hours. It sends no request to a storage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastosync_dagster.copy.spending import Prices, price_table
from mastosync_dagster.status.rates import Rate, measured_rate

if TYPE_CHECKING:
    from mastosync_dagster.mastodon import TableSize

__all__ = ["FREE", "Estimate", "Prices", "Rate", "estimate", "measured_rate", "price_table"]

_KEYS_OF_A_PAGE = 900
_GIGABYTE = 1e9
_HOUR = 3600


FREE = Prices(list=0, put=0, get=0, egress=0, month=0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a copy will take.

    Attributes:
        bytes: Originals by the database, and a guess for each other object.
        lists: Requests to both storages together.
        puts: Writes to the destination, with the parts of large objects.
        dollars: For requests and traffic of the copy.
        dollars_a_month: For storing it at the destination.
        hours: Of one run after the other; None: no rate is known.
        rate: By which the hours are estimated.
        source: The source's name in the table of prices; None: it costs nothing, for its prices are not known.
        destination: The same of the destination.
        left_out: Objects that the policy leaves out: nothing is counted for them.
        sampled: The objects are an estimate themselves.
    """

    objects: int
    bytes: int
    lists: int
    gets: int
    puts: int
    dollars: float
    dollars_a_month: float
    hours: float | None
    rate: Rate
    source: str | None = None
    destination: str | None = None
    left_out: int = 0
    sampled: bool = False


def estimate(
    size: TableSize,
    source: Prices,
    destination: Prices,
    rate: Rate,
    *,
    preview_bytes: int,
    names: tuple[str | None, str | None] = (None, None),
    left_out: int = 0,
) -> Estimate:
    """Return what the copy of some objects will take.

    ``preview_bytes`` is the size of every object that is not an original: the database has none. ``names`` are those
    of source and destination in the table of prices; None: no prices are known, and those given are zero.
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
        hours=round(max(times) / _HOUR, 4) if times else None,
        rate=rate,
        source=names[0],
        destination=names[1],
        left_out=left_out,
        sampled=size.estimated,
    )
