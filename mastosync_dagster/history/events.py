"""The metadata of many events of assets, read without Dagster's objects, which take ten times as long to make."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sql
from dagster._core.storage.event_log import SqlEventLogStorage, SqlEventLogStorageTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dagster import DagsterInstance

_PAGE = 500
_WHAT = ("materialization", "asset_observation")
"""Where the two kinds of events have what they are about."""


class AssetEvent(NamedTuple):
    """A materialization or observation. ``values`` are those of its metadata, as Python has them; paths are texts."""

    partition: str | None
    run_id: str
    values: Mapping[str, Any]


def asset_events(instance: DagsterInstance, storage_ids: Sequence[int]) -> Iterator[AssetEvent]:
    """Yield the materializations and observations with these storage ids, a page in memory."""
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)  # noqa: S101  (all that Dagster has, in files, memory and PostgreSQL)
    table = SqlEventLogStorageTable
    for start in range(0, len(storage_ids), _PAGE):
        query = sql.select(table.c.event).where(table.c.id.in_(storage_ids[start : start + _PAGE]))
        with storage.index_connection() as connection:
            texts = connection.scalars(query).all()
        yield from map(_parse, texts)


def _parse(text: str) -> AssetEvent:
    event = json.loads(text)
    of_kind = event["dagster_event"]["event_specific_data"]
    (about,) = (of_kind[name] for name in _WHAT if of_kind.get(name))
    values = {entry["label"]: _value(entry["entry_data"]) for entry in about["metadata_entries"]}
    return AssetEvent(about["partition"], event["run_id"], values)


def _value(data: Mapping[str, Any]) -> Any:
    """Return the value of a metadata entry: beside the name of its class it is the first field."""
    return next((value for name, value in data.items() if name != "__class__"), None)
