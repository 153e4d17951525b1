"""Starts Dagster's processes for the demo: the one that executes the runs, and the ones that serve the UI."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastosync_dagster.demo.home import DemoError
from mastosync_dagster.demo.servers.start import LOOPBACK, tail
from mastosync_dagster.installation.processes import running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_UI_SECONDS = 300.0
_SERVING = re.compile(rb"Serving dagster-webserver on (http://[\d.:]+)")
_END_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RunReport:
    """The result of a run.

    Attributes:
        file_type: Its asset; "" for a run of all file types.
        partition: Its ID range; "" for none.
        message: Why it failed, or "".
        manifest: Path of its manifest; "" for none.
        seconds: Its duration, Dagster's own work included.
        counts: `COUNTS`, as in its metadata.
    """

    file_type: str
    partition: str
    success: bool
    message: str
    manifest: str
    seconds: float
    counts: Mapping[str, int]


COUNTS = ("rows", "objects", "copied", "present", "missing", "failed", "bytes")


@dataclass(frozen=True)
class RunsProcess:
    """The process of `mastosync_dagster.demo.runs`, with pipes; its standard error goes to the log."""

    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, command: str) -> list[RunReport]:
        """Send a command (``ranges``, ``sync`` or ``again``), and return the reports of its runs.

        Raises:
            DemoError: The process ended instead; the message holds the end of its log.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None  # noqa: S101  (it was started with pipes)
        assert stdout is not None  # noqa: S101  (as above)
        with contextlib.suppress(BrokenPipeError):
            stdin.write(f"{command}\n".encode())
            stdin.flush()
        reports: list[RunReport] = []
        for line in stdout:
            answer = json.loads(line)
            if answer is None:
                return reports
            reports.append(RunReport(**answer))
        raise DemoError(f"the process of the runs ended. The end of {self.log}:\n{tail(self.log)}")


@contextlib.contextmanager
def runs_process(environment: Mapping[str, str], log: Path) -> Iterator[RunsProcess]:
    """Run the process of the runs until the block ends."""
    command = [sys.executable, "-m", "mastosync_dagster.demo.runs"]
    with running(command, log=log, stop_by=signal.SIGINT, grace=5, env=environment, piped=True) as process:
        yield RunsProcess(process, log)
        assert process.stdin is not None  # noqa: S101  (it was started with pipes)
        process.stdin.close()  # the end of its input is the end of its work
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)


@dataclass(frozen=True)
class Ui:
    """The Dagster UI and its daemon: the process is ``dagster dev``, which ends when one of them does."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait(self) -> None:
        """Wait until it ends by itself, which is a `DemoError`."""
        self.process.wait()
        raise DemoError(f"the Dagster UI ended. The end of {self.log}:\n{tail(self.log)}")


@contextlib.contextmanager
def dagster_ui(home: Path, environment: Mapping[str, str], log: Path) -> Iterator[Ui]:
    """Serve the Dagster UI on loopback, and run the daemon that launches backfills, until the block ends.

    The port is Dagster's usual one, 3000, or a free one where that is taken. `DemoError` if it does not start.
    """
    command = [sys.executable, "-m", "dagster", "dev", "-m", "mastosync_dagster", "-h", LOOPBACK]
    before = log.stat().st_size if log.exists() else 0
    # In the home: `dagster dev` warns about a dagster.yaml in the current folder.
    with running(command, log=log, stop_by=signal.SIGINT, cwd=home, env=environment) as process:
        yield Ui(_wait_until_serving(process, log, before), process, log)


def _wait_until_serving(process: subprocess.Popen[bytes], log: Path, before: int) -> str:
    """Wait until the UI answers, and return its URL, which Dagster has chosen and written into the log."""
    deadline = time.monotonic() + _UI_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline and process.poll() is None:
        match = _SERVING.search(log.read_bytes()[before:])
        if match is not None:
            url = match[1].decode()
            with contextlib.suppress(OSError), opener.open(f"{url}/server_info", timeout=5):
                return url
        time.sleep(0.2)
    raise DemoError(f"the Dagster UI does not start. The end of {log}:\n{tail(log)}")
