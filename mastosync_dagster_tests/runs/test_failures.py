"""Errors that an admin can do something about become failures with a sentence."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import dagster as dg
import pytest
import sqlalchemy
from dagster._utils.error import serializable_error_info_from_exc_info

from mastosync_dagster.demo.servers.start import LOOPBACK, free_port
from mastosync_dagster.runs.failures import plain_failures, sentence_of

if TYPE_CHECKING:
    from mastosync_dagster.demo.servers.start import PostgresServer


def test_a_history_that_is_gone_is_named_without_the_statement() -> None:
    engine = sqlalchemy.create_engine(f"postgresql+psycopg2://history:s3cret@{LOOPBACK}:{free_port()}/history")
    with pytest.raises(dg.Failure) as raised, plain_failures(), engine.connect():
        pass
    message = raised.value.description or ""
    assert message.startswith("The connection to Dagster's history broke (")
    assert "onnection refused" in message
    assert "storage in dagster.yaml" in message
    assert "s3cret" not in message


def test_a_history_that_is_lost_within_dagster_is_named_too(postgres_server: PostgresServer) -> None:
    engine = sqlalchemy.create_engine(postgres_server.url.replace("postgresql://", "postgresql+psycopg2://"))
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT pg_terminate_backend(pg_backend_pid())"))
    except sqlalchemy.exc.OperationalError:
        error = serializable_error_info_from_exc_info(sys.exc_info())
    finally:
        engine.dispose()
    text = sentence_of(error)
    assert text.startswith("The connection to Dagster's history broke (")
    assert "\n" not in text


def test_what_is_not_the_history_s_is_shown_as_it_is() -> None:
    try:
        int("psycopg2.Error: no")
    except ValueError:
        error = serializable_error_info_from_exc_info(sys.exc_info())
    assert sentence_of(error).startswith("ValueError: invalid literal")
