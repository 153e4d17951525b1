"""The metadata of events are what Dagster itself reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from mastosync_dagster.history.events import asset_events

if TYPE_CHECKING:
    from pathlib import Path

METADATA: dict[str, Any] = {
    "text": "sentence",
    "whole": 7,
    "number": 1.5,
    "round": 2.0,
    "truth": True,
    "time": dg.MetadataValue.timestamp(1_700_000_000.0),
    "counters": {"objects": 3, "nested": {"seconds": 1.0}, "none": None, "list": [1, 2]},
    "page": dg.MetadataValue.md("**all** of `it`"),
    "link": dg.MetadataValue.url("https://example.com"),
}
KEY = dg.AssetKey("accounts")


def test_events_are_read_as_dagster_reads_them(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as dagster:
        for number in range(3):
            made = dg.AssetMaterialization(KEY, partition=f"{number}-9", metadata={**METADATA, "whole": number})
            dagster.report_runless_asset_event(made)
        dagster.report_runless_asset_event(dg.AssetObservation(KEY, metadata=METADATA))
        records = [*dagster.fetch_materializations(KEY, 10).records, *dagster.fetch_observations(KEY, 10).records]
        expected = {}
        for record in records:
            event = record.asset_materialization or record.asset_observation
            assert event is not None
            values = {name: value.value for name, value in event.metadata.items()}
            expected[event.partition] = (record.run_id, values)
        found = asset_events(dagster, [record.storage_id for record in records])
        assert {event.partition: (event.run_id, event.values) for event in found} == expected
        assert len(expected) == 4
        assert list(asset_events(dagster, [])) == []
