"""Errors that an admin can do something about become failures with a sentence."""

from __future__ import annotations

import dagster as dg
import pytest
import sqlalchemy

from mastosync_dagster.demo.servers.start import LOOPBACK, free_port
from mastosync_dagster.runs.failures import plain_failures


def test_a_history_that_is_gone_is_named_without_the_statement() -> None:
    engine = sqlalchemy.create_engine(f"postgresql+psycopg2://history:s3cret@{LOOPBACK}:{free_port()}/history")
    with pytest.raises(dg.Failure) as raised, plain_failures(), engine.connect():
        pass
    message = raised.value.description or ""
    assert message.startswith("The connection to Dagster's history broke (")
    assert "onnection refused" in message
    assert "storage in dagster.yaml" in message
    assert "s3cret" not in message
