"""The servers that all lives of the machine share: PostgreSQL, an S3 server with two ports, another server's site.

All of them go by one clock, which stands still until somebody moves it.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import logging
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dagster as dg
import moto.s3.models
import psycopg2
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from psycopg2 import sql
from werkzeug.serving import make_server

from mastosync_dagster.demo.instance.load import _STATUSES
from mastosync_dagster.demo.servers.start import LOOPBACK, PostgresServer, S3Server
from mastosync_dagster.installation.processes import running
from mastosync_dagster_tests.model.truth import FoundObject
from mastosync_dagster_tests.support.corners import (
    Bucket,
    create_bucket,
    create_database,
    drop_database,
    environment_of,
)
from mastosync_dagster_tests.support.living import LivingInstance
from mastosync_dagster_tests.support.web import hostile_web

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster_tests.support.web import Web

START = datetime(2026, 3, 1, tzinfo=timezone.utc)
PROJECT = Path(__file__).parents[2]
TABLES = ("accounts", "media_attachments")
_CLOCK = """
CREATE SCHEMA clock;
CREATE TABLE clock.time (now timestamptz NOT NULL);
INSERT INTO clock.time VALUES ('2026-03-01T00:00:00Z');
CREATE FUNCTION clock.now() RETURNS timestamptz STABLE LANGUAGE sql AS 'SELECT now FROM clock.time';
"""
_HOME = """
telemetry: {enabled: false}
compute_logs: {module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}
"""
"""Of the project's own dagster.yaml a run in this process uses nothing else."""


@dataclass
class Clock:
    """The time of all machines, also in a file for the processes of runs."""

    file: Path
    now: datetime = START

    def set(self, now: datetime) -> None:
        """Move it."""
        self.now = now
        self.file.write_text(f"{now.timestamp():.6f}")


