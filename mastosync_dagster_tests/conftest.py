"""Real servers that all tests of a session share, and a fresh corner of each server for every test."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from mastosync_dagster.demo.servers.start import PostgresServer, S3Server, postgres, rclone_s3
from mastosync_dagster.history import postgres as history_postgres
from mastosync_dagster_tests.support.corners import Bucket, create_bucket, create_database, drop_database
from mastosync_dagster_tests.support.moto_server import moto, moto_bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from alembic.config import Config
    from sqlalchemy.pool import Pool


__all__ = ["moto", "moto_bucket"]
"""Fixtures that live elsewhere."""


@pytest.fixture(scope="session", autouse=True)
def _history_without_syncs() -> None:
    """Let the histories of runs in this process wait for no disk: no test of them cuts the power.

    Dagster syncs some hundred times a run, which takes a third of its time.
    """

    @event.listens_for(Engine, "connect")
    def connected(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(scope="session", autouse=True)
def _history_that_is_prepared_once() -> Iterator[None]:
    """Let the histories of runs in this process share what Dagster makes anew for each event and for each run.

    These are an engine of SQLAlchemy for each statement, and all of Alembic's revisions, imported for each run:
    a third of what a run of few objects costs. Each connection is still opened and closed for itself.
    """
    directories: dict[str | None, ScriptDirectory] = {}
    read = ScriptDirectory.from_config

    @functools.lru_cache(maxsize=32)
    def shared_engine(url: str, *arguments: tuple[str, object]) -> Engine:
        return create_engine(url, poolclass=NullPool, connect_args=dict(arguments))

    def engine(url: str, *, poolclass: type[Pool], connect_args: Mapping[str, object] | None = None) -> Engine:
        assert poolclass is NullPool
        return shared_engine(url, *(connect_args or {}).items())

    def directory(config: Config) -> ScriptDirectory:
        location = config.get_main_option("script_location")
        return directories.get(location) or directories.setdefault(location, read(config))

    with pytest.MonkeyPatch.context() as patch:
        for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
            patch.setattr(module, "create_engine", engine)
        patch.setattr(ScriptDirectory, "from_config", directory)
        yield


@pytest.fixture(autouse=True)
def _process_that_has_run_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no run of an earlier test decide for how long a history is waited for: a process has one run, and ends."""
    monkeypatch.setattr(history_postgres, "_state", history_postgres._State())


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the session."""
    with postgres() as server:
        yield server


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster home with the project's dagster.yaml."""
    (tmp_path / "dagster.yaml").write_text((Path(__file__).parents[1] / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """An empty database of the test's own."""
    created = create_database(postgres_server)
    yield created
    drop_database(created)


@pytest.fixture(scope="session")
def source_server() -> Iterator[S3Server]:
    """An S3 server that checks signatures."""
    with rclone_s3() as server:
        yield server


@pytest.fixture(scope="session")
def destination_server() -> Iterator[S3Server]:
    """Another one, with other credentials."""
    with rclone_s3() as server:
        yield server


@pytest.fixture
def source_bucket(source_server: S3Server) -> Bucket:
    """An empty bucket at the source."""
    return create_bucket(source_server)


@pytest.fixture
def destination_bucket(destination_server: S3Server) -> Bucket:
    """An empty bucket at the destination."""
    return create_bucket(destination_server)


_LINE = "line"
_WORKERS = 3
"""Of `make test`."""


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[object], None]:
    """Writes a line into the report of the test run: at once, or from a worker of xdist when the test has ended."""
    config = request.config
    if hasattr(config, "workerinput"):
        return lambda line: request.node.user_properties.append((_LINE, str(line)))
    return lambda line: _write(config, str(line))


def _write(config: pytest.Config, line: str) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    assert reporter is not None
    with capture.global_and_fixture_disabled() if capture is not None else contextlib.nullcontext():
        if reporter._tw.width_of_current_line:  # behind the dots of tests
            reporter.write_line("")
        reporter.write_line(line)


class _ReportLines:
    """Writes the lines of workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for name, line in report.user_properties:
                if name == _LINE:
                    _write(self._config, str(line))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_ReportLines(config))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--short", action="store_true", help="leave out what is marked as long")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tests: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("long") is not None:
            tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        marker = cases[0].get_closest_marker("long")
        assert marker is not None
        few = min(marker.kwargs.get("cases", len(cases)), len(cases))
        # Cases lie like the squares of a board: steps that share no divisor with their number meet each row and column.
        step = next(step for step in itertools.count(len(cases) // max(few, 1) + 1) if math.gcd(step, len(cases)) == 1)
        kept = {number * step % len(cases) for number in range(few)}
        for number, case in enumerate(cases):
            if number not in kept:
                case.add_marker("thorough")
    if config.getoption("--short"):
        long = [item for cases in tests.values() for item in cases]
        config.hook.pytest_deselected(items=long)
        left_out = set(long)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(tryfirst=True)  # before the workers of xdist tell what they have
def pytest_collection_finish(session: pytest.Session) -> None:
    """Let each worker begin with one of the tests that would else go on when all others have ended.

    With `worksteal` a worker has its share of the list, and goes through it from the beginning.
    """
    early = [item for item in session.items if item.get_closest_marker("early") is not None]
    session.items[:] = others = [item for item in session.items if item not in early]
    for number, item in enumerate(early):
        session.items.insert(number * (len(others) + len(early)) // _WORKERS, item)
