"""Dagster's history in a PostgreSQL that falls silent: runs wait for it, and a signal waits for nothing."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg2
import pytest
import yaml

from mastosync_dagster.demo.servers.start import PostgresServer, postgres
from mastosync_dagster.installation.services import PROGRAM
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster_tests.silence.site import PROJECT, SLOWLY, SYNC, Ended, Site
from mastosync_dagster_tests.support.corners import create_database
from mastosync_dagster_tests.support.waiting import slowdown, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mastosync_dagster.records.manifest import ManifestLine

COMMAND = (*SYNC, "--concurrency", "1")
SECONDS = 8.0
"""Seconds for what is in flight (1 s), for the manifest, for the history (3 s), and for the process to end."""
AT_ONCE = 15.0
IN_FLIGHT = 5
"""At so many requests a second a run with the usual concurrency has no more of them in flight."""
DAEMON_IS_BUSY = 10.0
"""Seconds after which its threads have begun, and later wait for a silent history."""

pytestmark = pytest.mark.timeout(400)


@dataclass(frozen=True)
class History:
    """A PostgreSQL on the host ``history``, for the histories of some homes."""

    site: Site
    server: PostgresServer

    def home(self, name: str) -> tuple[str, PostgresServer]:
        """Make a Dagster home whose history is a new database there: with its URL alone, and no limit."""
        with self.site.network.inside("history"):
            database = create_database(self.server)
        home = self.site.folder / name
        home.mkdir()
        settings = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
        url = database.url.replace("postgresql://", "postgresql+psycopg2://")
        settings["storage"] = {"postgres": {"postgres_url": url}}
        (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
        return name, database

    def statuses(self, database: PostgresServer) -> list[str]:
        """Return what a history calls its runs, the oldest first."""
        with self.connection(database) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT status FROM runs ORDER BY id")
            return [str(status) for (status,) in cursor.fetchall()]

    def ports_that_wait(self, database: PostgresServer) -> list[int]:
        """Return the clients' own ports of the connections that wait for a lock."""
        with self.connection(database) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT client_port FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock'"
            )
            return [int(port) for (port,) in cursor.fetchall()]

    @contextlib.contextmanager
    def locked(self, database: PostgresServer) -> Iterator[None]:
        """Let whoever writes an event wait as long as the block runs."""
        with self.connection(database) as locker:
            locker.cursor().execute("LOCK TABLE event_logs IN ACCESS EXCLUSIVE MODE")
            yield

    @contextlib.contextmanager
    def connection(self, database: PostgresServer) -> Iterator[psycopg2.extensions.connection]:
        """Yield a connection from the server's own host."""
        with self.site.network.inside("history"):
            made = psycopg2.connect(database.url)
        with contextlib.closing(made):
            yield made


@pytest.fixture(scope="session")  # a worker may come back to this module
def history(site: Site) -> Iterator[History]:
    site.network.add("history")
    with contextlib.ExitStack() as stack:
        with site.network.inside("history"):
            server = stack.enter_context(postgres(host=site.network.address("history")))
        yield History(site, server)


def limit(seconds: float, before: float) -> float:
    """Return how long it may take beside what else the machine has to do."""
    return seconds * max(before, slowdown())


def check_copied(site: Site, lines: Sequence[ManifestLine], in_flight: int) -> None:
    """Fail if objects are recorded that have not arrived, or many have arrived that are not recorded."""
    recorded = sum(line.outcome is Outcome.COPIED for line in lines)
    # Of those that were in flight some have arrived, and their answers have not.
    assert 0 <= site.copied() - recorded <= in_flight, (site.copied(), recorded)


@pytest.mark.long(cases=0)
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.silence),
        pytest.param(signal.SIGHUP, marks=pytest.mark.silence),
    ],
)
def test_a_signal_ends_a_copy_although_the_history_is_silent(
    site: Site, history: History, number: signal.Signals
) -> None:
    home, database = history.home(f"signal-{number}")
    fresh, running = site.begin_copy(*COMMAND, home=home, **SLOWLY)
    with site.network.silent("history"):
        time.sleep(1)
        before = slowdown()
        ended = running.signal(number, 60)
        most = limit(SECONDS, before)
    assert ended.status == 128 + number, ended.output
    assert ended.seconds < most, (most, ended)
    assert "Traceback" not in ended.output
    assert "objects are copied and stay" in ended.output
    assert "Dagster's history does not answer" in ended.output
    lines = site.manifest(home)
    check_copied(fresh, lines, 1)
    there = [line for line in lines if line.outcome is not Outcome.MISSING]
    assert len(there) == fresh.expected

    again = fresh.run(*COMMAND, home=home)
    assert again.status == 0, again.output
    assert history.statuses(database) == ["FAILURE", "SUCCESS"]


@pytest.mark.silence
def test_a_command_says_at_once_that_the_history_is_silent(site: Site, history: History) -> None:
    home, _ = history.home("at-once")
    usual = site.run("mastosync", "status", home=home).seconds
    with site.network.silent("history"):
        ended = site.run("mastosync", "status", home=home)
    assert ended.status == 1
    assert _only_sentence(ended) == (
        f"Error: Dagster's history at {site.network.address('history')}:{history.server.port} cannot be reached: no"
        " answer for 10 s. Is the server of storage in dagster.yaml up?"
    )
    assert ended.seconds < usual + AT_ONCE * slowdown(), (usual, ended)


