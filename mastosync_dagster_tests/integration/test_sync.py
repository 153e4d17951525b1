"""The main job, end to end: rows of a real database, objects between two real S3 servers, through Dagster."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.demo.servers.start import rclone_binary
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster_tests.support.installation import metadata_of
from mastosync_dagster_tests.support.manifests import newest_of_each
from mastosync_dagster_tests.support.proxy import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster.records.manifest import ManifestLine
    from mastosync_dagster_tests.support.installation import Installation


def sync(world: Installation, *file_types: FileType) -> dict[FileType, Counter[str]]:
    """Run every registered range of some file types; return the counts of the runs' metadata, added up."""
    numbers: dict[FileType, Counter[str]] = {}
    for file_type in file_types:
        counts = numbers[file_type] = Counter()
        for key in world.dagster.get_dynamic_partitions(file_type.partitions_name):
            result = world.run(f"sync_{file_type.value}", key)
            assert result.success
            metadata = metadata_of(result, file_type.value)
            counts.update({name: int(str(metadata[name])) for name in ("rows", *OUTCOMES, "objects", "bytes")})
    return numbers


OUTCOMES = [outcome.value for outcome in Outcome]


def manifest_lines(world: Installation, group: str) -> list[ManifestLine]:
    store = manifest_store(world.dagster, S3Bucket.destination())
    return [line for manifest in newest_of_each(store, group) for batch in store.read(manifest) for line in batch]


