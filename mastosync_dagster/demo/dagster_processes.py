"""Dagster's processes, seen from the demo: the one that executes the runs, and the ones that serve the UI."""

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
from mastosync_dagster.demo.servers.processes import running
from mastosync_dagster.demo.servers.start import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_UI_SECONDS = 90.0
_SERVING = re.compile(rb"Serving dagster-webserver on (http://[\d.:]+)")
_END_SECONDS = 10.0
_LOG_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run says at its end.

    Attributes:
        file_type: Its asset; "" where it is about all of them.
        partition: Its ID range; "" where it has none.
        success: Whether it succeeded.
        message: Why not; else "".
        manifest: Path of its manifest; "" if there is none.
        seconds: How long it took, Dagster's part included.
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
    """The process of `mastosync_dagster.demo.runs`.

    Attributes:
        process: It, with pipes.
        log: Where its standard error goes.
    """

    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, command: str) -> list[RunReport]:
        """Have a command carried out.

        Args:
            command: ``ranges``, ``sync`` or ``again``.

        Returns:
            The reports of its runs.

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
            told = json.loads(line)
            if told is None:
                return reports
            reports.append(RunReport(**told))
        raise DemoError(f"the process of the runs ended. {_end_of(self.log)}")


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
    """The Dagster UI and its daemon.

    Attributes:
        url: Where the UI is.
        process: ``dagster dev``, which ends when one of them does.
        log: Their output.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait(self) -> None:
        """Wait until it ends by itself.

        Raises:
            DemoError: Which it should not.
        """
        self.process.wait()
        raise DemoError(f"the Dagster UI ended. {_end_of(self.log)}")


@contextlib.contextmanager
def dagster_ui(home: Path, environment: Mapping[str, str], log: Path) -> Iterator[Ui]:
    """Serve the Dagster UI on loopback, and run the daemon that launches backfills, until the block ends.

    The port is Dagster's usual one, 3000, or a free one where that is taken.

    Raises:
        DemoError: It does not start.
    """
    command = [sys.executable, "-m", "dagster", "dev", "-m", "mastosync_dagster", "-h", LOOPBACK]
    before = log.stat().st_size if log.exists() else 0
    # In its own folder: `dagster dev` wonders about a dagster.yaml in the current one.
    with running(command, log=log, stop_by=signal.SIGINT, cwd=home, env=environment) as process:
        yield Ui(_wait_until_serving(process, log, before), process, log)


def _wait_until_serving(process: subprocess.Popen[bytes], log: Path, before: int) -> str:
    """Wait until the UI answers, and return its URL, which Dagster has chosen and written into the log."""
    deadline = time.monotonic() + _UI_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline and process.poll() is None:
        said = _SERVING.search(log.read_bytes()[before:])
        if said is not None:
            url = said[1].decode()
            with contextlib.suppress(OSError), opener.open(f"{url}/server_info", timeout=5):
                return url
        time.sleep(0.2)
    raise DemoError(f"the Dagster UI does not start. {_end_of(log)}")


def _end_of(log: Path) -> str:
    return f"The end of {log}:\n{log.read_text(errors='replace')[-_LOG_CHARACTERS:]}"
