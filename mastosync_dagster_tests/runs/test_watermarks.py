"""However many nights there were, some weeks of them say how far incremental runs have come."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import dagster as dg

from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.runs.watermarks import DESTINATION, WATERMARK, watermark
from mastosync_dagster.s3.settings import one_spelling

if TYPE_CHECKING:
    import pytest

ACCOUNTS, BUCKET = FileType.ACCOUNTS, "https://s3.example.com/new"
NIGHTS = 150
FIRST = datetime(2025, 1, 1, 3, tzinfo=timezone.utc)


def note(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, at: datetime, claims: datetime) -> None:
    """Record an incremental run that ends then."""
    metadata: dict[str, dg.MetadataValue[Any]] = {
        WATERMARK: dg.MetadataValue.timestamp(claims),
        DESTINATION: dg.MetadataValue.text(BUCKET),
    }
    with monkeypatch.context() as time:
        time.setattr("dagster._time._mockable_get_current_timestamp", at.timestamp)
        instance.report_runless_asset_event(dg.AssetObservation(ACCOUNTS.value, metadata=metadata))


def test_a_watermark_is_found_among_the_nights_of_some_weeks(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(NIGHTS):
        night = FIRST + timedelta(days=number)
        note(instance, monkeypatch, night + timedelta(minutes=20), night)
    last = FIRST + timedelta(days=NIGHTS - 1)
    # It has begun weeks before the last night, and ends after it.
    note(instance, monkeypatch, last + timedelta(hours=9), last - timedelta(days=20))
    read, fetch = 0, dg.DagsterInstance.fetch_observations

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal read
        result = fetch(*arguments, **options)
        read += len(result.records)
        return result

    monkeypatch.setattr(dg.DagsterInstance, "fetch_observations", counted)
    found = watermark(instance, ACCOUNTS, one_spelling(BUCKET))
    assert found is not None
    assert found.timestamp == last
    assert 31 < read <= 100