def assert_rclone_finds_no_difference(world: Installation, tmp_path: Path) -> None:
    # Objects that were found under another key than their row derives have no namesake at the source.
    keys = [each.key for each in world.instance.objects_of(*FileType) if each.key == each.source_key]
    assert len(keys) > 300
    (tmp_path / "keys").write_text("\n".join(keys))
    config = tmp_path / "rclone.conf"
    config.write_text(
        "".join(
            f"[{name}]\ntype = s3\nprovider = Rclone\nendpoint = {bucket.server.endpoint}\n"
            f"access_key_id = {bucket.server.access_key_id}\nsecret_access_key = {bucket.server.secret_access_key}\n"
            for name, bucket in (("from", world.source), ("to", world.destination))
        )
    )
    checked = subprocess.run(
        [
            str(rclone_binary()),
            "check",
            "--download",
            "--config",
            str(config),
            "--files-from-raw",
            str(tmp_path / "keys"),
        ]
        + [f"from:{world.source.name}", f"to:{world.destination.name}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stderr
    assert "0 differences found" in checked.stderr
    assert f"{len(keys)} matching files" in checked.stderr


def test_every_file_type_arrives_whole_and_what_the_source_has_lost_is_listed(
    world: Installation, tmp_path: Path
) -> None:
    world.register()
    numbers = sync(world, *FileType)

    comparison = world.compare()
    assert comparison.differences == ()
    for file_type in FileType:
        expected, lost = world.instance.objects_of(file_type), world.instance.missing_of(file_type)
        counts = numbers[file_type]
        assert (counts["copied"], counts["present"], counts["failed"]) == (len(expected), 0, 0)
        assert counts["missing"] == len(lost)
        assert counts["objects"] == len(expected) + len(lost)
        assert counts["bytes"] == sum(each.size for each in expected)

        lines = manifest_lines(world, file_type.value)
        copied = {(line.key, line.source_key, line.size) for line in lines if line.outcome is Outcome.COPIED}
        assert copied == {(each.key, each.source_key, each.size) for each in expected}
        missing = {line.key for line in lines if line.outcome is Outcome.MISSING}
        assert missing == {each.key for each in lost}
        private = {line.key for line in lines if line.private}
        assert private == {each.key for group in (expected, lost) for each in group if each.private}
    assert_rclone_finds_no_difference(world, tmp_path)

    # The second sync copies nothing, and sends no GET and no PUT, but for probes.
    world.forget()
    numbers = sync(world, *FileType)

    assert sum(counts["copied"] + counts["failed"] for counts in numbers.values()) == 0
    assert sum(counts["present"] for counts in numbers.values()) == len(world.instance.objects_of(*FileType))
    for proxy in (world.source_proxy, world.destination_proxy):
        assert proxy.count(Kind.GET, Kind.PUT, Kind.COPY, Kind.CREATE_UPLOAD) == 0
        assert proxy.count(Kind.LIST) > 0


@pytest.mark.long
def test_a_damaged_or_lost_object_at_the_destination_is_repaired_and_nothing_else_is_touched(
    world: Installation,
) -> None:
    world.register(FileType.ACCOUNTS)
    sync(world, FileType.ACCOUNTS)
    accounts = [each for each in world.instance.objects_of("accounts") if each.size > 1]
    lost, truncated, altered = accounts[:3]
    client, bucket = world.destination.client, world.destination.name
    client.delete_object(Bucket=bucket, Key=lost.key)
    client.put_object(Bucket=bucket, Key=truncated.key, Body=b"x")
    client.put_object(Bucket=bucket, Key=altered.key, Body=b"\0" * altered.size)
    client.put_object(Bucket=bucket, Key="accounts/avatars/other", Body=b"keep me")
    world.destination_proxy.forget()

    numbers = sync(world, FileType.ACCOUNTS)

    assert numbers[FileType.ACCOUNTS]["copied"] == 3
    assert sorted(request.key for request in world.destination_proxy.requests if request.kind is Kind.PUT) == sorted(
        each.key for each in (lost, truncated, altered)
    )
    assert client.get_object(Bucket=bucket, Key="accounts/avatars/other")["Body"].read() == b"keep me"
    client.delete_object(Bucket=bucket, Key="accounts/avatars/other")
    assert world.compare(FileType.ACCOUNTS).differences == ()


@pytest.mark.parametrize("limit", [0, 7])
def test_a_trial_takes_as_many_rows_as_it_may_and_goes_on_from_an_offset(world: Installation, limit: int) -> None:
    def rows(offset: int) -> list[int]:
        config = {"file_types": ["accounts"], "limit": limit, "offset": offset}
        result = world.run("sync_changes", config={"ops": {"plan_changes": {"config": config}}})
        assert result.success
        return sorted({line.row_id for line in manifest_lines(world, "sync_changes")})

    with_files = [
        row["id"]
        for row in world.instance.rows["accounts"]
        if row.get("avatar_file_name") or row.get("header_file_name")
    ]
    assert rows(0) == with_files[:limit]
    assert rows(5) == with_files[5 : 5 + limit]


@pytest.mark.long
def test_one_run_takes_every_file_type_and_notes_on_each_asset_what_it_did(world: Installation) -> None:
    result = world.run("sync_changes")
    assert result.success
    assert world.compare().differences == ()
    noted = {
        event.asset_observation_data.asset_observation.asset_key.to_user_string(): {
            name: value.value for name, value in event.asset_observation_data.asset_observation.metadata.items()
        }
        for event in result.all_events
        if event.is_asset_observation
    }
    assert {name: counts["copied"] for name, counts in noted.items()} == {
        file_type.value: len(world.instance.objects_of(file_type)) for file_type in FileType
    }


@pytest.mark.long
def test_dagster_job_execute_and_asset_materialize_run_one_range(world: Installation) -> None:
    keys = world.register(FileType.ACCOUNTS)[FileType.ACCOUNTS]
    executed = world.command(
        *("dagster", "job", "execute", "-m", "mastosync_dagster", "-j", "sync_accounts"),
        *("--tags", json.dumps({"dagster/partition": keys[0]})),
    )
    assert executed.returncode == 0, executed.stderr
    materialized = world.command(
        *("dagster", "asset", "materialize", "-m", "mastosync_dagster", "--select", "accounts"),
        *("--partition", keys[1]),
    )
    assert materialized.returncode == 0, materialized.stderr
    done = world.dagster.get_materialized_partitions(dg.AssetKey("accounts"))
    assert done == set(keys[:2])


def test_the_check_is_about_the_materialization_of_its_own_run(world: Installation) -> None:
    (key, *_) = world.register(FileType.ACCOUNTS)[FileType.ACCOUNTS]
    for _ in range(2):
        result = world.run("sync_accounts", key)
        (check,) = result.get_asset_check_evaluations()
        assert check.target_materialization_data is not None
        assert check.target_materialization_data.run_id == result.run_id
