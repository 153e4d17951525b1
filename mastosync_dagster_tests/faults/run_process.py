"""A process that forks runs: ``python -m mastosync_dagster_tests.faults.run_process``.

Importing Dagster takes seconds, a fork none, so that dozens of runs can be killed in a short time. It reads lines of
JSON from its standard input and executes a run in a child each; it answers with the child's process id, and when the
child has ended, with whether the run succeeded (null: killed). A line is an object: ``variables`` of the environment,
and, where it is not every row of all file types, ``job``, ``partition`` and ``config``; ``ahead``: seconds by which the
clock of the child's machine is ahead.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.sync import clocks

_FAILED = 3


def main() -> None:
    """Fork a run for each line of the input."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    definitions = build_definitions()
    for line in sys.stdin:
        wanted: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_run(definitions, wanted))
        print(pid, file=answers, flush=True)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({0: True, _FAILED: False}.get(code)), file=answers, flush=True)


def _run(definitions: dg.Definitions, wanted: dict[str, Any]) -> int:
    os.environ.update(wanted["variables"])
    ahead = timedelta(seconds=wanted.get("ahead", 0))
    clocks.machine_now = lambda: datetime.now(timezone.utc) + ahead
    with dg.DagsterInstance.get() as instance:
        result = definitions.resolve_job_def(wanted.get("job", "sync_changes")).execute_in_process(
            instance=instance,
            partition_key=wanted.get("partition"),
            run_config=wanted.get("config"),
            raise_on_error=False,
        )
    return 0 if result.success else _FAILED


if __name__ == "__main__":
    main()
