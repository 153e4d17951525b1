"""What one machine could not publish is published by another one that shares its history."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg2
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType

from mastosync_dagster.records.store import FolderManifests, ManifestStoreError
from mastosync_dagster.runs import outbox
from mastosync_dagster.runs.outbox import Outbox
from mastosync_dagster_tests.support.machines import Machines
from mastosync_dagster_tests.support.run_processes import run_process, some_job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import dagster as dg

    from mastosync_dagster.demo.servers.start import PostgresServer

pytestmark = pytest.mark.long

SETTINGS = "telemetry: {enabled: false}"
BODY = random.Random(1).randbytes(7 << 20)
"""Of a manifest that goes to the history in three pieces."""

PUBLISH = """
import os, signal, sys
from pathlib import Path
import dagster as dg
from mastosync_dagster.records.store import FolderManifests, ManifestStoreError
from mastosync_dagster.runs import outbox

calls = []
def die(*_, **__):
    calls.append(1)
    if len(calls) == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*_, **__)

home, file, store, run_id, owner, name, number = sys.argv[1:]
owner = {"outbox": outbox, "Path": Path}[owner]
real = getattr(owner, name)
with dg.DagsterInstance.from_config(home) as instance:
    box = outbox.Outbox(instance, print)
    setattr(owner, name, die)
    box.publish(FolderManifests(Path(store)), Path(file), "accounts", "1-9", run_id)
