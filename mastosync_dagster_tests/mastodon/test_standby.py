"""A standby shows rows as of a time before its clock, and so does a database that subscribes to tables."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import psycopg2
import pytest

from mastosync_dagster.demo.servers.start import postgres
from mastosync_dagster.mastodon import database_now, read_snapshot, rows_as_of, wait_for_open_transactions
from mastosync_dagster.mastodon.connection import reading_once, set_up_session
from mastosync_dagster.prune.guards import shown_at
from mastosync_dagster.sync.clocks import begin_reading
from mastosync_dagster_tests.mastodon.conftest import SCHEMAS, STATUSES
from mastosync_dagster_tests.support.standby import standby_of, without_autovacuum
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.demo.servers.start import PostgresServer


@pytest.fixture
def standby(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """A standby of the session's server."""
    with without_autovacuum(postgres_server), standby_of(postgres_server) as running:
        yield running


@pytest.fixture
def subscriber() -> Iterator[PostgresServer]:
    """A server with two Mastodon's databases, of which ``sub`` can subscribe to tables of ``pub``."""
    with postgres(None, "wal_level=logical") as server, connected(server) as connection:
        connection.cursor().execute("CREATE ROLE somebody LOGIN PASSWORD 'word'")
        for name in ("pub", "sub"):
            connection.cursor().execute(f"CREATE DATABASE {name}")
            with connected(replace(server, database=name)) as one:
                one.cursor().execute(SCHEMAS["main"].read_text() + STATUSES + "; CREATE TABLE other (id bigint)")
                one.cursor().execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO somebody")
        with connected(replace(server, database="pub")) as publisher:
            for name in ("accounts", "other"):
                publisher.cursor().execute(f"CREATE PUBLICATION {name} FOR TABLE {name}")
                answer(publisher, f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')::text")
        yield replace(server, database="sub")


def connected(server: PostgresServer) -> contextlib.closing[Connection]:
    connection = psycopg2.connect(server.url)
    connection.autocommit = True
    return contextlib.closing(connection)


def answer(connection: Connection, query: str) -> object:
    with connection.cursor() as cursor:
        cursor.execute(query)
        ((value,),) = cursor.fetchall()
        return value


def shown_by(connection: Connection) -> datetime:
    shown = rows_as_of(connection)
    assert shown is not None
    return shown


def test_rows_are_as_of_the_last_transaction_that_a_standby_has_replayed(
    postgres_server: PostgresServer, standby: PostgresServer
) -> None:
    with connected(postgres_server) as primary, connected(standby) as second:

        def commit() -> None:
            primary.cursor().execute("CREATE TABLE IF NOT EXISTS ticks (); INSERT INTO ticks DEFAULT VALUES")

        commit()
        before = database_now(primary)
        assert shown_by(primary) >= before
        commit()
        wait_until(lambda: answer(second, "SELECT pg_last_xact_replay_timestamp()") is not None)
        wait_until(lambda: shown_by(second) >= before)

        second.cursor().execute("SELECT pg_wal_replay_pause()")
        wait_until(lambda: answer(second, "SELECT pg_get_wal_replay_pause_state()") == "paused")
        lagging = database_now(primary)
        commit()
        assert shown_by(second) < lagging < database_now(second)
        # Nor is an object old enough to be deleted whose row may have been written since.
        assert shown_at(second) < lagging
        primary.cursor().execute("DROP TABLE ticks")


def test_a_standby_that_has_replayed_nothing_knows_no_time_until_it_has_or_is_promoted(
    postgres_server: PostgresServer, standby: PostgresServer
) -> None:
    with connected(postgres_server) as primary, connected(standby) as second:
        assert answer(second, "SELECT pg_last_xact_replay_timestamp()") is None
        assert rows_as_of(second) is None
        # Nothing is old enough to be deleted.
        assert shown_at(second).year == 1970
        primary.cursor().execute("CREATE TABLE tocks ()")
        wait_until(lambda: rows_as_of(second) is not None)
        primary.cursor().execute("DROP TABLE tocks")
        assert answer(second, "SELECT pg_promote()") is True
        # It shows all there is, whatever it replayed last.
        before = datetime.now(timezone.utc)
        assert shown_by(second) >= before


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
def test_a_standby_is_read_whatever_isolation_its_transactions_have_by_default(
    standby: PostgresServer, level: str
) -> None:
    """A standby refuses serializable ones."""
    quoted = level.replace(" ", "\\ ")
    with contextlib.closing(
        psycopg2.connect(standby.url, options=f"-c default_transaction_isolation={quoted}")
    ) as connection:
        set_up_session(connection)
        with reading_once(connection) as cursor:
            cursor.execute("SELECT current_setting('idle_session_timeout'), current_setting('transaction_isolation')")
            assert cursor.fetchall() == [("1min", "read committed")]
        assert read_snapshot(connection).now.tzinfo is not None


def test_of_tables_that_a_subscription_feeds_the_delay_is_unknown(subscriber: PostgresServer) -> None:
    """Their rows come from another server, some time later, and with the times that they were written there."""
    source = replace(subscriber, database="pub")
    with (
        connected(subscriber) as admin,
        connected(replace(subscriber, user="somebody", password="word")) as second,
        connected(source) as publisher,
    ):

        def subscribe(name: str) -> None:
            admin.cursor().execute(
                f"CREATE SUBSCRIPTION {name} CONNECTION '{source.url}' PUBLICATION {name}"
                f" WITH (copy_data = false, create_slot = false, slot_name = '{name}')"
            )

        def claims(connection: Connection, *said: str) -> bool:
            heard: list[str] = []
            begun = begin_reading(connection, None, claims=True, wait_seconds=20, info=heard.append, warn=heard.append)
            assert [part for part in said if not any(part in text for text in heard)] == []
            return begun.claimable

        subscribe("other")
        assert claims(second)
        assert rows_as_of(second) is not None
        subscribe("accounts")
        for state in ("ENABLE", "DISABLE"):
            admin.cursor().execute(f"ALTER SUBSCRIPTION accounts {state}")
            assert not claims(second, "a subscription", "no watermark moves")
            # Nothing is old enough to be deleted.
            assert shown_at(second).year == 1970
        assert claims(publisher)
        admin.cursor().execute("ALTER SUBSCRIPTION accounts SET (slot_name = NONE)")
        admin.cursor().execute("DROP SUBSCRIPTION accounts")
        assert claims(second)


def test_a_transaction_that_writes_is_waited_for_on_both_and_one_that_reads_is_not(
    postgres_server: PostgresServer, standby: PostgresServer
) -> None:
    with (
        connected(postgres_server) as primary,
        connected(standby) as second,
        contextlib.closing(psycopg2.connect(postgres_server.url)) as writer,
        contextlib.closing(psycopg2.connect(postgres_server.url)) as reader,
    ):
        reader.cursor().execute("SELECT 1")
        for connection in (primary, second):
            wait_until(lambda: wait_for_open_transactions(connection, read_snapshot(connection), 0))  # noqa: B023  (at once)
        writer.cursor().execute("CREATE TABLE open_one ()")
        with connected(postgres_server) as another:
            another.cursor().execute("CREATE TABLE committed_one (); DROP TABLE committed_one")
        # The standby knows of the open one when it has replayed the one after it.
        wait_until(lambda: not wait_for_open_transactions(second, read_snapshot(second), 0))
        snapshots = [(connection, read_snapshot(connection)) for connection in (primary, second)]
        assert not any(wait_for_open_transactions(connection, snapshot, 0.2) for connection, snapshot in snapshots)
        writer.rollback()
        assert all(wait_for_open_transactions(connection, snapshot, 20) for connection, snapshot in snapshots)
