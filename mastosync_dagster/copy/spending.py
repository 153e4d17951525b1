"""How much a run may copy and spend, by a table of prices. It stops before it would be more.

What is left then is recorded as not attempted. The prices are those of ``cli/prices.yaml``, or of a table like it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import Enum
from importlib import resources
from typing import TYPE_CHECKING

import yaml

from mastosync_dagster.environment import RUN, Environment, SettingsError, expanded
from mastosync_dagster.units import LARGEST_NUMBER, MIB

if TYPE_CHECKING:
    from pathlib import Path

_GIGABYTE = 1e9
_LARGE_BYTES, _PART_BYTES = 16 * MIB, 5 * MIB
LARGER_THAN_THE_BUDGET = "larger than what a run may copy: raise max_gigabytes or max_dollars"


@dataclass(frozen=True, slots=True)
class Prices:
    """A provider's prices in US dollars: of 1,000 list, put and get requests, and of gigabytes.

    Attributes:
        egress: A gigabyte read over the internet.
        month: A gigabyte stored for a month.
    """

    list: float
    put: float
    get: float
    egress: float
    month: float


def price_table(path: Path | None = None) -> dict[str, Prices]:
    """Read a table of prices like ``prices.yaml``; None: that one. `SettingsError` if it cannot be read."""
    where = "the price table" if path is None else str(path)
    try:
        text = (resources.files("mastosync_dagster") / "cli" / "prices.yaml" if path is None else path).read_text(
            "utf-8"
        )
        table = {
            str(name): Prices(**{kind: float(str(price)) for kind, price in prices.items()})
            for name, prices in yaml.safe_load(text).items()
        }
    except OSError as error:
        raise SettingsError(f"{where} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise SettingsError(
            f"{where} is no table of prices: it needs lines such as"
            " 'name: {list: 0.005, put: 0.005, get: 0.0004, egress: 0.09, month: 0.023}'"
        ) from error
    for name, prices in table.items():
        for kind, price in asdict(prices).items():
            # A sum with another one is none, or grows smaller: it would never reach a limit.
            if not 0 <= price <= LARGEST_NUMBER:
                raise SettingsError(
                    f"{where}: {name}.{kind} must be a number from 0 to {LARGEST_NUMBER}, and is {price}."
                )
    return table


def prices_of(name: str, path: Path | None = None) -> Prices:
    """Return the prices of a storage in a table; `SettingsError` if it has none of that name, or cannot be read."""
    table = price_table(path)
    if name not in table:
        raise SettingsError(f"the price table has no {name}; it has {', '.join(table)}")
    return table[name]


def check_prices() -> None:
    """Raise a `SettingsError` where the variables name no table of prices, or what is not in it."""
    environment = Environment.read()
    named = environment.text(RUN["prices"])
    path = expanded(named, f"{RUN['prices']} names") if named else None
    for setting in ("prices", "prices_from", "prices_to"):
        name = environment.text(RUN[setting])
        try:
            if setting == "prices":
                price_table(path)
            elif name is not None:
                prices_of(name, path)
        except SettingsError as error:
            raise SettingsError(f"{RUN[setting]}: {error}") from error


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of a run; None: none.

    Attributes:
        bytes: Of the bodies that it copies.
        dollars: By the prices of both storages, for requests and traffic. Repeated requests are not counted.
        spent: Dollars that were spent before the first object is copied.
    """

    bytes: int | None = None
    dollars: float | None = None
    source: Prices | None = None
    destination: Prices | None = None
    spent: float = 0.0

    def cost(self, size: int) -> float:
        """Return what the copy of an object of so many bytes costs: an upload in parts, where it may be one."""
        if self.source is None or self.destination is None:
            return 0.0
        puts = 1 if size <= _LARGE_BYTES else math.ceil(size / _PART_BYTES) + 2
        return (self.source.get + puts * self.destination.put) / 1000 + size / _GIGABYTE * self.source.egress

    def __str__(self) -> str:
        limits = [
            f"{self.bytes / _GIGABYTE:,.3g} GB" if self.bytes is not None else "",
            f"{self.dollars:,.2f} US dollars" if self.dollars is not None else "",
        ]
        return " or ".join(filter(None, limits))


@dataclass(frozen=True, slots=True)
class Limits:
    """What an admin sets; ``prices`` is the path of a price table, None: the one that comes with mastosync."""

    gigabytes: float | None
    dollars: float | None
    prices_from: str
    prices_to: str
    prices: str | None


def make_budget(limits: Limits, *, lists: int = 0, gets: int = 0, acls: int = 0) -> Budget | None:
    """Return the budget of a run that has sent so many requests already; None: there is no limit.

    Raises:
        SettingsError: The prices cannot be read, or are all zero where dollars are limited.
    """
    if limits.gigabytes is None and limits.dollars is None:
        return None
    path = None if limits.prices is None else expanded(limits.prices, f"{RUN['prices']}, or prices, names")
    source, destination = prices_of(limits.prices_from, path), prices_of(limits.prices_to, path)
    if limits.dollars is not None and not (source.get or source.egress or destination.put):
        raise SettingsError(
            f"max_dollars limits nothing: by the price table {limits.prices_from} and {limits.prices_to} cost nothing."
            " Name source and destination: prices_from and prices_to, or --from and --to. Of variables they are"
            f" {RUN['max_dollars']}, {RUN['prices_from']} and {RUN['prices_to']}."
        )
    # Which storage was asked is not counted: the dearer one is taken.
    spent = lists * max(source.list, destination.list) + gets * max(source.get, destination.get)
    spent = (spent + acls * (destination.get + destination.put)) / 1000
    size = None if limits.gigabytes is None else round(limits.gigabytes * _GIGABYTE)
    return Budget(size, limits.dollars, source, destination, spent)


class Admission(Enum):
    """Whether an object may be copied."""

    YES = "it may"
    WAIT = "it may not as long as others are under way"
    NO = "the budget is used up"
    NEVER = "it is larger than the whole budget"


class UsedUpError(Exception):
    """The budget does not allow another object."""


class Spending:
    """What a run has copied and spent, and what is set aside for objects under way. Lives in one thread."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._bytes = 0
        self._dollars = budget.spent
        self._under_way = 0

    def admit(self, size: int) -> Admission:
        """Set aside what an object of so many bytes takes, if that is left: then `settle` must follow."""
        if self._fits(size, self._bytes, self._dollars):
            self._bytes += size
            self._dollars += self.budget.cost(size)
            self._under_way += 1
            return Admission.YES
        if not self._fits(size, 0, self.budget.spent) and self._fits(0, 0, self.budget.spent):
            return Admission.NEVER
        return Admission.WAIT if self._under_way else Admission.NO

    def _fits(self, size: int, bytes_: int, dollars: float) -> bool:
        budget = self.budget
        enough_bytes = budget.bytes is None or bytes_ + size <= budget.bytes
        return enough_bytes and (budget.dollars is None or dollars + budget.cost(size) <= budget.dollars)

    def settle(self, size: int, copied: int) -> None:
        """Count what an object has taken: ``copied`` bytes, in the place of what was set aside for ``size``."""
        self._bytes += copied - size
        self._dollars += self.budget.cost(copied) - self.budget.cost(size)
        self._under_way -= 1
