"""A destination whose endpoint is spelled in another way is the same one, for whatever was put on record about it."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.manifest import FORMAT
from mastosync_dagster.records.store import FolderManifests
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import ManifestOrigin, columns_of
from mastosync_dagster.runs.watermarks import DESTINATION, EVERY_ROW, READ_AT, WATERMARK, range_reads, watermark

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster_tests.support.installation import Installation

ACCOUNTS = FileType.ACCOUNTS


def status() -> dict[str, object]:
    outcome = CliRunner().invoke(main, ["status", "accounts", "--json"])
    assert outcome.exit_code == 0, outcome.output
    (found,) = json.loads(outcome.output)
    assert isinstance(found, dict)
    return found


@pytest.mark.long
def test_ranges_and_watermark_stay_when_the_endpoint_is_respelled(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = world.destination_proxy.endpoint.rpartition(":")[2]
    monkeypatch.setenv("DESTINATION_S3_ENDPOINT", f"http://localhost:{port}")
    for key in world.register(ACCOUNTS)[ACCOUNTS]:
        assert world.run("sync_accounts", key).success
    config = {"ops": {"plan_changes": {"config": {"file_types": ["accounts"], "changed_since": "last"}}}}
    assert world.run("sync_changes", config=config).success
    before = status()
    assert before["watermark"]
    assert (before["missing"], before["objects_left"]) == (0, 0)

    monkeypatch.setenv("DESTINATION_S3_ENDPOINT", f"HTTP://LocalHost.:{port}/")
    assert status() == before


@pytest.mark.parametrize("place", ["{endpoint}/{bucket}/", "HTTP://127.0.0.1.:{port}/{bucket}/"])
def test_what_an_earlier_version_has_put_on_record_is_found(world: Installation, place: str, tmp_path: Path) -> None:
    endpoint, bucket = world.destination_proxy.endpoint, world.destination.name
    written = place.format(endpoint=endpoint, bucket=bucket, port=endpoint.rpartition(":")[2])
    key, *_ = world.register(ACCOUNTS)[ACCOUNTS]
    now = datetime(2026, 11, 1, 3, tzinfo=timezone.utc)
    metadata: dict[str, dg.RawMetadataValue] = {READ_AT: dg.MetadataValue.timestamp(now), DESTINATION: written}
    world.dagster.report_runless_asset_event(dg.AssetMaterialization("accounts", partition=key, metadata=metadata))
    mark = {**metadata, WATERMARK: dg.MetadataValue.timestamp(now), EVERY_ROW: dg.MetadataValue.bool(False)}
    world.dagster.report_runless_asset_event(dg.AssetObservation("accounts", metadata=mark))

    here = S3Bucket.destination().settings().identity
    assert range_reads(world.dagster, ACCOUNTS, here).keys() == {key}
    found = watermark(world.dagster, ACCOUNTS, here)
    assert found is not None
    assert found.timestamp == now

    store = FolderManifests(tmp_path / "manifests")
    schema = FORMAT.schema({"mastosync.destination": written, "mastosync.acls": "written"})
    pq.write_table(
        pa.Table.from_pylist(
            [{"group": "accounts", "row_id": 7, "part": "avatar", "key": "k", "outcome": "copied", "private": False}],
            schema=schema,
        ),
        tmp_path / "old.parquet",
    )
    store.write(tmp_path / "old.parquet", "accounts", key, "a-run")
    manifest = store.in_order("accounts", key)[-1]
    for origin, lines in (
        (ManifestOrigin(here, acls=True), 1),
        (ManifestOrigin(here, acls=False), 0),
        (ManifestOrigin(here + "x/", acls=True), 0),
    ):
        batches = columns_of(store.file, manifest, FORMAT, origin, ["row_id"])
        assert sum(batch.num_rows for batch in batches) == lines
