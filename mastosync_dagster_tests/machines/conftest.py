"""An instance, and workers that share the runs that copy it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import dagster as dg
import psycopg2
import pytest
import yaml

from mastosync_dagster.demo.instance.load import build
from mastosync_dagster_tests.machines.farm import PROJECT, Farm, farm
from mastosync_dagster_tests.support.corners import create_bucket, create_database, drop_database
from mastosync_dagster_tests.support.installation import ROWS, environment_for
from mastosync_dagster_tests.support.instance_cases import ALL_CASES
from mastosync_dagster_tests.support.redis_server import RedisServer, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server

_ROWS_PER_PARTITION = 55
HASTE = {
    "poll_interval_seconds: 15": "poll_interval_seconds: 3",
    "dequeue_interval_seconds: 5": "dequeue_interval_seconds: 1",
}
"""Of dagster.yaml, so that what takes a minute and a half takes half a minute: `hasty_worker` does the rest."""


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A broker, which CELERY_BROKER names."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder) as made:
        monkeypatch.setenv("CELERY_BROKER", made.url)
        yield made


@pytest.fixture
def shipped_home(broker: RedisServer, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with the dagster.yaml that is shipped, but for its history, which is SQLite."""
    settings = yaml.safe_load((PROJECT / "deploy" / "celery" / "dagster.yaml").read_text())
    del settings["storage"]
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "dagster.yaml").write_text(yaml.safe_dump(settings))
    assert broker.client.ping()
    with dg.DagsterInstance.from_config(str(folder)) as made:
        yield made


@pytest.fixture(scope="module")
def workers(
    postgres_server: PostgresServer,
    source_server: S3Server,
    destination_server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Farm]:
    """Dagster's services and no worker yet; nothing is copied."""
    mastodon, history = create_database(postgres_server), create_database(postgres_server)
    source, destination = create_bucket(source_server), create_bucket(destination_server)
    with contextlib.closing(psycopg2.connect(mastodon.url)) as connection:
        instance = build(connection, source_server, source.name, cases=ALL_CASES, rows=ROWS)
    home = tmp_path_factory.mktemp("home")
    variables = environment_for(
        mastodon, source, destination, source_server.endpoint, destination_server.endpoint, home
    )
    variables |= {
        "DAGSTER_PG_HOST": history.host,
        "DAGSTER_PG_USER": history.user,
        "DAGSTER_PG_PASSWORD": history.password,
        "DAGSTER_PG_DB": history.database,
        "MASTOSYNC_MANIFESTS": str(home / "manifests"),
        "MASTOSYNC_ROWS_PER_PARTITION": str(_ROWS_PER_PARTITION),
        "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "2",
    }
    settings = {"port: 5432": f"port: {history.port}", **HASTE}
    with (
        redis_server(tmp_path_factory.mktemp("redis")) as broker,
        farm(home, variables, destination, broker, instance=instance, settings=settings) as made,
    ):
        yield made
    for database in (mastodon, history):
        drop_database(database)
