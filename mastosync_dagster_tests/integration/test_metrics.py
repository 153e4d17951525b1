"""The metrics, as a real Prometheus reads them, and its alert when no night is good any more."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.demo.servers.start import free_port
from mastosync_dagster.mastodon import TABLES
from mastosync_dagster.metrics.collector import MastosyncCollector
from mastosync_dagster.metrics.server import metrics_once
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.prometheus import PROMTOOL, needs_prometheus, prometheus
from mastosync_dagster_tests.support.proxy import NO_PROBES, Answer, Delay, Kind, Rule
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.installation import Installation


def rules_of_seconds(folder: Path) -> Path:
    """Write the rules that the command prints, with seconds in the place of hours."""
    text = CliRunner().invoke(main, ["metrics", "--rules"]).output
    shortened = re.sub(r"for: \w+", "for: 0s", text.replace("26 * 3600", "3"))
    assert shortened.count("for: 0s") == text.count("for: ")
    rules = folder / "rules.yaml"
    rules.write_text(shortened)
    return rules


@pytest.mark.long(cases=0)
@needs_prometheus
def test_a_real_prometheus_reads_every_metric_and_fires_when_no_night_is_good(
    world: Installation, tmp_path: Path
) -> None:
    assert PROMTOOL is not None
    rules = rules_of_seconds(tmp_path)
    subprocess.run([PROMTOOL, "check", "rules", str(rules)], check=True, capture_output=True)
    world.register()
    assert world.run("sync_changes").success
    night = time.time()
    port = free_port()
    command = [str(Path(sys.executable).with_name("mastosync")), "metrics", f"--port={port}", "--every=1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with prometheus(tmp_path, rules, port) as asked:
            wait_until(lambda: len(asked.values("mastosync_objects_done")) == len(FileType), 30)
            assert asked.values("sum(mastosync_objects_left)") == [0]
            (done,), (missing,) = (
                asked.values("sum(mastosync_objects_done)"),
                asked.values("sum(mastosync_objects_missing)"),
            )
            assert (done, missing > 0) == (len(world.instance.objects_of(*FileType)), True)
            assert night - 60 < min(asked.values("mastosync_last_good_night_timestamp_seconds")) <= night
            for expression in expressions_of_dashboard():
                assert asked.values(expression), expression
            wait_until(lambda: "MastosyncNoGoodNight" in asked.firing(), 60)
            process.kill()
            wait_until(lambda: "MastosyncNotScraped" in asked.firing(), 60)
    finally:
        process.kill()
        process.wait(30)


def expressions_of_dashboard() -> list[str]:
    """Return every query of the dashboard that the command prints."""
    dashboard = json.loads(CliRunner().invoke(main, ["metrics", "--dashboard"]).output)
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.mark.long
def test_rules_and_dashboard_ask_for_metrics_that_there_are(world: Installation) -> None:
    assert world.run("sync_changes").success
    outcome = CliRunner().invoke(main, ["metrics", "--once"])
    assert outcome.exit_code == 0, outcome.output
    known = set(re.findall(r"^# TYPE (\w+) gauge$", outcome.output, re.MULTILINE))
    rules = CliRunner().invoke(main, ["metrics", "--rules"]).output
    asked = set(re.findall(r"mastosync_\w+", "\n".join([rules, *expressions_of_dashboard()])))
    assert asked <= known
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    assert known == set(re.findall(r"^\| `(mastosync_\w+)", page, re.MULTILINE))


def numbers(world: Installation) -> dict[str, float]:
    """Return what a scrape reads now: each series with its labels, and its value."""
    said: list[str] = []
    text = metrics_once(world.dagster, said.append)
    assert said == []
    return {series: float(value) for series, value in re.findall(r"^mastosync_(\S+) (\S+)$", text, re.MULTILINE)}


def repeated(found: dict[str, float], asset: str) -> dict[str, tuple[float, float]]:
    """Return how many requests were repeated, and how many throttled, by storage."""
    series = {name: f'{{asset="{asset}",side="{name}"}}' for name in ("source", "destination")}
    return {name: (found[f"retries{labels}"], found[f"throttles{labels}"]) for name, labels in series.items()}


def trouble(kind: Kind) -> tuple[Rule, ...]:
    """Throttle two requests, and let another fail for a passing reason that is none of the kind."""
    faults = ((Answer(503, "SlowDown"), 2), (Answer(500, "InternalError"), 1))
    return tuple(Rule(answer, kinds=frozenset({kind}), key=NO_PROBES, times=times) for answer, times in faults)


def bytes_in_book(world: Installation, table: str) -> int:
    """Return the bytes of all originals, by the rows that were generated."""
    names = [attachment.name for attachment in TABLES[table].attachments]
    return sum(
        int(str(row.get(f"{name}_file_size") or 0))
        for row in world.instance.rows[table]
        for name in names
        if str(row.get(f"{name}_file_name") or "").strip()
    )


@pytest.mark.long(cases=0)
def test_repeated_and_throttled_requests_count_at_the_storage_that_had_the_trouble(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, *_ = world.register(FileType.CUSTOM_EMOJIS)[FileType.CUSTOM_EMOJIS]
    world.destination_proxy.set_rules(*trouble(Kind.PUT))
    assert world.run("sync_custom_emojis", key).success
    world.destination_proxy.set_rules()
    found = numbers(world)
    assert repeated(found, "custom_emojis") == {"source": (0, 0), "destination": (3, 2)}
    assert 'retries{asset="replica",side="source"}' not in found  # there was no night yet

    world.source_proxy.set_rules(*trouble(Kind.GET))
    assert world.run("sync_changes").success
    found = numbers(world)
    assert repeated(found, "replica") == {"source": (3, 2), "destination": (0, 0)}
    done = {each.value: found[f'bytes_done{{file_type="{each.value}"}}'] for each in FileType}
    assert done == {each.value: bytes_in_book(world, each.value) for each in FileType}
    assert all(done.values())
    # A night into one destination says nothing of another.
    monkeypatch.setenv("DESTINATION_S3_BUCKET", "another")
    assert 'retries{asset="replica",side="source"}' not in numbers(world)


@pytest.mark.long(cases=0)
def test_runs_that_go_on_and_runs_that_wait_are_counted(world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    key, *_ = world.register(FileType.CUSTOM_EMOJIS)[FileType.CUSTOM_EMOJIS]
    running, waiting = 'runs{state="running"}', 'runs{state="queued"}'
    ranges = {state: f'id_ranges{{file_type="custom_emojis",state="{state}"}}' for state in ("running", "materialized")}
    found = numbers(world)
    assert (found[running], found[waiting], found[ranges["running"]]) == (0, 0, 0)
    world.dagster.create_run_for_job(build_definitions().resolve_job_def("sync_changes"))
    # Few at a time and slowly: the run lasts until the metrics are read.
    monkeypatch.setenv("MASTOSYNC_CONCURRENCY", "1")
    world.destination_proxy.set_rules(Rule(Delay(1), kinds=frozenset({Kind.PUT})))
    with ThreadPoolExecutor(1) as beside:
        run = beside.submit(world.run, "sync_custom_emojis", key)
        wait_until(lambda: run.done() or world.destination_proxy.count(Kind.PUT) > 0, 60)
        found = numbers(world)
        world.destination_proxy.set_rules()
        assert run.result().success
    assert (found[running], found[waiting], found[ranges["running"]]) == (1, 1, 1)
    found = numbers(world)
    assert (found[running], found[waiting], found[ranges["running"]]) == (0, 1, 0)
    assert found[ranges["materialized"]] == 1


@pytest.mark.long(cases=0)
def test_the_metrics_are_served_to_this_machine_alone(world: Installation) -> None:
    port = free_port()
    command = [str(Path(sys.executable).with_name("mastosync")), "metrics", f"--port={port}"]
    assert world
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == f"http://127.0.0.1:{port}/metrics\n"
            socket.create_connection(("127.0.0.1", port), 10).close()
            # Another address of this machine: a socket that is bound to all of them would answer there too.
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", port), 10)
        finally:
            process.kill()


def up(collector: MastosyncCollector) -> float:
    (metric,) = [metric for metric in collector.collect() if metric.name == "mastosync_up"]
    return metric.samples[0].value


def test_what_cannot_be_read_is_said_once_and_the_metrics_say_so(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    collector = MastosyncCollector(world.dagster, said.append)
    assert up(collector) == 0  # nothing was read yet
    collector.refresh()
    assert (up(collector), said) == (1, [])
    monkeypatch.setenv("DESTINATION_S3_BUCKET", "")
    for _ in range(2):
        collector.refresh()
    assert up(collector) == 0
    (problem,) = said
    assert "DESTINATION_S3_BUCKET" in problem


def test_a_history_that_cannot_be_read_ends_no_reading_for_good(tmp_path: Path, world: Installation) -> None:
    said: list[str] = []
    with dg.DagsterInstance.local_temp(str(tmp_path)) as broken:
        collector = MastosyncCollector(broken, said.append)
        (tmp_path / "history" / "runs" / "index.db").write_bytes(b"no database at all" * 100)
        collector.refresh()
    assert world
    assert up(collector) == 0
    (problem,) = said
    assert problem == "The metrics cannot be read (DatabaseError): does Dagster's history answer?"
