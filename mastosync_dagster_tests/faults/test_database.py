"""The database goes away or changes while it is read: the run goes on where it was, or fails with one message."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest

from mastosync_dagster.demo.comparison import compare
from mastosync_dagster.demo.servers.start import postgres
from mastosync_dagster.mastodon import connection as connections
from mastosync_dagster.mastodon.waits import limited
from mastosync_dagster_tests.faults.world import make_original
from mastosync_dagster_tests.support.corners import create_database, drop_database
from mastosync_dagster_tests.support.installation import failure_of
from mastosync_dagster_tests.support.ssh import PASSWORD, USER, ssh_server
from mastosync_dagster_tests.support.tcp_proxy import TcpProxy, tcp_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server
    from mastosync_dagster_tests.faults.world import FaultyInstallation, Original

SMALL_PAGES = {
    "ops": {"plan_changes": {"config": {"page_rows": 20}}, "copy": {"config": {"concurrency": 16}}},
}


@dataclass(frozen=True)
class Reading:
    """A world whose database is behind a proxy.

    Attributes:
        world: The world.
        proxy: Before the database.
        database: The database, of the test's own.
    """

    world: FaultyInstallation
    proxy: TcpProxy
    database: PostgresServer

    def execute(self, statement: str) -> None:
        """Change something in the database, past the proxy."""
        with contextlib.closing(psycopg2.connect(self.database.url)) as connection:
            connection.autocommit = True
            connection.cursor().execute(statement)

    def check_complete(self) -> None:
        """Run, and look whether all is there."""
        assert self.world.run(config=SMALL_PAGES).success
        compared = compare(self.world.destination.server, self.world.destination.name, self.world.original.expected)
        assert compared.differences == ()


@pytest.fixture
def there(
    some: Original, make_world: Callable[[Original], FaultyInstallation], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reading]:
    database = create_database(some.database, template=some.database.database)
    with tcp_proxy(database.port) as proxy:
        world = make_world(some)
        monkeypatch.setenv("DATABASE_URL", replace(database, port=proxy.port).url)
        yield Reading(world, proxy, database)
    drop_database(database)


@contextlib.contextmanager
def meanwhile(act: Callable[[], object], *, when: Callable[[], bool]) -> Iterator[None]:
    """Do something in another thread as soon as a condition holds."""
    over = threading.Event()

    def wait_and_act() -> None:
        while not when():
            if over.wait(0.002):
                return
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.long
def test_a_connection_lost_in_the_middle_of_a_page_is_opened_again(there: Reading) -> None:
    there.proxy.cut_after, there.proxy.cuts = 20_000, 1
    there.check_complete()
    assert there.proxy.cuts == 0


@pytest.mark.long(cases=0)
def test_a_database_that_is_gone_for_some_seconds_is_waited_for(there: Reading) -> None:
    def take_away() -> None:
        with there.proxy.gone():
            time.sleep(4)

    with meanwhile(take_away, when=lambda: there.proxy.accepted >= 2):
        there.check_complete()


@pytest.mark.long
def test_a_database_that_is_killed_and_started_again_is_read_on(
    source_server: S3Server, make_world: Callable[[Original], FaultyInstallation], monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mastosync-pg-")))
        data.chmod(0o755)  # PostgreSQL runs as a user of its own where we are root
        first = stack.enter_context(postgres(data))
        own = make_original(first, source_server, rows=300, videos=0)
        proxy = stack.enter_context(tcp_proxy(first.port))
        world = make_world(own)
        monkeypatch.setenv("DATABASE_URL", replace(own.database, port=proxy.port).url)
        again: list[int] = []

        def kill_and_start() -> None:
            os.killpg(first.pid, signal.SIGKILL)
            os.waitpid(first.pid, 0)  # or its number would look alive to the next server
            second = stack.enter_context(postgres(data))
            proxy.upstream = second.port
            again.append(second.pid)

        with meanwhile(kill_and_start, when=lambda: proxy.accepted >= 2):
            Reading(world, proxy, own.database).check_complete()
        assert again


@pytest.mark.long
def test_a_connection_that_falls_silent_is_given_up(there: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_SILENCE_SECONDS", 1.0)
    url = replace(there.database, port=there.proxy.port).url
    with contextlib.closing(psycopg2.connect(url, connection_factory=limited(10.0))) as connection:
        connection.autocommit = True
        started = time.monotonic()
        with (
            there.proxy.stalled(),
            pytest.raises(psycopg2.OperationalError),
            connections.reading(connection, 500) as cursor,
        ):
            cursor.execute("SELECT 1")
        assert 1 <= time.monotonic() - started < 30


@pytest.mark.long(cases=0)
def test_a_failover_to_a_read_only_server_disturbs_nobody(there: Reading) -> None:
    dropped: list[int] = []

    def fail_over() -> None:
        # Stalled, so that whoever reads now still waits for an answer when the connection is dropped.
        with there.proxy.stalled():
            there.execute(f'ALTER DATABASE "{there.database.database}" SET default_transaction_read_only = on')
        dropped.append(there.proxy.drop())

    with meanwhile(fail_over, when=lambda: there.proxy.accepted >= 2 and there.proxy.open > 0):
        there.check_complete()
    # Whoever read then has connected to the new server.
    assert dropped
    assert dropped[0] > 0
    assert there.proxy.accepted > 2


@pytest.mark.long(cases=0)
def test_a_lock_in_the_way_is_waited_for(there: Reading) -> None:
    holder = psycopg2.connect(there.database.url)
    with contextlib.closing(holder):
        holder.cursor().execute("LOCK TABLE custom_emojis IN ACCESS EXCLUSIVE MODE")
        release = threading.Timer(3, holder.rollback)
        release.start()
        there.check_complete()
        release.join()


@contextlib.contextmanager
def changed_in_the_middle(there: Reading, table: str, change: str) -> Iterator[None]:
    """Change a table while a run is about to read it: the run's query waits, and goes on with another table."""
    with (
        contextlib.closing(psycopg2.connect(there.database.url)) as changer,
        contextlib.closing(psycopg2.connect(there.database.url)) as observer,
    ):
        changer.cursor().execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        observer.autocommit = True
        changed = threading.Event()

        def somebody_waits() -> bool:
            cursor = observer.cursor()
            cursor.execute("SELECT count(*) FROM pg_locks WHERE relation = %s::regclass AND NOT granted", (table,))
            ((waiting,),) = cursor.fetchall()
            return bool(waiting)

        def act() -> None:
            changer.cursor().execute(f"ALTER TABLE {table} {change}")
            changer.commit()
            changed.set()

        with meanwhile(act, when=somebody_waits):
            yield
        assert changed.is_set()