class StillInstance(LivingInstance):
    """An instance whose clock stands still until time passes, with one connection to its database."""

    clock: Clock
    connection: Connection
    files: dict[str, bytes]

    def execute(
        self, query: str | sql.Composed, parameters: Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        with self.connection.cursor() as cursor:
            cursor.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    @property
    def now(self) -> datetime:
        """Its clock."""
        return self.clock.now

    def pass_time(self, time: timedelta) -> None:
        """Let time pass."""
        self.clock.set(self.clock.now + time)
        self.execute("UPDATE clock.time SET now = %(now)s", {"now": self.clock.now})


@dataclass
class Faults:
    """What the destination's server does now: it refuses each n-th request of some methods."""

    methods: frozenset[str] = frozenset()
    acls: bool = False
    each: int = 1
    status: str = "503 Service Unavailable"
    code: str = "SlowDown"
    _count: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def hit(self, method: str, query: str) -> bool:
        """Tell whether this request is refused."""
        if method not in self.methods or (self.acls and not query.startswith("acl")):
            return False
        return next(self._count) % self.each == 0


@dataclass
class Runs:
    """A process that forks runs (`run_process`)."""

    process: subprocess.Popen[bytes]
    log: Path
    pid: int = 0

    def start(self, **wanted: object) -> bool | str | None:
        """Execute a run. Returns whether it has succeeded; None: killed; ``stopped``: it waits."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(wanted).encode() + b"\n")
        self.process.stdin.flush()
        self.pid = int(self._answer() or 0)
        return self._answer()

    def go_on(self, how: int = signal.SIGCONT) -> bool | str | None:
        """Let a run go on that waits, or kill it."""
        os.kill(self.pid, how)
        return self._answer()

    def _answer(self) -> bool | str | None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        answer: bool | str | None = json.loads(line)
        return answer


@dataclass
class World:
    """The servers, and the corner of a life in each.

    Attributes:
        lives: How many there were so far.
        steps: How often each rule was executed.
    """

    folder: Path
    clock: Clock
    database: PostgresServer
    connection: Connection
    ports: tuple[int, int]
    runs: Runs
    beside: Runs
    web: Web
    faults: Faults
    lives: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    source: Bucket = field(init=False)
    destination: Bucket = field(init=False)
    home: Path = field(init=False)

    def begin_life(self) -> StillInstance:
        """Make everything as it was at the beginning."""
        self.lives += 1
        self.faults.methods = frozenset()
        self.clock.set(START)
        with self.connection.cursor() as cursor:
            cursor.execute("TRUNCATE accounts, media_attachments, statuses CASCADE")
            cursor.execute("UPDATE clock.time SET now = %s", (START,))
        self.source, self.destination = (create_bucket(_server(port)) for port in self.ports)
        self.home = self.folder / f"home-{self.lives}"
        shutil.rmtree(self.folder / f"home-{self.lives - 1}", ignore_errors=True)
        shutil.copytree(self.folder / "home", self.home)
        for log in (self.runs.log, self.beside.log):
            log.write_bytes(b"")
        instance = StillInstance(self.database, self.source, {}, Counter())
        instance.clock, instance.connection = self.clock, self.connection
        return instance

    def end_life(self) -> None:
        """Free the memory that it took."""
        backend = moto.s3.models.s3_backends["123456789012"]["aws"]
        for bucket in (self.source, self.destination):
            backend.buckets.pop(bucket.name, None)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its runs."""
        source, destination = (bucket.server.endpoint for bucket in (self.source, self.destination))
        return {
            **environment_of(self.database, self.source, self.destination, source, destination, self.home),
            "DESTINATION_S3_PERMISSION": "public-read",
            "MASTOSYNC_COPY_PRIVATE": "",
            "MASTOSYNC_RETRY_NIGHTS": "366",
            "MASTOSYNC_ROWS_PER_PARTITION": "8",
        }

    def dagster(self) -> dg.DagsterInstance:
        """Return its Dagster home."""
        return dg.DagsterInstance.from_config(str(self.home))

    def see(self, keys: Iterable[str] = ()) -> dict[str, FoundObject]:
        """Return what the destination has: contents by a listing, and the answer to an anonymous GET of some keys."""
        pages = self.destination.client.get_paginator("list_objects_v2").paginate(Bucket=self.destination.name)
        found = {entry["Key"]: entry["ETag"].strip('"') for page in pages for entry in page.get("Contents", ())}
        status = dict.fromkeys(found, 0)
        with contextlib.closing(http.client.HTTPConnection(LOOPBACK, self.ports[1], timeout=20)) as connection:
            for key in found.keys() & set(keys):
                connection.request("GET", f"/{self.destination.name}/{quote(key)}")
                answer = connection.getresponse()
                answer.read()
                status[key] = answer.status
        return {key: FoundObject(content, status[key]) for key, content in found.items()}

    def dump(self) -> dict[str, str]:
        """Return the rows, for `restore`."""
        rows = {}
        with self.connection.cursor() as cursor:
            for table in TABLES:
                cursor.execute(f'SELECT json_agg(kept)::text FROM "{table}" kept')  # noqa: S608  (a name)
                rows[table] = cursor.fetchall()[0][0] or "[]"
        return rows

    def restore(self, rows: Mapping[str, str]) -> None:
        """Have the database be what it was."""
        with self.connection.cursor() as cursor:
            cursor.execute("TRUNCATE accounts, media_attachments CASCADE")
            for table in TABLES:
                kept = f'SELECT * FROM json_populate_recordset(NULL::"{table}", %s::json)'  # noqa: S608  (a name)
                cursor.execute(f'INSERT INTO "{table}" {kept}', (rows[table],))


def _server(port: int) -> S3Server:
    # moto takes any key and any secret.
    return S3Server(f"http://{LOOPBACK}:{port}", "key-of-the-model", "secret-of-the-model", pid=0, log=Path(os.devnull))


class _Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def _storages(clock: Clock, faults: Faults) -> Iterator[tuple[int, int]]:
    """Run moto with ACLs at two ports, by the clock; the second one has the faults."""
    application = DomainDispatcherApplication(create_backend_app)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any], *, faulty: bool) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            others = [(name, value) for name, value in headers if name.lower() != "date"]
            return start_response(status, [*others, ("Date", format_datetime(clock.now, usegmt=True))], *rest)

        if faulty and faults.hit(environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = f"<Error><Code>{faults.code}</Code><Message>as planned</Message></Error>".encode()
            start(faults.status, [("Content-Length", str(len(body))), ("Content-Type", "application/xml")])
            return [body]
        answered: Iterable[bytes] = application(environ, start)
        return answered

    servers = [
        make_server(LOOPBACK, 0, partial(answer, faulty=faulty), threaded=True, request_handler=_Handler)
        for faulty in (False, True)
    ]
    models: Any = moto.s3.models
    before, models.utcnow = models.utcnow, lambda: clock.now.replace(tzinfo=None)
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield servers[0].server_port, servers[1].server_port
    finally:
        models.utcnow = before
        for server in servers:
            server.shutdown()
            server.server_close()


@contextlib.contextmanager
def run_processes(log: Path, ca_file: Path | None = None) -> Iterator[Runs]:
    """Run the process that forks runs, until the block ends; ``ca_file``: of other servers."""
    command = [sys.executable, "-m", "mastosync_dagster_tests.model.run_process"]
    environment = {**os.environ, **({"MODEL_CA_FILE": str(ca_file)} if ca_file else {})}
    with running(command, log=log, cwd=PROJECT, piped=True, env=environment) as process:
        yield Runs(process, log)


@contextlib.contextmanager
def model_world(postgres: PostgresServer, folder: Path) -> Iterator[World]:
    """Run the servers until the block ends."""
    database = create_database(postgres)
    clock, faults = Clock(folder / "clock"), Faults()
    with contextlib.closing(psycopg2.connect(database.url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(resources.files("mastosync_dagster.demo").joinpath("schema_main.sql").read_text())
            cursor.execute(_STATUSES)
            cursor.execute(_CLOCK)
            cursor.execute(f'ALTER DATABASE "{database.database}" SET search_path = clock, pg_catalog, public')
        template = folder / "home"
        template.mkdir()
        (template / "dagster.yaml").write_text(_HOME)
        with dg.DagsterInstance.from_config(str(template)) as dagster:
            dagster.get_runs(limit=1)
            dagster.get_dynamic_partitions("nothing")
        with (
            _storages(clock, faults) as ports,
            hostile_web(folder) as web,
            run_processes(folder / "runs.log", web.ca_file) as runs,
            run_processes(folder / "beside.log", web.ca_file) as beside,
        ):
            yield World(folder, clock, database, connection, ports, runs, beside, web, faults)
    drop_database(database)
