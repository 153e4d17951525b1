"""``mastosync ui`` from outside: a webserver and a daemon on a port of ours, and nothing left behind by Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from mastosync_dagster.demo.servers.start import free_port
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.graphql import Webserver
from mastosync_dagster_tests.support.proxy import Delay, Kind, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster_tests.support.installation import Installation

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]
_COMMAND = str(Path(sys.executable).with_name("mastosync"))


@contextlib.contextmanager
def ui_process(world: Installation, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run the command until the block ends."""
    process = subprocess.Popen(
        [_COMMAND, "ui", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **world.environment},
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)


def test_it_serves_runs_and_ends_with_its_runs_at_ctrl_c(world: Installation) -> None:
    port = free_port()
    (key, *_) = world.register(FileType.MEDIA_ATTACHMENTS)[FileType.MEDIA_ATTACHMENTS]
    world.source_proxy.set_rules(Rule(Delay(1), kinds=frozenset({Kind.GET})))
    with ui_process(world, port) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "is the Dagster UI" in line:
                break
        else:
            raise AssertionError("it ended")
        assert line.startswith(f"http://127.0.0.1:{port} ")
        webserver = Webserver(f"http://127.0.0.1:{port}")
        config = {"ops": {"media_attachments": {"ops": {"copy": {"config": {"concurrency": 1}}}}}}
        backfill = webserver.launch_backfill("media_attachments", [key], config)
        deadline = time.monotonic() + 120
        while not world.destination_proxy.count(Kind.PUT):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait() == 128 + signal.SIGINT, rest
    assert "1 run was stopped: what has been copied stays" in rest
    (run,) = world.dagster.get_runs()
    assert run.status.value == "CANCELED"
    assert run.tags["dagster/backfill"] == backfill
    assert list(Path(world.dagster.root_directory).rglob("media_attachments/**/*.parquet"))
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []


def test_a_port_that_is_taken_and_a_second_ui_are_a_sentence(world: Installation) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = world.command("mastosync", "ui", "--port", str(taken.getsockname()[1]))
    assert outcome.returncode == 1
    assert "choose another one with --port" in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT])
def test_one_that_is_killed_leaves_no_services_behind(world: Installation, number: signal.Signals) -> None:
    with ui_process(world, free_port()) as process:
        assert process.stdout is not None
        assert any("is the Dagster UI" in line for line in process.stdout)
        children = psutil.Process(process.pid).children()
        assert len(children) == 3
        process.send_signal(number)
        assert process.wait() == -number
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
