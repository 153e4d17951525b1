"""``mastosync night``: all that the schedule of a night requests, in one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.storage.tags import WILL_RETRY_TAG

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.runs.watermarks import NIGHT
from mastosync_dagster_tests.support.installation import PROJECT
from mastosync_dagster_tests.support.listener import SECRET, http_listener, mail_server
from mastosync_dagster_tests.support.proxy import Answer, Delay, Kind, Rule
from mastosync_dagster_tests.support.tcp_proxy import tcp_proxy
from mastosync_dagster_tests.support.terminal import executable
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster_tests.support.installation import Installation
    from mastosync_dagster_tests.support.life import Life

ACCOUNTS = dg.AssetKey("accounts")


def new_accounts(life: Life) -> list[str]:
    """Let two ID ranges of accounts fill, and return the ranges that were there before."""
    life.world.register()
    life.set_rows_per_partition(3)
    for _ in range(7):
        life.living.sign_up()
    return list(life.world.dagster.get_dynamic_partitions("accounts_ids"))


def night() -> tuple[int, str]:
    """Run the command in this process. Returns its exit status and output."""
    outcome = CliRunner().invoke(main, ["night"])
    assert outcome.exception is None or isinstance(outcome.exception, SystemExit), outcome.exception
    return outcome.exit_code, outcome.output


@pytest.mark.long
def test_a_night_copies_what_has_changed_and_new_ranges_and_leaves_nothing_open(life: Life) -> None:
    before, dagster = new_accounts(life), life.world.dagster
    status, output = night()
    assert status == 0, output
    # A night never takes what lies in the ranges that were there before it.
    assert "ID ranges have not run yet, and no night takes them" in output
    new = [key for key in dagster.get_dynamic_partitions("accounts_ids") if key not in before]
    assert len(new) == 2
    assert set(new) <= dagster.get_materialized_partitions(ACCOUNTS)
    assert len(life.watermarks()) == 6
    (backfill,) = dagster.get_backfills()
    assert (backfill.status, backfill.backfill_end_timestamp is None) == (BulkActionStatus.COMPLETED_SUCCESS, False)
    runs = dagster.get_runs()
    assert [run.tags[NIGHT] for run in runs] == ["range", "range", "changes"]  # newest first

    # A range whose process died in the night before is run again; the one that succeeded is not.
    dagster.update_backfill(backfill.with_status(BulkActionStatus.REQUESTED))  # type: ignore[no-untyped-call]  # Dagster's
    died = runs[0]
    dagster.delete_run(died.run_id)
    dagster.add_run(died.with_status(dg.DagsterRunStatus.FAILURE).with_tags({**died.tags, WILL_RETRY_TAG: "true"}))
    status, output = night()
    assert (status, output.count("New ID range")) == (0, 1), output
    assert "New ID range 2 of 2" in output
    (backfill,) = dagster.get_backfills()
    assert backfill.status is BulkActionStatus.COMPLETED_SUCCESS


@pytest.mark.long
def test_a_night_that_fails_says_so_by_its_status_and_by_an_alert(world: Installation) -> None:
    with http_listener() as alerts, mail_server() as mailbox, http_listener() as monitor:
        settings = {
            "MASTOSYNC_ALERT_WEBHOOK": alerts.url,
            "MASTOSYNC_ALERT_URLS": mailbox.url,
            "MASTOSYNC_PING_URL": monitor.url,
            "NO_PROXY": "127.0.0.1",
        }
        world.destination_proxy.set_rules(Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.PUT})))
        ended = world.command("mastosync", "night", **settings, MASTOSYNC_ROWS_PER_PARTITION="1000")
        assert (ended.returncode, ended.stderr) == (1, "")
        # No table fills a range.
        (message,) = alerts.messages
        assert message.startswith("mastosync: sync_changes failed (run ")
        (mail,) = mailbox.mails
        assert mail["Subject"].startswith("mastosync: sync_changes failed (run ")
        assert monitor.paths == ["/start", "/fail"]

        ended = world.command("mastosync", "night", **settings, S3_BUCKET="absent")
        assert ended.returncode == 1
        assert "S3_BUCKET" in ended.stderr
        assert alerts.messages[-1].startswith("mastosync: the night could not begin: ")
        assert "the night could not begin" in mailbox.mails[-1]["Subject"]
        assert monitor.paths == ["/start", "/fail", "/fail"]
        assert SECRET not in ended.stdout + ended.stderr
    assert [run.status for run in world.dagster.get_runs()] == [dg.DagsterRunStatus.FAILURE]


def test_a_night_whose_home_cannot_be_opened_says_so_by_an_alert(world: Installation, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("storage: {postgres: {postgres_url: {env: NOBODY_HAS_SET_IT}}}")
    with http_listener() as alerts, http_listener() as monitor:
        settings = {"MASTOSYNC_ALERT_WEBHOOK": alerts.url, "MASTOSYNC_PING_URL": monitor.url, "NO_PROXY": "127.0.0.1"}
        ended = world.command("mastosync", "night", **settings, DAGSTER_HOME=str(tmp_path))
        assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1), ended.stderr
        (message,) = alerts.messages
        assert message.startswith("mastosync: the night could not begin: ")
        assert "NOBODY_HAS_SET_IT" in message
        assert monitor.paths == ["/fail"]


@pytest.mark.long(cases=0)
def test_a_night_waits_for_a_history_that_is_being_started_again(
    world: Installation, database: PostgresServer, tmp_path: Path
) -> None:
    with tcp_proxy(database.port) as before:
        url = f"postgresql+psycopg2://{database.user}:{database.password}@127.0.0.1:{before.port}/{database.database}"
        (tmp_path / "dagster.yaml").write_text(f"storage: {{postgres: {{postgres_url: '{url}'}}}}")
        with ThreadPoolExecutor(1) as beside:
            with before.gone():
                night = beside.submit(world.command, "mastosync", "night", DAGSTER_HOME=str(tmp_path))
                wait_until(lambda: before.accepted > 0, 60)
            ended = night.result()
    assert ended.returncode == 0, ended.stderr
    assert "cannot be reached" in ended.stderr
    assert "Dagster's history answers again" in ended.stderr


@pytest.mark.long
def test_a_night_of_which_a_new_range_fails_is_not_called_good(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    new_accounts(life)

    def deny_listings_after_the_changed_rows() -> None:
        wait_until(lambda: "" in monitor.paths, 60)
        life.world.source_proxy.set_rules(Rule(Answer(400, "InvalidRequest"), kinds=frozenset({Kind.LIST})))

    with http_listener() as monitor, ThreadPoolExecutor(1) as beside:
        monkeypatch.setenv("MASTOSYNC_PING_URL", monitor.url)
        denied = beside.submit(deny_listings_after_the_changed_rows)
        status, output = night()
        denied.result()
    assert status == 1, output
    assert [run.status for run in life.world.dagster.get_runs(limit=3)] == [
        *[dg.DagsterRunStatus.FAILURE] * 2,
        dg.DagsterRunStatus.SUCCESS,
    ]
    assert monitor.paths == ["/start", "", "/fail"]
    (backfill,) = life.world.dagster.get_backfills()
    assert backfill.status is BulkActionStatus.COMPLETED_FAILED


@pytest.mark.long(cases=0)
def test_a_second_night_says_that_one_is_running_and_a_signal_ends_the_first_as_a_sync(world: Installation) -> None:
    world.destination_proxy.set_rules(Rule(Delay(0.2), kinds=frozenset({Kind.PUT})))
    environment = {**os.environ, **world.environment, "MASTOSYNC_CONCURRENCY": "2", "NO_PROXY": "127.0.0.1"}
    bucket = world.destination
    with (
        http_listener() as monitor,
        subprocess.Popen(
            [executable("mastosync"), "night"],
            cwd=PROJECT,
            env={**environment, "MASTOSYNC_PING_URL": monitor.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as first,
    ):
        try:
            wait_until(lambda: first.poll() is not None or bool(list_keys(bucket.server, bucket.name)), 80)
            second = world.command("mastosync", "night")
            assert second.returncode == 1, second.stdout
            assert "Another `mastosync night` is running in " in second.stderr
            monitor.delay = 60  # a monitor that does not answer holds up no end
            first.send_signal(signal.SIGTERM)
        finally:
            if sys.exc_info()[0]:
                first.kill()
            output, _ = first.communicate(timeout=20)
    assert first.returncode == 128 + signal.SIGTERM
    assert "Stopped by SIGTERM" in output
    assert [run.status for run in world.dagster.get_runs()] == [dg.DagsterRunStatus.CANCELED]
    assert monitor.paths == ["/start", "/fail"]
    assert "sync_changes was ended before its time" in monitor.requests[-1][2]
