"""A run in which an object fails: what it says, what stays, and what running it again brings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow.parquet as pq
import pytest

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster_tests.support.installation import failure_of, metadata_of
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagster import JobExecutionResult

    from mastosync_dagster.demo.instance.book import GeneratedObject
    from mastosync_dagster_tests.support.installation import Installation

ONE_ATTEMPT = {"ops": {"accounts": {"ops": {"copy": {"config": {"max_attempts": 1}}}}}}


def sync_accounts() -> dg.JobDefinition:
    return build_definitions().resolve_job_def("sync_accounts")


@pytest.fixture
def one_range(world: Installation, monkeypatch: pytest.MonkeyPatch) -> str:
    """The key of the one ID range of all accounts."""
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "100000")
    (key,) = world.register(FileType.ACCOUNTS)[FileType.ACCOUNTS]
    return key


def refuse_one(world: Installation) -> GeneratedObject:
    """Let the source fail for one object."""
    refused = world.instance.objects_of("accounts")[0]
    key = f"^{re.escape(refused.source_key)}$"
    world.source_proxy.set_rules(Rule(Answer(500, "InternalError"), kinds=frozenset({Kind.GET}), key=key))
    return refused


@pytest.mark.long
def test_a_run_with_a_failed_object_says_how_many_and_why_and_the_next_one_copies_it_alone(
    world: Installation, one_range: str
) -> None:
    objects, lost = world.instance.objects_of("accounts"), world.instance.missing_of("accounts")
    refuse_one(world)
    failed = world.run("sync_accounts", one_range, ONE_ATTEMPT)
    assert failure_of(failed).startswith(
        f"1 of {len(objects) + len(lost)} objects failed (1 server_error); {len(objects) - 1} were copied and stay"
    )
    (check,) = failed.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)

    world.source_proxy.set_rules()
    again = world.run("sync_accounts", one_range)
    metadata = metadata_of(again, "accounts")
    assert [metadata[name] for name in ("copied", "present", "failed")] == [1, len(objects) - 1, 0]
    # What the source has lost no run can bring back.
    (check,) = again.get_asset_check_evaluations()
    assert (again.success, check.passed, check.severity) == (True, False, dg.AssetCheckSeverity.WARN)
    assert world.compare("accounts").differences == ()


def test_the_log_says_how_many_requests_had_to_be_repeated(world: Installation, one_range: str) -> None:
    world.source_proxy.set_rules(Rule(Answer(500, "InternalError"), kinds=frozenset({Kind.GET}), times=3))
    result = world.run("sync_accounts", one_range)
    assert result.success
    messages = [record.user_message for record in world.dagster.all_logs(result.run_id)]
    assert "requests that had to be repeated: 3 to the source, 0 to the destination" in messages


@pytest.mark.long
def test_a_run_that_is_re_executed_from_its_failure_copies_what_had_failed(world: Installation, one_range: str) -> None:
    def execute(parent: str | None = None) -> JobExecutionResult:
        options = dg.ReexecutionOptions.from_failure(parent, world.dagster) if parent else None
        tags = {"dagster/partition": one_range}
        config = None if parent else ONE_ATTEMPT
        job = dg.reconstructable(sync_accounts)
        return dg.execute_job(job, world.dagster, run_config=config, tags=tags, reexecution_options=options)

    refused = refuse_one(world)
    with execute() as failed:
        assert not failed.success
    world.source_proxy.set_rules()
    world.forget()
    with execute(failed.run_id) as again:
        assert again.success
        # The steps before were good: only the last one is run.
        assert {event.step_key for event in again.all_events if event.is_step_start} == {"accounts.report"}
    assert [request.key for request in world.destination_proxy.requests if request.kind is Kind.PUT] == [refused.key]
    assert world.compare("accounts").differences == ()


@pytest.mark.long
def test_a_manifest_that_cannot_be_published_waits_for_the_next_run(
    world: Installation, one_range: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_MANIFESTS", str(tmp_path / "manifests"))
    place = tmp_path / "manifests" / "accounts" / one_range
    place.parent.mkdir(parents=True)
    place.write_text("a file where a folder must be")
    first = world.run("sync_accounts", one_range)
    assert "MASTOSYNC_MANIFESTS" in failure_of(first)
    assert list(tmp_path.rglob(f"mastosync-runs/{first.run_id}")) == []
    # As long as it cannot, it waits on.
    assert not world.run("sync_accounts", one_range).success
    place.unlink()
    world.forget()
    again = world.run("sync_accounts", one_range)
    assert again.success
    assert {Kind.GET, Kind.PUT}.isdisjoint(world.requests())
    store = manifest_store(world.dagster, S3Bucket.destination())
    assert store.runs("accounts") == {again.run_id}
    assert len(store.runs("late-accounts")) == 2
    (kept,) = (kept for kept in store.in_order("late-accounts") if kept.run_id == first.run_id)
    copied = {line.key for lines in store.read(kept) for line in lines if line.outcome is Outcome.COPIED}
    assert copied == {each.key for each in world.instance.objects_of("accounts")}
    assert list(tmp_path.rglob("mastosync-unpublished/*")) == []


def emptied(manifest: Path) -> None:
    """As a power cut leaves it."""
    manifest.write_bytes(b"")


def with_damaged_pages(manifest: Path) -> None:
    """Begin and end are whole, so it opens."""
    body = bytearray(manifest.read_bytes())
    pages = pq.ParquetFile(manifest).metadata.row_group(0).column(0).total_compressed_size
    body[4 : 4 + pages] = bytes(pages)
    manifest.write_bytes(body)


def with_a_damaged_end(manifest: Path) -> None:
    """Its length and its marks are right, and what stands between is not."""
    body = bytearray(manifest.read_bytes())
    length = int.from_bytes(body[-8:-4], "little")
    body[-8 - length : -8] = b"\xff" * length
    manifest.write_bytes(body)


@pytest.mark.long(cases=0)
@pytest.mark.parametrize("damage", [emptied, with_damaged_pages, with_a_damaged_end])
def test_a_doubt_list_that_cannot_be_read_is_passed_over_with_one_warning(
    world: Installation, damage: Callable[[Path], None]
) -> None:
    first = world.run("sync_changes")
    (file,) = (Path(world.dagster.root_directory) / "manifests").glob(f"doubts_accounts/*/{first.run_id}.parquet")
    damage(file)
    again = world.run("sync_changes")
    assert again.success
    messages = [record.user_message for record in world.dagster.all_logs(again.run_id)]
    assert (
        len([message for message in messages if f"doubts_accounts/changes/{first.run_id}.parquet is" in message]) == 1
    )