@pytest.mark.long
def test_a_column_added_changes_nothing_and_one_dropped_ends_the_run_with_its_name(there: Reading) -> None:
    with changed_in_the_middle(there, "preview_cards", "ADD COLUMN something_new text"):
        there.check_complete()
    with changed_in_the_middle(there, "preview_cards", "DROP COLUMN image_file_name"):
        result = there.world.run(config=SMALL_PAGES)
    assert "image_file_name" in failure_of(result)


@pytest.mark.long(cases=0)
@pytest.mark.parametrize("when", ["before the first row", "in the middle"])
def test_a_tunnel_that_drops_comes_back(
    there: Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    with ssh_server() as ssh, tcp_proxy(ssh.port) as before_ssh:
        known_hosts = tmp_path / "known_hosts"
        known_hosts.write_text(ssh.known_hosts_line(name=f"[{ssh.host}]:{before_ssh.port}"))
        for name, value in {
            "SSH_TUNNEL_HOST": ssh.host,
            "SSH_TUNNEL_PORT": str(before_ssh.port),
            "SSH_TUNNEL_USER": USER,
            "SSH_TUNNEL_PASSWORD": PASSWORD,
            "SSH_TUNNEL_KNOWN_HOSTS": str(known_hosts),
        }.items():
            monkeypatch.setenv(name, value)
        forwards = 1 if when == "before the first row" else 2
        with meanwhile(before_ssh.drop, when=lambda: len(ssh.forwards) >= forwards):
            result = there.world.run(config=SMALL_PAGES)
        if not result.success:
            assert "database" in failure_of(result)
        there.check_complete()
        assert ssh.forwards
