"""A run dies on one machine, and another one goes on: nothing that it needs lies on the first."""

from __future__ import annotations

import contextlib
import shutil
import signal
from typing import TYPE_CHECKING

import dagster as dg
import psycopg2
import pytest

from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster_tests.support.corners import create_database, drop_database
from mastosync_dagster_tests.support.installation import PROJECT
from mastosync_dagster_tests.support.machines import Machines
from mastosync_dagster_tests.support.proxy import Delay, Kind, Rule
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster_tests.support.installation import Installation

pytestmark = [pytest.mark.timeout(400), pytest.mark.long]

SLOW = Rule(Delay(1), kinds=frozenset({Kind.GET}))

RUN = """
import sys
import dagster as dg
from mastosync_dagster_tests.support.machines import sync_accounts
partition, parent = sys.argv[1:]
with dg.DagsterInstance.get() as instance:
    again = dg.ReexecutionOptions.from_failure(parent, instance) if parent else None
    with dg.execute_job(
        dg.reconstructable(sync_accounts),
        instance,
        tags={"dagster/partition": partition},
        reexecution_options=again,
    ) as result:
        print(result.success, sorted({event.step_key for event in result.all_events if event.is_step_start}))
"""


@pytest.fixture
def machines(world: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "100000")
    monkeypatch.setenv("MASTOSYNC_MANIFESTS", str(tmp_path / "manifests"))
    history = create_database(world.database)
    yield Machines(history, tmp_path, (PROJECT / "dagster.yaml").read_text())
    drop_database(history)


def test_a_run_that_died_after_its_plan_is_re_executed_from_failure_on_another_machine(
    world: Installation, machines: Machines
) -> None:
    partition = machines.register("a")
    world.source_proxy.set_rules(SLOW)
    first = machines.start("a", ["-c", RUN, partition, ""])
    wait_until(lambda: world.destination_proxy.count(Kind.PUT) > 0, 90)
    first.send_signal(signal.SIGKILL)
    first.wait()
    world.source_proxy.set_rules()
    with machines.instance("b") as instance:
        (died,) = instance.get_runs()
        instance.report_run_failed(died, "Its machine is gone.")
    machines.start("b", ["-c", RUN, partition, died.run_id]).wait(timeout=120)
    # `plan` was good, and what it made lies on the other machine.
    output = machines.log("b").read_text()
    assert "True ['accounts.copy', 'accounts.report']\n" in output, output
    assert world.compare("accounts").differences == ()


def test_what_a_machine_could_not_publish_is_published_by_another_though_the_first_never_comes_back(
    world: Installation, machines: Machines, tmp_path: Path
) -> None:
    partition = machines.register("a")
    place = tmp_path / "manifests" / "accounts" / partition
    place.parent.mkdir(parents=True)
    place.write_text("a file where a folder must be")
    machines.start("a", ["-c", RUN, partition, ""]).wait(timeout=120)
    assert "it waits in Dagster's history" in machines.log("a").read_text()
    shutil.rmtree(machines.home("a"))
    place.unlink()
    machines.start("b", ["-c", RUN, partition, ""]).wait(timeout=120)
    with machines.instance("b") as instance:
        (first,) = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        store = manifest_store(instance, S3Bucket.destination())
    (kept,) = store.files("late-accounts")
    assert kept.run_id == first.run_id
    copied = {line.key for lines in store.read(kept) for line in lines if line.outcome is Outcome.COPIED}
    assert copied == {each.key for each in world.instance.objects_of("accounts")}
    with contextlib.closing(psycopg2.connect(machines.history.url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT key FROM kvs WHERE key LIKE 'mastosync%'")
        assert cursor.fetchall() == []
