"""A client that vanishes leaves no lock on Mastodon's tables: a migration that waits goes on within a minute."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.silence.site import pgbouncer
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Mapping

    from mastosync_dagster_tests.silence.site import Running, Site

HOLD = """
import sys, time
from mastosync_dagster.mastodon.connection import reading
from mastosync_dagster.resources import MastodonDatabase
with MastodonDatabase().session() as connect:
    connection = connect()
    with reading(connection) as cursor:
        cursor.execute(sys.argv[1])
        print("held", flush=True)
        if sys.argv[2]:
            cursor.execute(sys.argv[2])
        time.sleep(600)
"""
"""Locks a table as a SELECT does, then runs another query, or waits between two queries."""

IDLE_SECONDS = 20.0
MOST_SECONDS = 60.0
_COUNT = "SELECT count(*) FROM {}"
_LARGE = "SELECT repeat('x', 1000000) FROM generate_series(1, 100)"


def hold(site: Site, table: str, then: str, variables: Mapping[str, str]) -> Running:
    """Have a client hold a table's lock."""
    running = site.start("python", "-c", HOLD, _COUNT.format(table), then, **variables)
    running.wait_for("held")
    return running


def migrate(site: Site, table: str) -> float:
    """Change a table, as a migration of Mastodon's does. Returns the seconds that it waited."""
    with site.connection() as connection, connection.cursor() as cursor:
        started = time.monotonic()
        cursor.execute(f"ALTER TABLE {table} ADD COLUMN migrated_{time.monotonic_ns()} int")
        return time.monotonic() - started


def waited(site: Site, tables: Mapping[str, str]) -> dict[str, float]:
    """Migrate all tables at once. Returns the seconds by the names."""
    seconds: dict[str, float] = {}

    def migrate_one(name: str, table: str) -> None:
        seconds[name] = migrate(site, table)

    threads = [threading.Thread(target=migrate_one, args=pair) for pair in tables.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds


@pytest.fixture
def everything_vanishes(site: Site) -> contextlib.AbstractContextManager[None]:
    """While the block runs, every packet to and from the client vanishes."""
    return site.network.silent("client")


@pytest.mark.long(cases=0)
def test_between_two_queries_nothing_is_locked_for_long(
    site: Site, everything_vanishes: contextlib.AbstractContextManager[None]
) -> None:
    with pgbouncer(site) as pooled:
        ways = {"plain": {}, "tunnel": site.tunnel(), "pgbouncer": pooled}
        tables = dict(zip(ways, ("accounts", "custom_emojis", "preview_cards"), strict=True))
        clients = [hold(site, tables[name], "", variables) for name, variables in ways.items()]
        with everything_vanishes:
            seconds = waited(site, tables)
        for client in clients:
            client.process.kill()
            client.process.communicate()
    assert max(seconds.values()) < IDLE_SECONDS, seconds


@pytest.mark.silence
def test_no_query_holds_a_lock_for_a_minute_and_no_session_stays(
    site: Site, everything_vanishes: contextlib.AbstractContextManager[None]
) -> None:
    """While it runs, and while its answer does not get through."""
    with pgbouncer(site) as pooled:
        cases = {
            "sleep": ("accounts", "SELECT pg_sleep(600)", {}),
            "sleep through the tunnel": ("custom_emojis", "SELECT pg_sleep(600)", site.tunnel()),
            "sleep behind pgbouncer": ("preview_cards", "SELECT pg_sleep(600)", pooled),
            "answer": ("site_uploads", f"SELECT pg_sleep(5); {_LARGE}", {}),
            "answer through the tunnel": ("backups", f"SELECT pg_sleep(5); {_LARGE}", site.tunnel()),
            "answer behind pgbouncer": ("media_attachments", f"SELECT pg_sleep(5); {_LARGE}", pooled),
        }
        tables = {name: table for name, (table, _, _) in cases.items()}
        clients = [hold(site, table, then, variables) for table, then, variables in cases.values()]
        started = time.monotonic()
        with everything_vanishes:
            seconds = waited(site, tables)
            # pgbouncer's own sessions go on, for the next client.
            wait_until(lambda: all(state == "idle" for state, _ in _ours(site)), 90 - (time.monotonic() - started))
        for client in clients:
            client.process.kill()
            client.process.communicate()
    assert max(seconds.values()) < MOST_SECONDS, seconds


@pytest.mark.silence
@pytest.mark.parametrize("tunnel", [False, True])
def test_a_session_between_two_transactions_is_gone_within_ninety_seconds(
    site: Site, everything_vanishes: contextlib.AbstractContextManager[None], *, tunnel: bool
) -> None:
    wait_until(lambda: _ours(site) == [], 90)  # those of clients that have vanished in the tests before
    client = hold_nothing(site, site.tunnel() if tunnel else {})
    assert len(_ours(site)) == 1
    with everything_vanishes:
        wait_until(lambda: _ours(site) == [], 90)
    client.process.kill()
    client.process.communicate()


def hold_nothing(site: Site, variables: Mapping[str, str]) -> Running:
    """Have a client with a connection that it does not use."""
    running = site.start(
        "python",
        "-c",
        HOLD.partition("    with reading")[0] + "    print('held'); sys.stdout.flush(); time.sleep(600)",
        **variables,
    )
    running.wait_for("held")
    return running


def _ours(site: Site) -> list[tuple[str, str]]:
    return site.sessions()
