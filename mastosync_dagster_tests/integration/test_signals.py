"""Who hears of a run, against a real HTTP server and a real mail server: at every event, and whatever they answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dagster as dg
import pytest
from dagster._core.storage.tags import WILL_RETRY_TAG

from mastosync_dagster.alerts import alert_on_failure, deliver
from mastosync_dagster.alerts.nights import Signal, ping
from mastosync_dagster.demo.servers.start import free_port
from mastosync_dagster.runs.watermarks import NIGHT as NIGHT_TAG
from mastosync_dagster_tests.support.listener import SECRET, Listener, Mailbox, http_listener, mail_server
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster_tests.support.installation import Installation

NIGHT = {"ops": {"plan_changes": {"config": {"changed_since": "last"}}}}
TEXT = "mastosync: sync\\_changes failed (run 1)\n2 of 3 objects failed"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mastosync_dagster.alerts.requests._PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    with http_listener() as found:
        monkeypatch.setenv("MASTOSYNC_PING_URL", found.url)
        yield found


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    with mail_server() as found:
        monkeypatch.setenv("MASTOSYNC_ALERT_URLS", found.url)
        yield found


def warnings_of(world: Installation, run_id: str) -> list[str]:
    return [entry.user_message for entry in world.dagster.all_logs(run_id) if entry.level == 30]


def death_of(world: Installation, **tags: str) -> Any:
    """Return what Dagster gives to a run-failure sensor of a night whose process has died."""
    run = dg.DagsterRun("sync_changes", run_id=str(uuid4()), tags={NIGHT_TAG: "changes", **tags})
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_FAILURE.value, run.job_name, message="the process is gone")
    return dg.build_run_status_sensor_context(
        sensor_name="alert_on_failure", dagster_event=event, dagster_instance=world.dagster, dagster_run=run
    ).for_run_failure()


# --- the ping --------------------------------------------------------------------------------------------------------


@pytest.mark.long(cases=0)
def test_a_night_pings_its_start_and_its_end_and_nothing_else_does(
    world: Installation, listener: Listener, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.source_proxy.set_rules(Rule(Answer(400, "InvalidRequest"), kinds=frozenset({Kind.GET}), times=2))
    assert not world.run("sync_changes", config=NIGHT).success
    assert listener.paths == ["/start", "/fail"]
    assert "2 failed" in listener.requests[-1][2]
    assert world.source.server.secret_access_key not in listener.requests[-1][2]

    listener.requests.clear()
    world.source_proxy.set_rules()
    for trial in ({"limit": 1}, {"limit": 1, "changed_since": "last"}, {"offset": 1, "changed_since": " last "}):
        assert world.run("sync_changes", config={"ops": {"plan_changes": {"config": trial}}}).success
    assert listener.requests == []  # a trial is no night
    # One that leaves out what the settings want moves no watermark of theirs: it has begun, and was not good.
    narrow = {"ops": {"plan_changes": {"config": {"changed_since": "last", "local_only": True}}}}
    assert world.run("sync_changes", config=narrow).success
    assert listener.paths == ["/start"]
    listener.requests.clear()

    assert world.run("sync_changes", config=NIGHT).success
    assert listener.paths == ["/start", ""]
    assert "the night was good" in listener.requests[-1][2]
    assert mailbox.mails == []  # not switched on
    monkeypatch.setenv("MASTOSYNC_ALERT_GOOD_NIGHTS", "true")
    assert world.run("sync_changes", config=NIGHT).success
    assert "the night was good" in mailbox.mails.pop()["Subject"]

    listener.requests.clear()
    monkeypatch.setenv("DATABASE_URL", f"postgresql://x:y@127.0.0.1:{free_port()}/z")
    assert not world.run("sync_changes", config=NIGHT).success
    assert listener.paths == ["/start", "/fail"]
    assert "DATABASE_URL" in listener.requests[-1][2]

    listener.requests.clear()
    alert_on_failure(death_of(world))
    assert listener.paths == ["/fail"]
    assert "the process is gone" in listener.requests[0][2]
    assert "the process is gone" in mailbox.mails[0].as_string()


def test_the_death_of_a_night_that_is_started_again_is_no_ping_since_it_would_come_after_its_success(
    world: Installation, listener: Listener, mailbox: Mailbox
) -> None:
    alert_on_failure(death_of(world, **{WILL_RETRY_TAG: "true"}))
    assert listener.requests == []
    assert "It is started again by itself." in mailbox.mails[0].as_string()
    alert_on_failure(death_of(world, **{WILL_RETRY_TAG: "false"}))
    assert listener.paths == ["/fail"]
    assert "started again" not in mailbox.mails[1].as_string()


@pytest.mark.long
def test_a_listener_that_fails_fails_no_night_and_the_log_says_so_without_its_url(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/ping/{SECRET}"
    for name, value in {"PING_URL": nowhere, "ALERT_URLS": nowhere.replace("http", "json")}.items():
        monkeypatch.setenv(f"MASTOSYNC_{name}", value)
    monkeypatch.setenv("MASTOSYNC_ALERT_GOOD_NIGHTS", "true")
    result = world.run("sync_changes", config=NIGHT)
    assert result.success
    warned = "\n".join(warnings_of(world, result.run_id))
    assert warned.count("the monitor of MASTOSYNC_PING_URL did not take the ping: it cannot be reached") == 2
    assert "address 1 of 1 in MASTOSYNC_ALERT_URLS (json://): it did not take the message" in warned
    assert SECRET not in "\n".join(str(entry) for entry in world.dagster.all_logs(result.run_id))


@pytest.mark.parametrize("signal", Signal)
@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([], None),
        ([404] * 3, "it answers 404"),
        ([500] * 3, "it answers 500"),
        ([301, 200], "it redirects (301): set MASTOSYNC_PING_URL to the address"),
        ([302, 200], "it redirects (302): set MASTOSYNC_PING_URL to the address"),
    ],
)
def test_every_answer_is_understood(listener: Listener, signal: Signal, answers: list[int], says: str | None) -> None:
    listener.answers = list(answers)
    why = ping(signal, "text")
    assert set(listener.requests) == {(signal.value, "POST", "text")}
    assert (why is None) == (says is None)
    assert says is None or says in (why or "")
    assert SECRET not in (why or "")


def test_the_ping_of_an_end_has_a_second_attempt_and_that_of_a_start_delays_no_night(listener: Listener) -> None:
    listener.answers = [503]
    assert ping(Signal.SUCCESS) is None
    assert listener.paths == ["", ""]
    listener.answers = [503]
    assert ping(Signal.START) is not None
    assert listener.paths == ["", "", "/start"]


def test_a_slow_listener_is_left(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mastosync_dagster.alerts.requests._TIMEOUT_SECONDS", 0.2)
    listener.delay = 1
    assert "it cannot be reached (TimeoutError)" in (ping(Signal.START) or "")


def test_receivers_that_hang_are_left_together(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mastosync_dagster.alerts.requests._ALL_SECONDS", 1.0)
    listener.delay = 8
    silent = listener.url.replace("http", "json")
    monkeypatch.setenv("MASTOSYNC_ALERT_URLS", f"{silent} {silent} {silent}")
    monkeypatch.setenv("MASTOSYNC_ALERT_WEBHOOK", listener.url)
    began = time.monotonic()
    delivery = deliver(TEXT)
    assert time.monotonic() - began < 4
    assert (delivery.taken, len(delivery.problems)) == (0, 4)
    assert all("it did not answer within 1 s" in problem for problem in delivery.problems)


def test_the_query_of_a_url_stays_and_an_odd_url_is_named_by_its_variable(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_PING_URL", f"{listener.url}/?rid=1")
    assert ping(Signal.FAIL) is None
    assert listener.paths == ["/fail?rid=1"]
    for url in (f"ftp://x/{SECRET}", f"https://[x/{SECRET}", f"http://x/{SECRET} y"):
        monkeypatch.setenv("MASTOSYNC_PING_URL", url)
        why = ping(Signal.START) or ""
        assert "MASTOSYNC_PING_URL must be an http:// or https:// URL" in why
        assert SECRET not in why


# --- Apprise ---------------------------------------------------------------------------------------------------------


def test_mail_has_the_title_and_the_whole_message(mailbox: Mailbox) -> None:
    assert deliver(TEXT).taken == 1
    (mail,) = mailbox.mails
    assert mail["Subject"] == "mastosync: sync_changes failed (run 1)"
    assert "2 of 3 objects failed" in mail.as_string()


def test_every_receiver_is_tried_and_one_that_fails_is_named_by_its_number(
    listener: Listener, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"json://user:{SECRET}@127.0.0.1:{free_port()}/"
    monkeypatch.setenv("MASTOSYNC_ALERT_URLS", f"{nowhere} {mailbox.url} nonsense://{SECRET}")
    monkeypatch.setenv("MASTOSYNC_ALERT_WEBHOOK", listener.url)
    delivery = deliver(TEXT)
    assert (delivery.taken, len(mailbox.mails), len(listener.requests)) == (2, 1, 1)
    refused, unknown = delivery.problems
    assert "address 1 of 3 in MASTOSYNC_ALERT_URLS (json://): it did not take the message" in refused
    assert "address 3 of 3 in MASTOSYNC_ALERT_URLS (nonsense://): Apprise knows no such address" in unknown
    assert SECRET not in refused + unknown
    delivery.raise_if_lost()


@pytest.mark.parametrize("status", [301, 302, 307, 500])
def test_an_address_that_redirects_or_refuses_has_not_taken_it(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    listener.answers = [status] * 3
    monkeypatch.setenv("MASTOSYNC_ALERT_URLS", listener.url.replace("http", "json", 1))
    delivery = deliver(TEXT)
    assert delivery.taken == 0
    with pytest.raises(Exception, match="did not take the message"):
        delivery.raise_if_lost()
    assert listener.paths == [""] * 3
    assert SECRET not in "".join(capfd.readouterr())
