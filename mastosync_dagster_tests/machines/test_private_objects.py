"""A worker stands still, another takes over its range, and the first goes on: what is private stays private."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import psutil
import psycopg2
import pytest

from mastosync_dagster.demo.instance.load import build
from mastosync_dagster_tests.machines.conftest import HASTE
from mastosync_dagster_tests.machines.farm import ASSET, Farm, all_succeeded, farm
from mastosync_dagster_tests.support.acls import acl_server, anonymous_status
from mastosync_dagster_tests.support.corners import create_bucket, create_database, drop_database
from mastosync_dagster_tests.support.installation import environment_for
from mastosync_dagster_tests.support.instance_cases import ALL_CASES
from mastosync_dagster_tests.support.proxy import Delay, Kind, Proxy, Rule, s3_proxy
from mastosync_dagster_tests.support.redis_server import NEEDS_REDIS, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server

# It waits for a lease to end, and takes minutes of a processor.
pytestmark = [NEEDS_REDIS, pytest.mark.machines, pytest.mark.timeout(600)]

_SLOW = Rule(Delay(0.5), kinds=frozenset({Kind.GET}))
"""So that most objects are in flight when the worker stands still, and their bodies come meanwhile."""

_AFTERWARDS_SECONDS = 5.0


class Watched:
    """A farm whose destination enforces ACLs, behind a proxy that counts; and who can read what."""

    def __init__(self, workers: Farm, destination_proxy: Proxy, source_proxy: Proxy, database: PostgresServer) -> None:
        self.workers = workers
        self.proxy = destination_proxy
        self.source_proxy = source_proxy
        self._database = database

    def execute(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        with contextlib.closing(psycopg2.connect(self._database.url)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            found = cursor.fetchall() if cursor.description else []
            connection.commit()
            return found

    def private_rows(self) -> set[object]:
        found = self.execute(
            "SELECT m.id FROM media_attachments m LEFT JOIN accounts a ON a.id = m.account_id"
            " LEFT JOIN statuses s ON s.id = m.status_id WHERE a.suspended_at IS NOT NULL OR s.deleted_at IS NOT NULL"
        )
        return {row for (row,) in found}

    def wrong_answers(self) -> list[str]:
        """Return what an anonymous reader gets of each object that the rows say otherwise of."""
        destination, private = self.workers.destination, self.private_rows()
        return [
            f"{each.key}: {status}"
            for each in self.workers.instance.objects_of(ASSET)
            if (status := anonymous_status(destination.server, destination.name, each.key))
            != (403 if each.row_id in private else 200)
        ]

    def processes(self, name: str) -> list[psutil.Process]:
        """Return a worker and the processes of its runs."""
        worker = psutil.Process(self.workers.processes[name].pid)
        return [worker, *worker.children(recursive=True)]

    def puts(self) -> Counter[str]:
        """Return how often each object was written, the probes aside."""
        return Counter(
            request.key
            for request in self.proxy.requests
            if request.kind is Kind.PUT and re.search(rf"^{ASSET}/|^cache/{ASSET}/", request.key)
        )


@pytest.fixture
def watched(postgres_server: PostgresServer, source_server: S3Server, tmp_path: Path) -> Iterator[Watched]:
    """One ID range; most accounts are not suspended yet."""
    mastodon, history = create_database(postgres_server), create_database(postgres_server)
    source = create_bucket(source_server)
    with contextlib.closing(psycopg2.connect(mastodon.url)) as connection:
        instance = build(connection, source_server, source.name, cases=ALL_CASES, rows=400)
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "redis").mkdir()
    with contextlib.ExitStack() as stack:
        destination = create_bucket(stack.enter_context(acl_server()))
        source_proxy = stack.enter_context(s3_proxy(source_server.endpoint))
        proxy = stack.enter_context(s3_proxy(destination.server.endpoint))
        variables = environment_for(mastodon, source, destination, source_proxy.endpoint, proxy.endpoint, home)
        del variables["MASTOSYNC_COPY_PRIVATE"]
        variables |= {
            "DESTINATION_S3_PERMISSION": "public-read",
            "DAGSTER_PG_HOST": history.host,
            "DAGSTER_PG_USER": history.user,
            "DAGSTER_PG_PASSWORD": history.password,
            "DAGSTER_PG_DB": history.database,
            "MASTOSYNC_MANIFESTS": str(home / "manifests"),
            "MASTOSYNC_ROWS_PER_PARTITION": "100000",
        }
        settings = {"port: 5432": f"port: {history.port}", **HASTE}
        broker = stack.enter_context(redis_server(tmp_path / "redis"))
        workers = stack.enter_context(farm(home, variables, destination, broker, instance=instance, settings=settings))
        yield Watched(workers, proxy, source_proxy, mastodon)
    for database in (mastodon, history):
        drop_database(database)


def test_a_worker_that_stood_still_makes_nothing_public_that_became_private_meanwhile(watched: Watched) -> None:
    workers = watched.workers
    (partition,) = workers.register()
    watched.source_proxy.set_rules(_SLOW)
    workers.start_worker("one")
    backfill = workers.webserver.launch_backfill(ASSET, [partition])
    workers.wait_for_runs(backfill, lambda _: len(watched.puts()) > 20)
    stopped = watched.processes("one")
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    watched.source_proxy.set_rules()
    # Now everything becomes private that the first run has planned as public.
    watched.execute("UPDATE accounts SET suspended_at = now() WHERE suspended_at IS NULL")
    workers.start_worker("two")
    workers.wait_for_runs(backfill, lambda runs: all_succeeded(runs, [partition]))
    assert watched.wrong_answers() == []
    written = watched.puts()
    for process in reversed(stopped):
        process.send_signal(signal.SIGCONT)
    time.sleep(_AFTERWARDS_SECONDS)
    assert watched.wrong_answers() == []
    assert watched.puts() == written
    assert max(written.values()) <= 2
    assert workers.compare().differences == ()
