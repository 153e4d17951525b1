"""The metrics, as a real Prometheus reads them, and its alert when no night is good any more."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.servers.start import free_port
from mastosync_dagster.metrics.collector import MastosyncCollector
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.prometheus import PROMTOOL, needs_prometheus, prometheus
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


@pytest.mark.long
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
    assert 'mastosync_retries{asset="replica",side="source"} 0.0' in outcome.output


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
