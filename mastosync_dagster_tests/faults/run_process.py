"""A process that forks runs: ``python -m mastosync_dagster_tests.faults.run_process``.

Importing Dagster takes seconds, a fork none, so that dozens of runs can be killed in a short time. It reads lines of
JSON from its standard input (variables of the environment) and runs every row of all file types in a child each;
it answers with the child's process id, and when the child has ended, with whether the run succeeded (null: killed).
"""

from __future__ import annotations

import json
import os
import sys

import dagster as dg

from mastosync_dagster.definitions import build_definitions

_FAILED = 3


def main() -> None:
    """Fork a run for each line of the input."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    definitions = build_definitions()
    for line in sys.stdin:
        variables: dict[str, str] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_run(definitions, variables))
        print(pid, file=answers, flush=True)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({0: True, _FAILED: False}.get(code)), file=answers, flush=True)


def _run(definitions: dg.Definitions, variables: dict[str, str]) -> int:
    os.environ.update(variables)
    with dg.DagsterInstance.get() as instance:
        result = definitions.resolve_job_def("sync_changes").execute_in_process(instance=instance, raise_on_error=False)
    return 0 if result.success else _FAILED


if __name__ == "__main__":
    main()
