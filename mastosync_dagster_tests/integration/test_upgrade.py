"""A home that version 0.1.0 has left goes on: nothing is copied again, and nothing private is shown."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.demo.dagster_processes import dagster_ui
from mastosync_dagster_tests.support.graphql import Webserver
from mastosync_dagster_tests.support.release import Released, released
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]


@pytest.fixture
def old(
    postgres_server: PostgresServer, source_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Released]:
    """The installation, its home at another place than where it was written."""
    with released(postgres_server, source_server, tmp_path, monkeypatch) as made:
        yield made


def mastosync(*arguments: str) -> str:
    """Run a command in this process, which must end well; return its output."""
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def status() -> dict[str, dict[str, Any]]:
    return {each["file_type"]: each for each in json.loads(mastosync("status", "--json"))}


def outcomes(report: str) -> dict[str, str]:
    return {each["key"]: each["outcome"] for each in json.loads(report)["objects"]}


def in_the_home(old: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the manifests where they are."""
    assert list((old.home / "manifests").rglob("*.parquet"))
    monkeypatch.delenv("MASTOSYNC_MANIFESTS", raising=False)


def in_a_bucket(old: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have them where MASTOSYNC_MANIFESTS=s3://… had put them: names are the same, and all are as old as a second."""
    client, folder = old.destination.client, old.home / "manifests"
    client.create_bucket(Bucket="manifests")
    for file in sorted(folder.rglob("*.parquet"), key=lambda each: each.stat().st_mtime):
        client.upload_file(str(file), "manifests", f"mastosync/{file.relative_to(folder)}")
    folder.rename(old.folder / "elsewhere")
    monkeypatch.setenv("MASTOSYNC_MANIFESTS", "s3://manifests/mastosync")


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("place", [in_the_home, in_a_bucket])
def test_records_are_read_and_the_next_night_takes_what_has_changed_since_the_last(
    old: Released, place: Callable[[Released, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    place(old, monkeypatch)
    recorded = {each["file_type"]: each for each in json.loads((old.folder / "status.json").read_text())}
    for each in recorded.values():
        each["objects_done"] -= each["objects_in_doubt"]["acl"]  # which 0.1.0 called both done and left
        each["objects_in_doubt"]["skipped"] = 0  # which 0.1.0 did not count
    before = status()
    assert {name: {key: each[key] for key in recorded[name]} for name, each in before.items()} == recorded
    assert outcomes(mastosync("report", "--format", "json")) == outcomes((old.folder / "report.json").read_text())

    # Who has been suspended since is still shown, and who is back is still hidden.
    wrong = old.wrong_answers()
    assert set(wrong.values()) == {200, 403}
    old.destination_proxy.forget()
    said = mastosync("night")
    assert old.written == sorted([*old.facts["new_since"], old.facts["failed_object"]])
    assert old.wrong_answers() == {}
    assert "2 ID ranges have not run yet" in said
    assert "mastosync sync media_attachments accounts" in said
    after = status()
    assert {name for name, each in after.items() if each["objects_in_doubt"]["acl"]} == set()
    assert {name for name, each in after.items() if each["objects_in_doubt"]["failed"]} == set()
    assert all(after[name]["watermark"] > recorded[name]["watermark"] for name in recorded)
    assert all(after[name]["materialized"] == recorded[name]["materialized"] for name in recorded)

    old.destination_proxy.forget()
    mastosync("night")
    assert old.written == []
    # What was registered stays; new ranges come behind it.
    for file_type, ranges in old.facts["ranges"].items():
        lines = mastosync("ranges", "--all", file_type).splitlines()
        assert [line.split()[0] for line in lines if line.startswith("  ")][: len(ranges)] == ranges


@pytest.mark.long(cases=0)
def test_a_failed_run_is_re_executed_and_a_range_that_was_done_is_not_copied_again(old: Released) -> None:
    facts = old.facts
    with dg.DagsterInstance.get() as dagster:

        def sync(file_type: str, key: str) -> list[str]:
            old.destination_proxy.forget()
            job = build_definitions().resolve_job_def(f"sync_{file_type}")
            result = job.execute_in_process(instance=dagster, partition_key=key, raise_on_error=False)
            assert result.success
            return old.written

        # What its steps had handed on, another version has written: it is not needed.
        (failed,) = dagster.get_runs(dg.RunsFilter(job_name="sync_accounts", statuses=[dg.DagsterRunStatus.FAILURE]))
        options = dg.ReexecutionOptions.from_failure(failed.run_id, dagster)
        # The tags as the UI hands them down.
        tags = {"dagster/partition": facts["fails"]}
        job = dg.reconstructable(sync_accounts)
        with dg.execute_job(job, dagster, tags=tags, reexecution_options=options) as again:
            assert again.success
        assert old.written == [facts["failed_object"]]
        for file_type, ranges in facts["ranges"].items():
            for key in ranges:
                if key != facts["never_run"]:
                    assert sync(file_type, key) == []
        assert sync("media_attachments", facts["never_run"]) != []
    assert {name: each["not_run"] + each["failed"] for name, each in status().items()} == dict.fromkeys(
        facts["ranges"], 0
    )


def sync_accounts() -> dg.JobDefinition:
    return build_definitions().resolve_job_def("sync_accounts")


_PAGES = """
query {
  workspaceOrError {
    ... on Workspace { locationEntries { name locationOrLoadError { __typename ... on PythonError { message } } } }
  }
  partitionBackfillsOrError { ... on PartitionBackfills { results { id status partitionNames } } }
  runsOrError { ... on Runs { results { runId eventConnection(limit: 1000) { events { __typename } } } } }
  schedulesOrError(
    repositorySelector: {repositoryLocationName: "mastosync_dagster", repositoryName: "__repository__"}
  ) {
    ... on Schedules { results { name scheduleState { status ticks(limit: 3) { status runIds } } } }
  }
  assetNodes {
    assetKey { path }
    partitionStats { numMaterialized numFailed numPartitions }
    assetMaterializations(limit: 1) { metadataEntries { label } }
  }
}
"""


@pytest.mark.long(cases=0)
def test_the_ui_shows_what_was_and_runs_what_was_not(old: Released) -> None:
    with dagster_ui(old.home, dict(os.environ), old.folder / "ui.log") as ui:
        web = Webserver(ui.url)
        pages = web.query(_PAGES, {})
        (location,) = pages["workspaceOrError"]["locationEntries"]
        assert (location["name"], location["locationOrLoadError"]["__typename"]) == (
            "mastosync_dagster",
            "RepositoryLocation",
        )
        backfills = {each["id"]: each["status"] for each in pages["partitionBackfillsOrError"]["results"]}
        assert backfills == dict.fromkeys(old.facts["backfills"].values(), "COMPLETED_SUCCESS")
        assert all(run["eventConnection"]["events"] for run in pages["runsOrError"]["results"])
        states = {each["name"]: each["scheduleState"] for each in pages["schedulesOrError"]["results"]}
        assert states["nightly_incremental"]["status"] == "RUNNING"
        assert {run for tick in states["nightly_incremental"]["ticks"] for run in tick["runIds"]} <= set(
            old.facts["nights"]
        )
        nodes = {".".join(each["assetKey"]["path"]): each for each in pages["assetNodes"]}
        media = nodes["media_attachments"]
        assert media["partitionStats"] == {"numMaterialized": 3, "numFailed": 0, "numPartitions": 4}
        assert nodes["accounts"]["partitionStats"] == {"numMaterialized": 1, "numFailed": 1, "numPartitions": 2}

        backfill = web.launch_backfill("media_attachments", [old.facts["never_run"]])
        wait_until(lambda: [run.status for run in web.runs_of_backfill(backfill)] == ["SUCCESS"], seconds=300)
    assert old.written