@pytest.mark.silence
def test_a_daemon_whose_history_is_silent_ends_within_twenty_seconds(site: Site, history: History) -> None:
    home, _ = history.home("daemon")
    workspace = str(PROJECT / "workspace.yaml")
    daemon = site.start("python", "-m", PROGRAM, "daemon", "run", "-w", workspace, home=home)
    daemon.wait_for("Instance is configured with the following daemons")
    time.sleep(DAEMON_IS_BUSY)
    with site.network.silent("history"):
        time.sleep(DAEMON_IS_BUSY)
        daemon.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        daemon.process.wait(300)
        seconds = time.monotonic() - began
        # The code server that it has started ends when it has missed its heartbeat for twenty seconds.
        ended = daemon.end(60)
    assert seconds < 20 * slowdown(), ended


@pytest.mark.silence
def test_a_statement_that_the_history_does_not_answer_is_told(site: Site, history: History) -> None:
    """The server is there, and stands still: nothing on the network shows it."""
    home, database = history.home("stands-still")
    fresh, running = site.begin_copy(*COMMAND, home=home, **SLOWLY)
    with history.locked(database):
        said = running.wait_for("has not answered for 15 s")
    ended = running.end()
    assert f"Dagster's history at {site.network.address('history')}" in said
    assert ended.status == 0, ended.output
    assert ended.output.count("Dagster's history answers again") == 1, ended.output
    assert fresh.copied() == fresh.expected


def _only_sentence(ended: Ended) -> str:
    (line,) = ended.output.splitlines()
    return line


@pytest.mark.silence
def test_a_copy_waits_for_a_silent_history_and_says_so_once(site: Site, history: History) -> None:
    home, database = history.home("waits")
    fresh, running = site.begin_copy(*COMMAND, home=home, **SLOWLY)
    with site.network.silent("history"):
        said = running.wait_for("cannot be reached: no answer for 10 s")
        assert f"Dagster's history at {site.network.address('history')}" in said
        time.sleep(60)
    ended = running.end()
    assert ended.status == 0, ended.output
    assert "cannot be reached" not in ended.output
    assert ended.output.count("Dagster's history answers again") == 1, ended.output
    assert history.statuses(database) == ["SUCCESS"]
    assert fresh.copied() == fresh.expected


@pytest.mark.silence
def test_a_flow_to_the_history_that_vanishes_is_noticed_and_told(site: Site, history: History) -> None:
    """Nothing in its dagster.yaml limits anything, and the history itself is up."""
    home, database = history.home("vanished")
    fresh, running = site.begin_copy(*COMMAND, home=home, **SLOWLY)
    with contextlib.ExitStack() as stack:
        with history.locked(database):
            wait_until(lambda: bool(history.ports_that_wait(database)), 60)
            began = time.monotonic()
            stack.enter_context(fresh.network.vanished("client", history.ports_that_wait(database)[0]))
        ended = running.end(120)
    assert time.monotonic() - began < 90
    assert "Traceback" not in ended.output
    assert ended.status in {0, 1}
    if ended.status:
        assert "The connection to Dagster's history broke" in ended.output


CONNECT = """
import json, sys, time
import psycopg2
connection = psycopg2.connect(sys.argv[1], **json.loads(sys.argv[2]))
connection.cursor().execute("SELECT count(*) FROM pg_class")
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.silence
def test_no_session_of_a_client_that_is_gone_stays_at_the_history(site: Site, history: History) -> None:
    """With the parameters of deploy/dagster.yaml: in a transaction, which holds locks."""
    shipped = yaml.safe_load((PROJECT / "deploy" / "dagster.yaml").read_text())
    parameters = shipped["storage"]["postgres"]["postgres_db"]["params"]
    with site.network.inside("history"):
        database = create_database(history.server)
    client = site.start("python", "-c", CONNECT, database.url, json.dumps(parameters))
    client.wait_for("held")
    with history.connection(database) as connection:
        connection.autocommit = True

        def others() -> int:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
                    (database.database,),
                )
                ((count,),) = cursor.fetchall()
            return int(count)

        assert others() == 1
        with site.network.silent("client"):
            wait_until(lambda: others() == 0, 90)
    client.process.kill()
    client.process.communicate()


@pytest.mark.silence
def test_a_run_of_dagster_itself_ends_within_seconds_of_a_signal(site: Site, history: History) -> None:
    home, _ = history.home("worker")
    job = ("dagster", "job", "execute", "-m", "mastosync_dagster", "-j", "sync_changes")
    fresh, running = site.begin_copy(*job, home=home, **SLOWLY)
    with site.network.silent("history"):
        time.sleep(1)
        before = slowdown()
        ended = running.signal(signal.SIGINT, 60)
        most = limit(SECONDS, before)
    assert ended.seconds < most, (most, ended)
    lines = site.manifest(home)
    check_copied(fresh, lines, IN_FLIGHT)
