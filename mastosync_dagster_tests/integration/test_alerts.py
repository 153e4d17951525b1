"""A webhook, a real server on loopback, receives a message about a failed run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_shared.error import SerializableErrorInfo

from mastosync_dagster.alerts import AlertError, alert_on_failed_tick, alert_on_failure, failure_message, post_alert
from mastosync_dagster.cli.main import main
from mastosync_dagster.environment import SettingsError
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.listener import Listener, http_listener
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster_tests.support.installation import Installation


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setattr("mastosync_dagster.alerts.requests._PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http_listener() as served:
        yield served


def failed_context(world: Installation, result: dg.ExecuteInProcessResult) -> Any:
    """Return what Dagster gives to a run-failure sensor."""
    record = next(event for event in result.all_events if event.event_type is dg.DagsterEventType.RUN_FAILURE)
    run = world.dagster.get_run_by_id(result.run_id)
    assert run is not None
    return dg.build_run_status_sensor_context(
        sensor_name="alert_on_failure", dagster_event=record, dagster_instance=world.dagster, dagster_run=run
    ).for_run_failure()


def test_the_message_names_the_range_the_counts_and_the_first_reasons(
    world: Installation, webhook: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_ALERT_WEBHOOK", webhook.url)
    key = world.register(FileType.ACCOUNTS)[FileType.ACCOUNTS][0]
    world.source_proxy.set_rules(Rule(Answer(400, "InvalidRequest"), kinds=frozenset({Kind.GET}), times=2))
    result = world.run("sync_accounts", key)
    assert not result.success

    alert_on_failure(failed_context(world, result))

    (text,) = webhook.messages
    assert text.startswith(f"mastosync: sync_accounts {key} failed (run {result.run_id})")
    assert "2 of " in text
    assert "2 failed" in text
    assert text.count("unexpected: accounts/") + text.count("unexpected: cache/accounts/") == 2
    assert world.source.server.secret_access_key not in text
    assert webhook.url not in text


def test_a_run_that_could_not_begin_says_what_to_change(
    world: Installation, webhook: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_ALERT_WEBHOOK", webhook.url)
    monkeypatch.setenv("S3_BUCKET", "absent")
    result = world.run("sync_changes")
    alert_on_failure(failed_context(world, result))
    text = webhook.messages[0]
    assert text.startswith("mastosync: sync_changes failed")
    assert "S3_BUCKET" in text


def test_an_error_that_nobody_expected_is_named_by_its_kind_and_without_what_it_quotes(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*_: object) -> None:
        raise LookupError("s3cr3t")

    monkeypatch.setattr("mastosync_dagster.runs.context.ensure_two_places", surprise)
    result = world.run("sync_changes")
    text = failure_message(failed_context(world, result))
    assert "LookupError in plan_changes: see the log of the run" in text
    assert "s3cr3t" not in text
    outcome = CliRunner().invoke(main, ["sync", "accounts"])
    assert outcome.exit_code == 1
    assert "LookupError: s3cr3t" in outcome.output


def test_without_a_webhook_the_tick_says_that_nothing_was_sent(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_BUCKET", "absent")
    result = world.run("sync_changes")
    skipped = alert_on_failure(failed_context(world, result))
    assert isinstance(skipped, dg.SkipReason)
    assert "MASTOSYNC_ALERT_WEBHOOK and MASTOSYNC_ALERT_URLS are not set" in (skipped.skip_message or "")


def test_a_webhook_that_fails_is_retried(webhook: Listener) -> None:
    webhook.answers = [500, 503]
    post_alert(webhook.url, "hello")
    assert webhook.messages == ["hello"]


def test_one_that_does_not_take_it_is_named_by_its_variable_and_not_by_its_url(webhook: Listener) -> None:
    webhook.answers = [404] * 3
    with pytest.raises(AlertError, match=r"MASTOSYNC_ALERT_WEBHOOK did not take .*: it answers 404") as caught:
        post_alert(webhook.url, "hello")
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(AlertError, match="cannot be reached"):
        post_alert("http://127.0.0.1:1/s3cr3t", "hello")


@pytest.mark.parametrize("status", [301, 302, 303, 307])
def test_a_webhook_that_redirects_is_not_taken_for_one_that_has_the_message(webhook: Listener, status: int) -> None:
    webhook.answers = [status, 200]
    with pytest.raises(AlertError, match=f"it redirects .{status}.: set MASTOSYNC_ALERT_WEBHOOK to the address"):
        post_alert(webhook.url, "hello")
    assert webhook.messages == []


@pytest.mark.parametrize(
    "url",
    ["hooks.example.com/x", "file:///etc/passwd", "https://", "https:///x", "https://[x/s3cr3t"]
    + [
        "https://hooks.example.com/s3cr3t\n",
        "https://hooks.example.com/s3\r\ncr3t",
        "https://hooks.example.com/s3cr3t…",
    ],
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises((SettingsError, AlertError), match="MASTOSYNC_ALERT_WEBHOOK") as caught:
        post_alert(url, "hello")
    assert "s3" not in str(caught.value)


def test_a_slow_receiver_ends_a_tick_before_dagster_does_so_that_nobody_is_told_twice(
    world: Installation, webhook: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mastosync_dagster.alerts.requests._ALL_SECONDS", 0.3)
    monkeypatch.setattr("mastosync_dagster.alerts.sensors._SLOW_SECONDS", 0.2)
    dagster, cursor = world.dagster, None
    runs = [dg.DagsterRun("sync_accounts", str(uuid4()), status=dg.DagsterRunStatus.STARTED) for _ in range(3)]

    def evaluate() -> dg.SensorExecutionData:
        nonlocal cursor
        with dg.build_sensor_context(instance=dagster, cursor=cursor) as context:
            data = alert_on_failure.evaluate_tick(context)
        cursor = data.cursor
        return data

    evaluate()
    for run in runs:
        dagster.add_run(run)
        dagster.report_run_failed(run, "gone")
    with http_listener() as silent:
        silent.delay = 2
        monkeypatch.setenv("MASTOSYNC_ALERT_URLS", silent.url.replace("http", "json", 1))
        monkeypatch.setenv("MASTOSYNC_ALERT_WEBHOOK", webhook.url)
        for number, run in enumerate(runs[:2], 1):
            (reaction,) = evaluate().dagster_run_reactions
            assert reaction.error is None
            assert len(webhook.messages) == number
            assert run.run_id in webhook.messages[-1]
        # Where nobody takes it, the tick fails, and ends as well.
        monkeypatch.delenv("MASTOSYNC_ALERT_WEBHOOK")
        (reaction,) = evaluate().dagster_run_reactions
        assert "did not answer within" in str(reaction.error)
    assert evaluate().dagster_run_reactions == []


def test_a_tick_that_fails_is_reported_once_and_those_of_the_alerts_never(
    world: Installation, webhook: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_ALERT_WEBHOOK", webhook.url)
    cursor: str | None = None

    def evaluate() -> dg.SensorExecutionData:
        nonlocal cursor
        with dg.build_sensor_context(instance=world.dagster, cursor=cursor) as context:
            data = alert_on_failed_tick.evaluate_tick(context)
        cursor = data.cursor
        return data

    fail_tick(world.dagster, "new_ranges")
    evaluate()
    assert webhook.messages == []  # what was before the first evaluation is old
    fail_tick(world.dagster, "nightly_incremental")
    fail_tick(world.dagster, "alert_on_failure")
    evaluate()
    (message,) = webhook.messages
    assert "nightly_incremental failed at 20" in message
    assert "s3cret" not in message
    evaluate()
    assert len(webhook.messages) == 1


def fail_tick(instance: dg.DagsterInstance, name: str) -> None:
    """Have a tick of a schedule or sensor on record that has failed."""
    origin = RemoteInstigatorOrigin(
        RemoteRepositoryOrigin(InProcessCodeLocationOrigin(LoadableTargetOrigin()), "repository"), name
    )
    kind = InstigatorType.SENSOR
    state = InstigatorState(origin, kind, InstigatorStatus.RUNNING, SensorInstigatorData())
    instance.add_instigator_state(state)
    error = SerializableErrorInfo("s3cret", [], "DagsterUserCodeUnreachableError")
    instance.create_tick(
        TickData(
            origin.get_id(), name, kind, TickStatus.FAILURE, time.time(), selector_id=state.selector_id, error=error
        )
    )
