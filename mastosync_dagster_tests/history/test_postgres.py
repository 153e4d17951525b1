"""Waits for Dagster's history in PostgreSQL, in a process that is to end."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy

from mastosync_dagster.history.postgres import begin_run, stop_soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster.demo.servers.start import PostgresServer

SILENCE = 3.0
"""Seconds that a process which is to end waits for a history that does not answer."""


@pytest.fixture
def connection(postgres_server: PostgresServer) -> Iterator[sqlalchemy.Connection]:
    begin_run()
    engine = sqlalchemy.create_engine(postgres_server.url.replace("postgresql://", "postgresql+psycopg2://"))
    with contextlib.closing(engine.connect()) as made:
        yield made
    engine.dispose()


def wait_there(connection: sqlalchemy.Connection, seconds: float, times: int = 1) -> None:
    """Have the history answer after so many seconds."""
    for _ in range(times):
        connection.execute(sqlalchemy.text(f"SELECT pg_sleep({seconds})"))


@pytest.mark.long
def test_a_history_that_answers_slowly_is_not_silent(connection: sqlalchemy.Connection) -> None:
    stop_soon()
    wait_there(connection, SILENCE / 6, times=8)


@pytest.mark.long
def test_one_that_does_not_answer_is_given_up(connection: sqlalchemy.Connection) -> None:
    stop_soon()
    started = time.monotonic()
    with pytest.raises(sqlalchemy.exc.OperationalError):
        wait_there(connection, 2 * SILENCE)
    assert SILENCE <= time.monotonic() - started < 2 * SILENCE


@pytest.mark.long
def test_one_that_answers_is_not_waited_for_for_ever(connection: sqlalchemy.Connection) -> None:
    stop_soon()
    started = time.monotonic()
    with pytest.raises(sqlalchemy.exc.OperationalError):
        wait_there(connection, SILENCE / 2, times=10)
    assert 9 < time.monotonic() - started < 12
