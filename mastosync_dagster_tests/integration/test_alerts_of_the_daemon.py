"""Who hears of failed nights and ticks, from the services of an installation: only the faults are the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
from dataclasses import dataclass
from datetime import datetime, timezone
from email.message import EmailMessage
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus

from mastosync_dagster_tests.soak.units import production
from mastosync_dagster_tests.support.listener import SECRET, Listener, Mailbox, http_listener, mail_server
from mastosync_dagster_tests.support.proxy import Delay, Kind, Rule
from mastosync_dagster_tests.support.run_processes import holder_of
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mastosync_dagster_tests.soak.units import Production
    from mastosync_dagster_tests.support.installation import Installation

pytestmark = pytest.mark.timeout(1500)

SINCE_LAST = {"ops": {"plan_changes": {"config": {"changed_since": "last"}}}}
START, FAIL = "/start", "/fail"
PASSWORD, WRONG = "pa55-of-a-receiver", "wr0ng-secret-of-the-destination"
QUOTED = "words-of-the-history"
SECONDS = 400.0
"""More than two looks of the sensor that looks every four minutes."""
FAILED, ENDED = dg.DagsterRunStatus.FAILURE, {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}


@dataclass(frozen=True)
class Receivers:
    """Two receivers of Apprise, a webhook, and a monitor of nights."""

    webhook: Listener
    json: Listener
    mailbox: Mailbox
    monitor: Listener

    @property
    def settings(self) -> dict[str, str]:
        address = self.json.url.replace("http://", f"json://admin:{PASSWORD}@", 1)
        return {
            "MASTOSYNC_ALERT_WEBHOOK": self.webhook.url,
            "MASTOSYNC_ALERT_URLS": f"{address} {self.mailbox.url}",
            "MASTOSYNC_PING_URL": self.monitor.url,
        }

    def texts(self) -> dict[str, str]:
        """Return all that each receiver of messages was sent so far."""
        return {
            "webhook": "\n".join(self.webhook.messages),
            "json": "\n".join(json.loads(body)["message"] for body in self.json.taken),
            "mail": "\n".join(map(text_of, self.mailbox.mails)),
        }

    def counts(self, words: list[str]) -> dict[str, list[int]]:
        """Return how often each receiver was sent each of some words."""
        return {name: [text.count(word) for word in words] for name, text in self.texts().items()}

    def everything(self) -> str:
        """Return all that left the machine, headers of mails and pings included."""
        mails = "\n".join(str(mail.items()) for mail in self.mailbox.mails)
        requests = "\n".join(body for each in (self.webhook, self.json, self.monitor) for _, _, body in each.requests)
        return "\n".join((mails, requests, *self.texts().values()))


def text_of(mail: EmailMessage) -> str:
    part = mail.get_body(("plain", "html"))
    assert isinstance(part, EmailMessage)
    return str(part.get_content())


@dataclass(frozen=True)
class Services:
    """The services of an installation in which each minute is a night, and who hears of it."""

    world: Installation
    made: Production
    dagster: dg.DagsterInstance
    heard: Receivers

    def runs(self, *statuses: dg.DagsterRunStatus) -> list[dg.DagsterRun]:
        return list(self.dagster.get_runs(dg.RunsFilter(statuses=list(statuses)) if statuses else None))

    def ticks(self, name: str) -> list[InstigatorTick]:
        """Return the ticks of a schedule or sensor that are over, the newest first."""
        return [
            tick
            for state in self.dagster.all_instigator_state()
            if state.instigator_name == name
            for tick in self.dagster.get_ticks(state.instigator_origin_id, state.selector_id)
            if tick.status is not TickStatus.STARTED
        ]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        def holds() -> bool:
            self.made.check()
            return condition()

        wait_until(holds, SECONDS)

    def wait_for_look(self, sensor: str) -> None:
        """Wait until a sensor has looked once more."""
        before = len(self.ticks(sensor))
        self.wait_for(lambda: len(self.ticks(sensor)) > before)

    def schedule(self, what: str) -> None:
        """Switch the nights on or off: ``start`` or ``stop``."""
        self.made.command("dagster", "schedule", what, "nightly_incremental", "-m", "mastosync_dagster")

    def correct(self, wrong: str, right: str) -> None:
        """Edit the file of settings."""
        file = self.made.home / "mastosync.env"
        text = file.read_text()
        assert wrong in text
        file.write_text(text.replace(wrong, right))

    def record(self, statement: str) -> None:
        """Do something to the file in which Dagster's history keeps its runs."""
        with contextlib.closing(sqlite3.connect(self.made.home / "history" / "runs.db", timeout=60)) as connection:
            connection.execute(statement)
            connection.commit()

    def check_secrets(self, folder: Path) -> None:
        """Fail if a secret of the settings is in a message, in a ping or in the log of a service."""
        world = self.world
        secrets = {SECRET, PASSWORD, WRONG, world.database.url}
        secrets |= {world.source.server.secret_access_key, world.destination.server.secret_access_key}
        logs = {log.name: log.read_text(errors="replace") for log in folder.glob("*.log")}
        assert len(logs) == 3
        said = {"messages": self.heard.everything(), **logs}
        assert {name for name, text in said.items() if any(secret in text for secret in secrets)} == set()


