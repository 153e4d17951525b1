"""What `mastosync check` says where workers execute the runs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.cli.check import Line, Verdict, check_workers
from mastosync_dagster_tests.support.redis_server import NEEDS_REDIS, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[2]
_LAUNCHER = """
run_launcher:
  module: mastosync_dagster.machines.launcher
  class: WatchfulCeleryRunLauncher
  config: {broker: {env: CELERY_BROKER}}
"""


def checked(home: Path) -> list[Line]:
    @contextlib.contextmanager
    def opened() -> Iterator[dg.DagsterInstance]:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield instance

    return list(check_workers(opened))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CELERY_BROKER", raising=False)
    (tmp_path / "dagster.yaml").write_text(_LAUNCHER)
    return tmp_path


def test_a_broker_that_is_not_named_fails(home: Path) -> None:
    (line,) = checked(home)
    assert line.verdict is Verdict.FAILED
    assert "CELERY_BROKER is not set" in line.text


def test_a_broker_that_does_not_answer_fails_without_its_password(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER", "redis://:s3cret@127.0.0.1:1/0")
    (line,) = checked(home)
    assert line.verdict is Verdict.FAILED
    assert "CELERY_BROKER at 127.0.0.1:1 does not answer" in line.text
    assert "s3cret" not in line.text


@NEEDS_REDIS
def test_a_broker_that_forgets_what_waits_is_warned_of(
    home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_server(tmp_path_factory.mktemp("redis")) as broker:
        monkeypatch.setenv("CELERY_BROKER", broker.url)
        (line,) = checked(home)
        assert line.verdict is Verdict.OK
        broker.client.config_set("appendfsync", "everysec")
        (second,) = checked(home)
        broker.client.config_set("appendonly", "no")
        (nothing,) = checked(home)
    assert second.verdict is nothing.verdict is Verdict.WARNED
    assert second.text.endswith("Start it with `appendfsync always`")
    assert nothing.text.endswith("Start it with `appendonly yes` and `appendfsync always`")


def test_nothing_is_said_where_this_machine_executes_the_runs(home: Path) -> None:
    (home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    assert checked(home) == []


@pytest.mark.long
def test_a_worker_without_a_broker_says_so() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CELERY_BROKER"}
    command = [sys.executable, "-m", "celery", "-A", "mastosync_dagster.machines.worker", "worker"]
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert outcome.returncode != 0
    assert "CELERY_BROKER is not set" in outcome.stderr
