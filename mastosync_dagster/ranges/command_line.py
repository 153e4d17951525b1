"""Runs that `dagster` and `dg` begin in their own process: without a registered ID range there is none.

Dagster itself records such a run, and lets it fail. Between its command line and the record it only loads the
definitions: so they look then at the command that loads them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import dagster as dg
from dagster._core.errors import DagsterHomeNotSetError
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from mastosync_dagster.environment import DAGSTER_HOME, default_home
from mastosync_dagster.ranges.definition import UnknownRangeError
from mastosync_dagster.ranges.file_types import FileType
from mastosync_dagster.ranges.partitions import InvalidRangeError, not_one_range, registered_range

if TYPE_CHECKING:
    from collections.abc import Iterable

_COMMANDS = frozenset({"execute", "launch", "materialize"})
"""``dagster job execute``, ``dg launch`` and ``dagster asset materialize``."""


_OF_ONE_COMMAND = ".tmp_dagster_home_"
"""How the homes begin that `dagster` makes where none is named (dagster/_cli/utils.py)."""


def refuse_without_range() -> None:
    """Raise `UnknownRangeError` where this process is such a command, about jobs or assets that need an ID range."""
    context = click.get_current_context(silent=True)
    if context is None or context.command.name not in _COMMANDS:
        return
    given = context.params
    file_type = _file_type(given)
    if file_type is None:
        return
    tags = _tags(given)
    key = given.get("partition") or tags.get(PARTITION_NAME_TAG)
    several = given.get("partition_range") or tags.keys() & {
        ASSET_PARTITION_RANGE_START_TAG,
        ASSET_PARTITION_RANGE_END_TAG,
    }
    if several or key is None:
        raise UnknownRangeError(not_one_range(file_type, several=bool(several)))
    try:
        with dg.DagsterInstance.get() as instance:
            if Path(instance.root_directory).name.startswith(_OF_ONE_COMMAND):
                raise UnknownRangeError(_without_home())
            registered_range(instance, file_type, str(key))
    except InvalidRangeError as error:
        raise UnknownRangeError(str(error)) from None
    except DagsterHomeNotSetError:
        raise UnknownRangeError(_without_home()) from None


def _without_home() -> str:
    """Return why no range is registered where Dagster makes a home for one command."""
    home = default_home()
    made = f": export {DAGSTER_HOME}={shlex.quote(str(home))}" if home and (home / "dagster.yaml").is_file() else ""
    return (
        f"{DAGSTER_HOME} is not set: Dagster would make a home for this command alone, in which no ID range is"
        f" registered. Let it name your home{made}"
    )


def _file_type(given: Mapping[str, Any]) -> FileType | None:
    """Return the file type whose range the command needs; None: it needs none, or Dagster finds out what is meant."""
    job = given.get("job") or given.get("job_name") or ""
    assets = str(given.get("assets") or given.get("select") or "").split(",")
    for file_type in FileType:
        name = file_type.value
        if job in _jobs(name) or {name, f"{name}_verification"} & {asset.strip() for asset in assets}:
            return file_type
    return None


def _jobs(name: str) -> Iterable[str]:
    return [f"{what}_{name}" for what in ("sync", "verify", "prune")]


def _tags(given: Mapping[str, Any]) -> Mapping[str, str]:
    try:
        tags = json.loads(given.get("tags") or "{}")
    except ValueError:
        return {}  # Dagster says so
    return tags if isinstance(tags, Mapping) else {}
