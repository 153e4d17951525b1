"""What storages ask for: the table ``cli/prices.yaml``, or one like it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import yaml

from mastosync_dagster.environment import SettingsError

if TYPE_CHECKING:
    from pathlib import Path


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
        return {
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


def prices_of(name: str, path: Path | None = None) -> Prices:
    """Return the prices of a storage in a table; `SettingsError` if it has none of that name, or cannot be read."""
    table = price_table(path)
    if name not in table:
        raise SettingsError(f"the price table has no {name}; it has {', '.join(table)}")
    return table[name]
