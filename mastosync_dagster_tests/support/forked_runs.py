"""Runs in processes of their own that start at once, forked by ``faults.run_process``: so that they can be killed."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.installation.processes import running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class ForkedRuns:
    """Executes runs, one at a time.

    Attributes:
        process: Forks them.
        log: What they print.
    """

    process: subprocess.Popen[bytes]
    log: Path

    def start(self, variables: Mapping[str, str], **wanted: object) -> int:
        """Begin a run; return its process id.

        Args:
            variables: Its environment.
            wanted: The other entries that ``faults.run_process`` reads.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"variables": variables, **wanted}).encode() + b"\n")
        self.process.stdin.flush()
        return int(self._answer())

    def end(self) -> bool | None:
        """Wait for the run's end; return whether it succeeded. None: it was killed."""
        success: bool | None = json.loads(self._answer())
        return success

    def _answer(self) -> bytes:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        return line


@contextlib.contextmanager
def forked_runs(log: Path) -> Iterator[ForkedRuns]:
    """Run the process that forks, until the block ends."""
    command = [sys.executable, "-m", "mastosync_dagster_tests.faults.run_process"]
    with running(command, log=log, cwd=Path(__file__).parents[2], piped=True) as process:
        yield ForkedRuns(process, log)
