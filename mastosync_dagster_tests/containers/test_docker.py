"""The commands of docs/deploy.md make a deployment that copies, stops when asked to, and survives what happens."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.containers.conftest import SECTION
from mastosync_dagster_tests.containers.deployment import NAME, documented
from mastosync_dagster_tests.containers.engine import docker

if TYPE_CHECKING:
    from mastosync_dagster_tests.containers.deployment import Deployment
    from mastosync_dagster_tests.support.graphql import Run

pytestmark = [pytest.mark.containers, pytest.mark.timeout(2700)]

ASSET = "media_attachments"
TERMINATED_SECONDS = 10.0
STANDS_STILL_SECONDS = 5.0
AWAY_SECONDS = float(os.environ.get("HISTORY_AWAY_SECONDS", "30"))
"""Longer than Dagster itself tries to reach its history, a quarter of a minute."""


def slowly(requests_per_second: float) -> dict[str, object]:
    """Return the run config of a backfill whose runs together send so many requests to the destination."""
    copy = {"config": {"destination_requests_per_second": requests_per_second}}
    return {"ops": {ASSET: {"ops": {"copy": copy}}}}


def ranges(deployment: Deployment) -> list[str]:
    """Return the ID ranges that are registered."""
    lines = deployment.run_documented("docker compose -f deploy/compose.yaml exec code mastosync ranges --all " + ASSET)
    return [line.split()[0] for line in lines.splitlines() if line.startswith("  ")]


def all_succeeded(runs: list[Run], partitions: list[str]) -> bool:
    """Whether each ID range has a run that succeeded, and no run goes on."""
    if any(run.status not in {"SUCCESS", "FAILURE", "CANCELED"} for run in runs):
        return False
    return {run.partition for run in runs if run.status == "SUCCESS"} == set(partitions)


def check_equal(deployment: Deployment) -> None:
    """Every object of the asset is at the destination, and is equal."""
    compared = deployment.mastodon.compare(ASSET)
    assert compared.differences == ()
    assert compared.equal > 100


def test_the_documented_commands_work(deployment: Deployment) -> None:
    by_end = {line.partition(" mastosync ")[2] or line: output for line, output in deployment.said.items()}
    assert {"check", "sync --limit 100", "ranges"} <= by_end.keys()
    assert "media_attachments" in by_end["ranges"]
    for service in ("code", "webserver", "daemon"):
        container = deployment.container(service)
        settings = docker("inspect", container)
        (inspected,) = json.loads(settings)
        assert inspected["HostConfig"]["ReadonlyRootfs"]
        assert inspected["HostConfig"]["CapDrop"] == ["ALL"]
        assert docker("exec", container, "id", "-u").strip() == "1000"
        for secret in (deployment.mastodon.database.password, deployment.mastodon.destination.secret_access_key):
            assert secret not in settings


def test_a_backfill_copies_every_object(clean: Deployment) -> None:
    partitions = ranges(clean)
    backfill = clean.webserver.launch_backfill(ASSET, partitions)
    runs = clean.wait_for_runs(backfill, lambda runs: all_succeeded(runs, partitions))
    assert len(runs) == len(partitions)
    check_equal(clean)


def test_terminate_ends_a_copy_at_once(clean: Deployment) -> None:
    partition = ranges(clean)[0]
    backfill = clean.webserver.launch_backfill(ASSET, [partition], slowly(2))
    (run,) = clean.wait_for_runs(backfill, lambda _: clean.mastodon.copied > 5)
    clicked = time.monotonic()
    clean.webserver.terminate(run.run_id)
    clean.wait_for_runs(backfill, lambda runs: runs[0].status == "CANCELED", TERMINATED_SECONDS)
    took, copied = time.monotonic() - clicked, clean.mastodon.copied
    time.sleep(STANDS_STILL_SECONDS)
    assert clean.mastodon.copied == copied
    assert took < TERMINATED_SECONDS
    assert len(clean.webserver.runs_of_backfill(backfill)) == 1


def test_whatever_crashes_all_ranges_materialize_and_every_run_gets_an_end(clean: Deployment) -> None:
    partitions = ranges(clean)
    clean.limit_runs(3)
    backfill = clean.webserver.launch_backfill(ASSET, partitions)
    clean.wait_for_runs(backfill, lambda _: clean.mastodon.copied > 10)
    for service in ("history", "webserver", "daemon"):
        clean.crash(service)
        clean.wait_until_healthy()
    # None of these takes a run with it.
    runs = clean.wait_for_runs(backfill, lambda runs: any(run.status == "STARTED" for run in runs))
    assert "FAILURE" not in {run.status for run in runs}
    command = clean.start("mastosync", "sync", ASSET, MASTOSYNC_DESTINATION_REQUESTS_PER_SECOND="2")
    run_id = clean.wait_for_command()
    # What is started again has nothing to wait for.
    clean.limit_runs(None)
    clean.crash("code")
    assert command.wait(60) != 0
    runs = clean.wait_for_runs(backfill, lambda runs: all_succeeded(runs, partitions))
    assert len([run for run in runs if run.status == "FAILURE"]) <= 3
    assert clean.webserver.run(run_id).status == "FAILURE"
    check_equal(clean)


def test_a_copy_waits_for_its_history(clean: Deployment) -> None:
    partition = ranges(clean)[0]
    backfill = clean.webserver.launch_backfill(ASSET, [partition], slowly(3))
    clean.wait_for_runs(backfill, lambda _: clean.mastodon.copied > 5)
    clean.compose("stop", "history")
    time.sleep(AWAY_SECONDS)
    clean.compose("start", "history")
    (run,) = clean.wait_for_runs(backfill, lambda runs: all_succeeded(runs, [partition]))
    assert run.status == "SUCCESS"


def test_a_stop_and_an_upgrade_in_the_middle_of_a_backfill_fail_no_run(clean: Deployment) -> None:
    partitions = ranges(clean)
    before = clean.container("code")
    # Both times runs go on for longer than Docker itself would wait for them, which is ten seconds.
    clean.limit_runs(8)
    backfill = clean.webserver.launch_backfill(ASSET, partitions)
    clean.wait_for_runs(backfill, lambda _: clean.mastodon.copied > 5)
    clean.compose("stop")
    clean.limit_runs(6)
    clean.compose("up", "-d")
    clean.wait_until_healthy()
    assert not all_succeeded(clean.webserver.runs_of_backfill(backfill), partitions)
    clean.wait_for_runs(backfill, lambda runs: any(run.status == "STARTED" for run in runs))
    with (clean.folder / "mastosync_dagster" / "units.py").open("a") as file:
        file.write("# a new version\n")
    (upgrade,) = {line for line in documented(SECTION) if line.endswith("--build")}
    clean.run_documented(upgrade)
    assert clean.container("code") != before
    installed = "cat /opt/mastosync/lib/python3*/site-packages/mastosync_dagster/units.py"
    assert "# a new version" in docker("exec", clean.container("code"), "sh", "-c", installed)
    runs = clean.wait_for_runs(backfill, lambda runs: all_succeeded(runs, partitions))
    assert {run.status for run in runs} == {"SUCCESS"}
    assert len(runs) == len(partitions)
    check_equal(clean)


def test_the_way_back_has_the_history_of_before_and_the_old_volumes(clean: Deployment) -> None:
    lines = documented(SECTION)
    begin = next(number for number, line in enumerate(lines) if line.startswith("docker tag"))
    keep, (*back, owner) = lines[begin : begin + 2], lines[begin + 2 :]
    before = clean.webserver.newest_run()
    for line in keep:
        clean.run_documented(line)
    clean.run_documented("docker compose -f deploy/compose.yaml exec code mastosync sync --limit 1")
    assert clean.webserver.newest_run() != before
    for line in back:
        clean.run_documented(line)
    clean.wait_until_healthy()
    assert clean.webserver.newest_run() == before
    for folder in ("storage", "manifests"):
        docker(
            "run", "--rm", "--user", "0", "--entrypoint", "chown", "-v", f"{NAME}_{folder}:/old", NAME, "0:0", "/old"
        )
    clean.run_documented(owner)
    clean.run_documented("docker compose -f deploy/compose.yaml exec code mastosync sync --limit 1")
