"""What the status of a large instance costs: with 300 ID ranges the queries of three."""

from __future__ import annotations

import contextlib
import subprocess
from importlib import resources
from typing import TYPE_CHECKING

import dagster as dg
import psycopg2
import pytest

from benchmarks.status import OTHER_TABLES, SETTINGS, fill
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.status.counts import statuses
from mastosync_dagster_tests.support.history_queries import counted_queries
from mastosync_dagster_tests.support.installation import PROJECT
from mastosync_dagster_tests.support.terminal import executable

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import PostgresServer

FEW, MANY = 3, 300
_LOADED = "import sys, mastosync_dagster.cli.console, mastosync_dagster.status.counts; print(*sys.modules)"
_UNUSED = {"apprise", "dagster_graphql", "dagster_webserver", "grpc", "moto", "paramiko", "requests"}


@pytest.fixture
def schema(database: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> PostgresServer:
    """An instance of Mastodon without rows, and settings that name it."""
    with contextlib.closing(psycopg2.connect(database.url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(resources.files("mastosync_dagster.demo").joinpath("schema_main.sql").read_text())
        cursor.execute(OTHER_TABLES)
    for name, value in {**SETTINGS, "DATABASE_URL": database.url}.items():
        monkeypatch.setenv(name, value)
    return database


def home_with(folder: Path, ranges: int) -> Path:
    folder.mkdir()
    (folder / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    fill(folder, ranges)
    return folder


def queries_of(home: Path) -> int:
    with dg.DagsterInstance.from_config(str(home)) as instance, counted_queries() as queries:
        found = statuses(instance, MastodonDatabase(), S3Bucket.destination(), list(FileType))
    assert sum(each.materialized for each in found) == sum(each.ranges for each in found) > 0
    return len(queries)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_ranges_take_no_more_queries(schema: PostgresServer, tmp_path: Path) -> None:
    assert schema
    few, many = home_with(tmp_path / "few", FEW), home_with(tmp_path / "many", MANY)
    assert queries_of(many) == queries_of(few)


@pytest.mark.long(cases=0)
def test_the_status_loads_no_package_that_it_does_not_use() -> None:
    command = [executable("python"), "-c", _LOADED]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "dagster" in loaded
    assert loaded & _UNUSED == set()
