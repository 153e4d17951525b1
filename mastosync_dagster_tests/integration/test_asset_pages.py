"""What an admin reads on the pages of the assets: descriptions, checks of each ID range, and how a run ends."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._core.definitions import freshness_evaluator
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.definitions.freshness_evaluator import TimeWindowFreshnessPolicyEvaluator
from dagster._core.loader import LoadingContextForTest

from mastosync_dagster.cli.main import main
from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records import summaries
from mastosync_dagster.records.summaries import CHECK_NAME
from mastosync_dagster.runs.retention import runs_to_keep
from mastosync_dagster.runs.watermarks import failures
from mastosync_dagster.sync.assets import _CHANGES_SETTINGS, _COPY_SETTINGS
from mastosync_dagster.sync.ops import copy, plan_changes
from mastosync_dagster.verify import settings
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.installation import Installation

ONE_ATTEMPT = {"ops": {"custom_emojis": {"ops": {"copy": {"config": {"max_attempts": 1}}}}}}


def refuse(world: Installation, number: int) -> None:
    """Let the source refuse the first so many custom emoji, which lie in the first ID range."""
    keys = [re.escape(each.source_key) for each in world.instance.objects_of("custom_emojis")[:number]]
    answer = Answer(500, "InternalError")
    world.source_proxy.set_rules(Rule(answer, kinds=frozenset({Kind.GET}), key=f"^({'|'.join(keys)})$"))


def shown_totals(dagster: dg.DagsterInstance) -> list[str]:
    """Return the lines about all ID ranges on the page of the custom emoji: the UI shows the newest materialization."""
    event = dagster.get_latest_materialization_event(dg.AssetKey("custom_emojis"))
    assert event is not None
    assert event.asset_materialization is not None
    return str(event.asset_materialization.metadata["all ID ranges"].value).split("  \n")


def status_of_emoji() -> str:
    return CliRunner().invoke(main, ["status", "custom_emojis"]).output


def failed_ranges(dagster: dg.DagsterInstance, asset: str, check: str) -> set[str]:
    """Return the ID ranges whose check does not pass, as the UI shows them."""
    key = dg.AssetCheckKey(dg.AssetKey(asset), check)
    found = dagster.event_log_storage.get_asset_check_partition_info([key])
    return {str(each.partition_key) for each in found if each.latest_execution_status.value == "FAILED"}


def test_each_asset_says_what_a_partition_is_how_to_launch_it_and_where_the_list_is() -> None:
    specs = {spec.key.to_user_string(): spec for spec in build_definitions().resolve_all_asset_specs()}
    for file_type in FileType:
        for name, group in ((file_type.value, "copy"), (f"{file_type.value}_verification", "verify")):
            spec = specs[name]
            assert spec.group_name == group
            text = spec.description or ""
            assert 8 <= len(text.strip().splitlines()) <= 12
            for word in (
                "A partition is an ID range",
                "*Launch backfill*",
                "*Launch 1 run*",
                "as often as you like",
                "`missing`",
                "list",
            ):
                assert word in text, (name, word)
            assert "{" not in text
    # The Overview shows one result of many.
    for check in build_definitions().resolve_asset_graph().asset_check_keys:
        assert "under Partitions" in str(build_definitions().resolve_asset_graph().get(check).description)


def test_each_null_in_the_launchpad_is_explained_by_the_help_beside_it() -> None:
    shown = [*_CHANGES_SETTINGS.items(), *_COPY_SETTINGS.items()]
    nulls = {name for name, value in shown if value is None}
    assert {"concurrency", "limit", "changed_since", "copy_private"} <= nulls
    fields = {**plan_changes.config_schema.config_type.fields, **copy.config_schema.config_type.fields}  # type: ignore[union-attr]  # ops with config
    for name in nulls:
        assert "null: " in str(fields[name].description), name
    assert "null: MASTOSYNC_CONCURRENCY, else 64, or 16 where memory is short." in str(
        fields["concurrency"].description
    )
    assert "null: all." in str(fields["limit"].description)


@pytest.mark.long
def test_what_failed_in_one_range_stays_red_when_the_others_pass(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "20")
    keys = world.register(FileType.CUSTOM_EMOJIS)[FileType.CUSTOM_EMOJIS]
    refused = world.instance.objects_of("custom_emojis")[0]
    world.source_proxy.set_rules(
        Rule(Answer(500, "InternalError"), kinds=frozenset({Kind.GET}), key=f"^{re.escape(refused.source_key)}$")
    )
    results = {key: world.run("sync_custom_emojis", key, ONE_ATTEMPT) for key in keys}
    (red,) = [key for key, result in results.items() if not result.success]
    # The one that failed is not the newest.
    assert world.run("sync_custom_emojis", keys[-1] if red != keys[-1] else keys[0]).success
    assert red in failed_ranges(world.dagster, "custom_emojis", CHECK_NAME)

    world.source_proxy.set_rules()
    assert world.run("sync_custom_emojis", red).success

    # The same for a verification.
    client, bucket = world.destination.client, world.destination.name
    client.delete_object(Bucket=bucket, Key=refused.key)
    for key in keys:
        world.run("verify_custom_emojis", key)
    assert failed_ranges(world.dagster, "custom_emojis_verification", settings.CHECK_NAME) == {red}


@pytest.mark.long
def test_the_last_line_of_a_run_says_what_was_done_and_its_program_tags_are_hidden(world: Installation) -> None:
    (key, *_) = world.register(FileType.CUSTOM_EMOJIS)[FileType.CUSTOM_EMOJIS]
    for result in (world.run("sync_custom_emojis", key), world.run("sync_changes")):
        lines = [record.user_message for record in world.dagster.all_logs(result.run_id) if record.level == 20]
        assert re.fullmatch(
            r"\d+ of \d+ objects copied, [\d.]+ (bytes|kB|MB) in [\d.]+ s; \d+ were present, \d+ are missing, 0 failed",
            lines[-1],
        )
        run = world.dagster.get_run_by_id(result.run_id)
        assert run is not None
        assert {tag for tag in run.tags if not tag.startswith((".dagster/", "dagster/"))} == set()


@pytest.mark.long
def test_metadata_begins_with_totals_and_counts_and_hides_the_counters(world: Installation) -> None:
    keys = world.register(FileType.MEDIA_ATTACHMENTS)[FileType.MEDIA_ATTACHMENTS]
    expected, lost = (world.instance.objects_of("media_attachments"), world.instance.missing_of("media_attachments"))
    lists = []
    for key in keys:
        (event,) = world.run("sync_media_attachments", key).asset_materializations_for_node("media_attachments.report")
        lists.append(str(event.metadata["missing and failed"].value))
    names = list(event.metadata)
    assert names[:7] == ["all ID ranges", "copied", "missing", "failed", "present", "size copied", "duration"]
    assert event.metadata["created"].value
    plots = [name for name, value in event.metadata.items() if isinstance(value.value, int | float)]
    assert {*plots} - {"database_read_at"} == {"copied", "missing", "failed", "present", "objects/s", "MB/s"}
    # Of all ranges, not of the one that ran last.
    size = summaries.size_text(sum(each.size for each in expected))
    assert event.metadata["all ID ranges"].value == (
        f"{len(keys)} of {len(keys)} ID ranges have run  \n{len(expected)} objects ({size}) at the destination  \n"
        f"{len(lost)} missing, 0 failed"
    )
    # Each missing object with what to do, in full length.
    shown = "\n".join(lists)
    for missing in lost:
        assert missing.key.rpartition("/")[2] in shown
    assert "tootctl media refresh" in shown
    assert "lost: it was uploaded here" in shown


@pytest.mark.long
def test_totals_and_status_count_a_range_in_which_objects_failed(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "20")
    monkeypatch.setenv("MASTOSYNC_MAX_ATTEMPTS", "1")
    keys = world.register(FileType.CUSTOM_EMOJIS)[FileType.CUSTOM_EMOJIS]
    objects, lost = len(world.instance.objects_of("custom_emojis")), len(world.instance.missing_of("custom_emojis"))
    some = {"ops": {"plan_changes": {"config": {"file_types": ["custom_emojis"]}}}}
    of_all = f"{len(keys)} of {len(keys)} ID ranges have run"

    # Of a run over the whole table.
    refuse(world, 3)
    assert not world.run("sync_changes", config=some).success
    run, there, open_, red = shown_totals(world.dagster)
    assert (run, there.split(" (")[0]) == (of_all, f"{objects - 3} objects")
    assert (open_, red) == (f"{lost} missing, 3 failed", "**ID ranges that have failed: 1**")
    assert f"{len(keys)}: {len(keys) - 1} materialized, 1 failed, 0 running, 0 not run yet" in status_of_emoji()
    steps = CliRunner().invoke(main, ["status"]).output
    assert "next        ID ranges have failed: mastosync report custom_emojis, then run them again" in steps

    # Of a run of its own, in which the other range that failed is mended: it does not end last.
    refuse(world, 2)
    assert not world.run("sync_custom_emojis", keys[0]).success
    assert world.run("sync_custom_emojis", keys[-1]).success
    assert shown_totals(world.dagster)[2:] == [f"{lost} missing, 2 failed", "**ID ranges that have failed: 1**"]
    # What has failed stands on the page of the range.
    (failed,) = failures(world.dagster, dg.AssetKey("custom_emojis"))
    assert failed.partition == keys[0]
    assert world.instance.objects_of("custom_emojis")[0].key.rpartition("/")[2] in failed.values["missing and failed"]
    assert failed.run_id in runs_to_keep(world.dagster)

    world.source_proxy.set_rules()
    assert world.run("sync_custom_emojis", keys[0]).success
    run, there, open_ = shown_totals(world.dagster)
    assert (run, there.split(" (")[0], open_) == (of_all, f"{objects} objects", f"{lost} missing, 0 failed")
    assert f"{len(keys)}: {len(keys)} materialized, 0 failed, 0 running, 0 not run yet" in status_of_emoji()


@pytest.mark.long
def test_a_range_whose_failed_objects_a_night_has_copied_is_called_failed_no_more(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "20")
    monkeypatch.setenv("MASTOSYNC_MAX_ATTEMPTS", "1")
    count = len(world.register(FileType.CUSTOM_EMOJIS)[FileType.CUSTOM_EMOJIS])
    of_emoji = {"file_types": ["custom_emojis"]}
    refuse(world, 3)
    assert not world.run("sync_changes", config={"ops": {"plan_changes": {"config": of_emoji}}}).success
    assert f"{count}: {count - 1} materialized, 1 failed, 0 running, 0 not run yet" in status_of_emoji()
    world.source_proxy.set_rules()
    of_changes = {**of_emoji, "changed_since": "last"}
    assert world.run("sync_changes", config={"ops": {"plan_changes": {"config": of_changes}}}).success
    assert f"{count}: {count} materialized, 0 failed, 0 running, 0 not run yet" in status_of_emoji()


@pytest.mark.long(cases=0)
def test_two_ranges_that_end_at_the_same_time_are_both_counted(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "20")
    one, other, *_ = world.register(FileType.CUSTOM_EMOJIS)[FileType.CUSTOM_EMOJIS]
    command = ["dagster", "job", "execute", "-m", "mastosync_dagster", "-j", "sync_custom_emojis"]
    ended: list[int] = []

    def meanwhile(entry: dg.EventLogEntry) -> None:
        # The first range has counted, and is not in the history yet.
        if "objects copied" in entry.user_message and not ended:
            ended.append(world.command(*command, "--tags", json.dumps({"dagster/partition": other})).returncode)

    run_id = str(uuid.uuid4())
    world.dagster.add_event_listener(run_id, meanwhile)
    assert world.run("sync_custom_emojis", one, run_id=run_id).success
    assert ended == [0]
    assert shown_totals(world.dagster)[0].startswith("2 of ")


@pytest.mark.long
def test_the_replica_is_red_when_no_night_has_ended_well_for_26_hours(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = build_definitions().resolve_asset_graph().get(dg.AssetKey("replica"))

    def state(hours: float) -> FreshnessState:
        monkeypatch.setattr(freshness_evaluator, "get_current_timestamp", lambda: time.time() + hours * 3600)
        context = LoadingContextForTest(world.dagster)
        return asyncio.run(TimeWindowFreshnessPolicyEvaluator().evaluate_freshness(context, node))

    assert world.dagster.freshness_enabled  # by dagster.yaml
    # A trial, or a run over some of the file types, is no night.
    assert world.run("sync_changes", config={"ops": {"plan_changes": {"config": {"limit": 1}}}}).success
    some = {"file_types": ["accounts", "backups"]}
    assert world.run("sync_changes", config={"ops": {"plan_changes": {"config": some}}}).success
    # Nor is one of less than the settings want, or into another bucket.
    assert world.run("sync_changes", config={"ops": {"plan_changes": {"config": {"local_only": True}}}}).success
    elsewhere = create_bucket(world.destination.server).name
    assert world.run("sync_changes", config={"resources": {"destination": {"config": {"bucket": elsewhere}}}}).success
    assert state(0) is FreshnessState.UNKNOWN
    assert world.run("sync_changes").success
    assert state(0) is FreshnessState.PASS
    assert state(25.9) is FreshnessState.PASS
    assert state(26.1) is FreshnessState.FAIL
    night = {"ops": {"plan_changes": {"config": {"changed_since": "last"}}}}
    assert world.run("sync_changes", config=night).success
    assert state(25.9) is FreshnessState.PASS