@contextlib.contextmanager
def receivers() -> Iterator[Receivers]:
    with (
        http_listener() as webhook,
        http_listener() as of_apprise,
        mail_server() as mailbox,
        http_listener() as monitor,
    ):
        yield Receivers(webhook, of_apprise, mailbox, monitor)


@contextlib.contextmanager
def services(world: Installation, folder: Path, **settings: str) -> Iterator[Services]:
    """Start the services, and wait until both sensors have looked: what was before that is old to them."""
    folder.mkdir()
    written = {name: value for name, value in world.environment.items() if name != "DAGSTER_HOME"}
    # No table fills a range: a night is one run.
    written |= {"MASTOSYNC_NIGHTLY_CRON": "* * * * *", "MASTOSYNC_ROWS_PER_PARTITION": "1000"}
    with (
        receivers() as heard,
        production(folder, {**written, **heard.settings, **settings}) as made,
        dg.DagsterInstance.from_config(str(made.home)) as dagster,
    ):
        found = Services(world, made, dagster, heard)
        found.wait_for(lambda: bool(found.ticks("alert_on_failure") and found.ticks("alert_on_failed_tick")))
        yield found


@pytest.mark.alerts
def test_a_failed_night_and_a_killed_one_are_told_to_everybody_once(world: Installation, tmp_path: Path) -> None:
    folder, proxy = tmp_path / "made", world.destination_proxy
    with services(world, folder, DESTINATION_AWS_SECRET_ACCESS_KEY=WRONG) as found:
        heard = found.heard
        found.schedule("start")
        found.wait_for(lambda: bool(found.runs(FAILED)))
        found.schedule("stop")
        found.wait_for(lambda: all(run.status is FAILED for run in found.runs()))
        nights = len(found.runs())

        found.correct(WRONG, world.destination.server.secret_access_key)
        proxy.set_rules(Rule(Delay(5), kinds=frozenset({Kind.PUT})))
        before = proxy.count(Kind.PUT)
        # One that is not started again: what else a monitor is sent then is in test_twenty_nights.py.
        killed = found.made.webserver.launch("sync_changes", SINCE_LAST, {"dagster/max_retries": "0"})
        found.wait_for(lambda: proxy.count(Kind.PUT) > before)
        os.kill(holder_of(found.made.home, killed).pid, signal.SIGKILL)
        found.wait_for(lambda: len(found.runs(FAILED)) == nights + 1)

        words = [f"(run {run.run_id})" for run in found.runs()]
        found.wait_for(lambda: all(0 not in counts for counts in heard.counts(words).values()))
        found.wait_for(lambda: heard.monitor.paths.count(FAIL) > nights)
        found.wait_for_look("alert_on_failure")
        assert heard.counts(words) == dict.fromkeys(("webhook", "json", "mail"), [1] * len(words))
        assert heard.monitor.paths == [START, FAIL] * len(words)
        assert killed in heard.monitor.requests[-1][2]
        assert len(heard.webhook.requests) == len(heard.json.requests) == len(heard.mailbox.mails) == len(words)
        subjects = [str(mail["Subject"]) for mail in heard.mailbox.mails]
        assert all(subject.startswith("mastosync: sync_changes failed (run ") for subject in subjects)
        assert "DESTINATION_AWS_SECRET_ACCESS_KEY" in heard.texts()["webhook"]
    found.check_secrets(folder)


@pytest.mark.alerts
def test_ticks_that_fail_are_told_to_everybody_once_and_so_is_a_night_that_is_terminated(
    world: Installation, tmp_path: Path
) -> None:
    folder, proxy = tmp_path / "made", world.destination_proxy
    with services(world, folder) as found:
        heard = found.heard

        def failed() -> list[InstigatorTick]:
            return [tick for tick in found.ticks("nightly_incremental") if tick.status is TickStatus.FAILURE]

        # The history takes no run. What it says of that is for the daemon's log, and in no message.
        found.record(
            f"CREATE TRIGGER refuse BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'no more of {QUOTED}'); END"
        )
        found.schedule("start")
        found.wait_for(lambda: bool(failed()))
        assert found.runs() == []
        proxy.set_rules(Rule(Delay(30), kinds=frozenset({Kind.PUT})))
        found.record("DROP TRIGGER refuse")

        # A night goes on for days.
        found.wait_for(lambda: proxy.count(Kind.PUT) > 0)
        refused = len(failed())
        found.record("UPDATE runs SET create_timestamp = datetime(create_timestamp, '-3 days')")
        found.wait_for(lambda: len(failed()) > refused)
        found.schedule("stop")
        (night,) = found.runs()
        found.made.webserver.terminate(night.run_id)
        found.wait_for(lambda: found.runs()[0].status in ENDED)
        proxy.set_rules()

        times = [datetime.fromtimestamp(tick.timestamp, timezone.utc).isoformat(" ", "seconds") for tick in failed()]
        words = [f"failed at {time}" for time in times]
        found.wait_for(lambda: all(0 not in counts for counts in heard.counts(words).values()))
        found.wait_for_look("alert_on_failed_tick")
        assert heard.counts(words) == dict.fromkeys(("webhook", "json", "mail"), [1] * len(words))
        assert heard.texts()["webhook"].count(" failed at ") == len(words)
        assert all("incremental failed at" in line for line in heard.texts()["webhook"].splitlines())
        assert heard.monitor.paths == [START, FAIL]
        assert "was ended before its time" in heard.monitor.requests[-1][2]
        assert QUOTED not in heard.everything()
    found.check_secrets(folder)
