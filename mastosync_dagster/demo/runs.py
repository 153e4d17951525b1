"""Executes the demo's runs in one process: ``python -m mastosync_dagster.demo.runs``.

``dagster job execute`` takes seconds to start for each run. This process reads commands from its
standard input and answers on its standard output, in lines of JSON: a `RunReport` for each run, then ``null``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.demo.dagster_processes import COUNTS, RunReport
from mastosync_dagster.environment import rows_per_partition
from mastosync_dagster.ranges.partitions import FileType, range_key, register_ranges, registered_ranges
from mastosync_dagster.records.summaries import with_counters
from mastosync_dagster.resources import MastodonDatabase
from mastosync_dagster.runs.failures import root_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def main() -> None:
    """Carry out commands until the input ends."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers, dg.DagsterInstance.get() as instance:
        # Standard output holds the answers alone, whatever a library prints.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        definitions = build_definitions()
        for line in sys.stdin:
            for report in _carry_out(line.strip(), instance, definitions):
                print(json.dumps(asdict(report)), file=answers, flush=True)
            print("null", file=answers, flush=True)


def _carry_out(command: str, instance: dg.DagsterInstance, definitions: dg.Definitions) -> Iterator[RunReport]:
    if command == "ranges":  # as `mastosync ranges` does
        with MastodonDatabase().session() as connect:
            for file_type in FileType:
                register_ranges(instance, file_type, connect, rows_per_partition=rows_per_partition())
    elif command == "sync":
        for file_type in FileType:
            for ids in registered_ranges(instance, file_type):
                yield _run(instance, definitions, f"sync_{file_type.value}", file_type.value, range_key(ids))
    elif command == "again":
        yield _run(instance, definitions, "sync_changes")
    else:
        raise ValueError(command)


def _run(
    instance: dg.DagsterInstance, definitions: dg.Definitions, job: str, file_type: str = "", partition: str = ""
) -> RunReport:
    started = time.monotonic()
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=instance, partition_key=partition or None, raise_on_error=False
    )
    metadata: dict[str, object] = {}
    messages = []
    for event in result.all_events:
        found: Mapping[str, dg.MetadataValue] = {}
        if event.is_step_materialization:
            found = event.step_materialization_data.materialization.metadata
        elif event.is_successful_output:
            found = event.step_output_data.metadata
        elif event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data is not None:
                found = failure.user_failure_data.metadata
                messages.append(failure.user_failure_data.description or "")
            elif failure.error is not None:
                messages.append(root_of(failure.error).message.strip())
        metadata |= with_counters({name: value.value for name, value in found.items()})
    return RunReport(
        file_type=file_type,
        partition=partition,
        success=result.success,
        message=" ".join(messages),
        manifest=str(metadata.get("manifest", "")),
        seconds=time.monotonic() - started,
        counts={name: int(str(metadata.get(name, 0))) for name in COUNTS},
    )


if __name__ == "__main__":
    main()