"""


@pytest.fixture
def machines(database: PostgresServer, tmp_path: Path) -> Machines:
    return Machines(database, tmp_path, SETTINGS)


@pytest.fixture
def store(tmp_path: Path) -> FolderManifests:
    """A store that takes nothing until `open_store`."""
    (tmp_path / "manifests").write_text("a file where a folder must be")
    return FolderManifests(tmp_path / "manifests")


def open_store(folder: Path) -> None:
    (folder / "manifests").unlink()


def refused(instance: dg.DagsterInstance, store: FolderManifests, folder: Path, *, ends: bool = True) -> str:
    """Have a run whose manifest and doubt list cannot be published; return its id."""
    run = instance.create_run_for_job(some_job)
    instance.report_dagster_event(DagsterEvent(DagsterEventType.PIPELINE_START.value, some_job.name), run.run_id)
    warnings: list[str] = []
    for group, body in (("accounts", BODY), ("doubts_accounts", b"doubts")):
        (folder / "file").write_bytes(body)
        with pytest.raises(ManifestStoreError):
            Outbox(instance, warnings.append).publish(store, folder / "file", group, "1-9", run.run_id)
    assert [f"run {run.run_id} could not be published: it waits in Dagster's history" in each for each in warnings] == [
        True,
        True,
    ]
    if ends:
        instance.report_run_failed(run)
    return run.run_id


def rows(database: PostgresServer) -> int:
    """Return how many entries are left in the history."""
    with contextlib.closing(psycopg2.connect(database.url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM kvs WHERE key LIKE 'mastosync%'")
        return int(cursor.fetchall()[0][0])


def waiting_files(folder: Path) -> list[Path]:
    return list(folder.rglob("mastosync-unpublished/*"))


def published(folder: Path) -> dict[str, bytes]:
    top = folder / "manifests"
    return {str(file.relative_to(top)): file.read_bytes() for file in top.rglob("*.parquet")}


@pytest.fixture
def a_and_b(machines: Machines) -> Iterator[tuple[dg.DagsterInstance, dg.DagsterInstance]]:
    with machines.instance("a") as a, machines.instance("b") as b:
        yield a, b


def test_another_machine_publishes_what_this_one_could_not_and_nothing_is_left(
    a_and_b: tuple[dg.DagsterInstance, dg.DagsterInstance],
    store: FolderManifests,
    database: PostgresServer,
    tmp_path: Path,
) -> None:
    a, b = a_and_b
    run_id = refused(a, store, tmp_path)
    assert waiting_files(tmp_path) == []
    warnings: list[str] = []
    Outbox(b, warnings.append).publish_waiting(store)
    assert len(warnings) == 2
    open_store(tmp_path)
    Outbox(b, pytest.fail).publish_waiting(store)
    assert published(tmp_path) == {
        f"late-accounts/1-9/{run_id}.parquet": BODY,
        f"doubts_accounts/1-9/{run_id}.parquet": b"doubts",
    }
    assert rows(database) == 0
    Outbox(a, pytest.fail).publish_waiting(store)
    assert len(published(tmp_path)) == 2


def test_what_belongs_to_a_run_that_lives_on_another_machine_stays_its_own(
    a_and_b: tuple[dg.DagsterInstance, dg.DagsterInstance],
    machines: Machines,
    store: FolderManifests,
    database: PostgresServer,
    tmp_path: Path,
) -> None:
    a, b = a_and_b
    run_id = refused(a, store, tmp_path, ends=False)
    open_store(tmp_path)
    with run_process(str(machines.home("a")), run_id):
        Outbox(b, pytest.fail).publish_waiting(store)
        run = a.get_run_by_id(run_id)
        assert run is not None
        a.report_run_failed(run)  # by hand, say, while its process goes on
        Outbox(a, pytest.fail).publish_waiting(store)
        assert published(tmp_path) == {}
    Outbox(b, pytest.fail).publish_waiting(store)
    assert len(published(tmp_path)) == 2
    assert rows(database) == 0


@pytest.mark.long(cases=1)
@pytest.mark.parametrize(
    ("owner", "name", "number", "elsewhere"),
    [
        pytest.param("outbox", "b64encode", 2, 0, id="in the middle of putting it into the history"),
        pytest.param("Path", "unlink", 1, 1, id="before its own file is removed"),
    ],
)
def test_a_machine_that_is_killed_has_put_all_of_it_into_the_history_or_nothing(
    machines: Machines,
    store: FolderManifests,
    database: PostgresServer,
    tmp_path: Path,
    owner: str,
    name: str,
    number: int,
    elsewhere: int,
) -> None:
    with machines.instance("a") as a, machines.instance("b") as b:
        run = a.create_run_for_job(some_job)
        (tmp_path / "file").write_bytes(BODY)
        arguments = (machines.home("a"), tmp_path / "file", tmp_path / "manifests", run.run_id, owner, name, number)
        died = subprocess.run([sys.executable, "-c", PUBLISH, *map(str, arguments)], check=False)
        assert died.returncode == -signal.SIGKILL
        b.report_run_failed(run)
        open_store(tmp_path)
        Outbox(b, pytest.fail).publish_waiting(store)
        late = {f"late-accounts/1-9/{run.run_id}.parquet": BODY}
        assert published(tmp_path) == (late if elsewhere else {})
        # The machine comes back.
        Outbox(a, pytest.fail).publish_waiting(store)
        assert published(tmp_path) == late
        assert waiting_files(tmp_path) == []
        assert rows(database) == 0


def test_two_machines_that_publish_it_at_once_publish_the_same(
    a_and_b: tuple[dg.DagsterInstance, dg.DagsterInstance],
    store: FolderManifests,
    database: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = refused(a_and_b[0], store, tmp_path)
    open_store(tmp_path)
    together, write = threading.Barrier(2, timeout=60), FolderManifests.write

    def write_together(*arguments: object) -> str:
        together.wait()  # both have read it
        try:
            return write(*arguments)  # type: ignore[arg-type]  # handed through
        finally:
            together.wait()

    monkeypatch.setattr(FolderManifests, "write", write_together)
    # Of two machines, each writes into a file of its own first.
    stores = [FolderManifests(tmp_path / "manifests"), FolderManifests(tmp_path / "manifests" / "other")]
    with ThreadPoolExecutor(2) as pool:
        outboxes = [Outbox(each, pytest.fail) for each in a_and_b]
        list(pool.map(Outbox.publish_waiting, outboxes, stores))
    assert rows(database) == 0
    names = (f"late-accounts/1-9/{run_id}.parquet", f"doubts_accounts/1-9/{run_id}.parquet")
    assert published(tmp_path) == {
        f"{place}{name}": body for place in ("", "other/") for name, body in zip(names, (BODY, b"doubts"), strict=True)
    }


@pytest.mark.long(cases=0)
def test_what_is_removed_while_it_is_read_is_read_whole(
    a_and_b: tuple[dg.DagsterInstance, dg.DagsterInstance],
    store: FolderManifests,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = refused(a_and_b[0], store, tmp_path)
    open_store(tmp_path)
    by_other = FolderManifests(tmp_path / "other")

    def decode_late(text: str) -> bytes:
        with monkeypatch.context() as patch:
            patch.setattr(outbox, "b64decode", b64decode)
            Outbox(a_and_b[0], pytest.fail).publish_waiting(by_other)
        return b64decode(text)

    monkeypatch.setattr(outbox, "b64decode", decode_late)
    Outbox(a_and_b[1], pytest.fail).publish_waiting(store)
    assert published(tmp_path) == {f"late-accounts/1-9/{run_id}.parquet": BODY}


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("why", ["full", "broken"])
def test_what_the_history_does_not_take_waits_on_the_machine_which_says_so(
    a_and_b: tuple[dg.DagsterInstance, dg.DagsterInstance],
    store: FolderManifests,
    database: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    why: str,
) -> None:
    a, _ = a_and_b
    run_id = refused(a, store, tmp_path)
    warnings: list[str] = []
    if why == "full":
        monkeypatch.setattr(outbox, "_MOST_MIB", 10)  # of 9.3 that wait there
    else:
        with contextlib.closing(psycopg2.connect(database.url)) as connection, connection:
            connection.cursor().execute("ALTER TABLE kvs RENAME TO away")
    (tmp_path / "file").write_bytes(BODY)
    with pytest.raises(ManifestStoreError):
        Outbox(a, warnings.append).publish(store, tmp_path / "file", "accounts", "10-19", run_id)
    (file,) = waiting_files(tmp_path)
    assert file.is_relative_to(tmp_path / "a")
    assert file.read_bytes() == BODY
    (warning,) = warnings
    assert f"it waits in {file}, where no other machine finds it" in warning
