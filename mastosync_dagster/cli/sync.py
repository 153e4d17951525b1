"""Runs in this process, and what a terminal shows of them: ``mastosync sync``, and each run of a night."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, cast

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution.plan.objects import ErrorSource
from dagster._utils.interrupts import capture_interrupts
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from mastosync_dagster.cli.preflight import check_settings
from mastosync_dagster.cli.terminal import StopSignals
from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import plain
from mastosync_dagster.history.postgres import begin_run, history_may_fail, is_history_error, stop_soon
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.summaries import counts
from mastosync_dagster.runs.failures import sentence_of
from mastosync_dagster.runs.progress import BarProgress, LineProgress
from mastosync_dagster.runs.run_lock import let_go, living, lock
from mastosync_dagster.runs.watermarks import copies
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.sync.config import ChangesConfig, CopyConfig
from mastosync_dagster.units import MEGABYTE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mastosync_dagster.records.summaries import Summary
    from mastosync_dagster.runs.progress import ProgressReporter

# Dagster's own log lines would break the bar; the UI has them.
_QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}
_WIDE = 250
"""Columns where there is no terminal: nothing is to be cut or wrapped."""


@dataclass(frozen=True)
class Work:
    """A run to execute: the job, and what was requested of it."""

    job: str
    run_config: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    partition: str | None = None


@dataclass(frozen=True)
class Ended:
    """A run that has ended.

    Attributes:
        result: None: it was stopped before it began, or Dagster's history did not answer then.
        status: What a command's exit status is because of it.
        stopped: Whether a signal has ended it.
    """

    result: dg.ExecuteInProcessResult | None
    status: int
    stopped: bool


def run_sync(instance: dg.DagsterInstance, run_config: Mapping[str, Any]) -> int:
    """Run ``sync_changes`` and show its progress, its outcome and its counts. Returns the command's exit status.

    A first SIGINT, SIGTERM or SIGHUP ends the run as canceled, with its manifest; the status is 128 and the signal.

    Raises:
        AdminError: A setting is wrong, or the database or a storage refuses the login. No run has begun.
    """
    console = make_console()
    plan = ChangesConfig(**run_config["ops"]["plan_changes"]["config"])
    check_settings(instance, plan, CopyConfig(**run_config["ops"]["copy"]["config"]))
    name_other_run(console, instance, plan.file_types)
    ended = run_here(instance, console, Work("sync_changes", run_config))
    if trial := _trial(plan):
        say(console, trial)
    return ended.status


def run_here(instance: dg.DagsterInstance, console: Console, work: Work, *, attended: bool = True) -> Ended:
    """Execute a run, show its progress and what became of it. Signals end it as `run_sync` says.

    ``attended``: somebody waits, and is to know at once who does not answer at the first connection.
    """
    found: list[Summary] = []
    progress: ProgressReporter
    if console.is_terminal:
        progress = BarProgress(console, summarized=found.append, attended=attended)
    else:
        progress = LineProgress(lambda text: say(console, text), summarized=found.append, attended=attended)

    def stop() -> None:
        say(console, "Stopping: requests in flight are ended.")
        stop_soon()

    stops, run_id = StopSignals(stop), str(uuid.uuid4())
    begin_run(progress.say)
    result: dg.ExecuteInProcessResult | None = None
    history_fails = False
    # Signals that come between the ops wait for the next one: Dagster's own handlers are not set at once.
    with stops.watched(), capture_interrupts():
        try:
            job = build_definitions(progress).resolve_job_def(work.job)
            # Before the run is on record: whenever this process is killed, the next command finds the run dead.
            lock(instance, run_id)
            with _without_dagsters_errors(), _canceled_by_signals(instance, run_id, stops):
                result = job.execute_in_process(
                    run_config={**work.run_config, "loggers": _QUIET},
                    instance=instance,
                    partition_key=work.partition,
                    tags=work.tags,
                    raise_on_error=False,
                    run_id=run_id,
                )
        except (KeyboardInterrupt, DagsterExecutionInterruptedError):
            # Before the first op, or after the last one: no step has an end that says so.
            stops.has_come()
            with history_may_fail():
                run = instance.get_run_by_id(run_id)
                if run is not None and not run.is_finished:
                    instance.report_run_canceled(run, f"The command was stopped by {stops.words}.")
        except Exception as error:
            if stops.first is None or not is_history_error(error):
                raise
            history_fails = True
        let_go(instance, run_id)
    summary = found[-1] if found else None
    success = result is not None and result.success
    if not success:
        _show_failure(console, result, stops, summary)
        if history_fails:
            say(console, "Dagster's history does not answer: it calls the run started until a further command is run.")
    if summary is not None:
        _show_counts(console, summary)
    status = 0 if success else 1 if stops.first is None else stops.exit_status
    return Ended(result, status, stopped=stops.first is not None)


@contextlib.contextmanager
def _without_dagsters_errors() -> Iterator[None]:
    """Keep back what Dagster writes to standard error, such as each event that a full disk refuses.

    The run's own errors are events. Only where something unexpected ends the block it is shown after all.
    """
    kept = io.StringIO()
    try:
        with contextlib.redirect_stderr(kept):
            yield
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, (AdminError, SQLAlchemyError, OSError)):
            sys.stderr.write(kept.getvalue())
        raise


def make_console() -> Console:
    """Return the console of standard output: a terminal only where a bar can move."""
    moves = sys.stdout.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}
    return Console(file=sys.stdout) if moves else Console(file=sys.stdout, force_terminal=False, width=_WIDE)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a sentence, wrapped by the terminal alone."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _canceled_by_signals(instance: dg.DagsterInstance, run_id: str, stops: StopSignals) -> Iterator[None]:
    """Have Dagster call the run canceled that a signal ends within the block, in an op or between two.

    However a run ends, Dagster asks its instance first whether it is being canceled. It would be called failed, and a
    daemon with `run_retries` would start it again.
    """
    ask, reported = instance.get_run_by_id, False

    def asked(wanted: str) -> dg.DagsterRun | None:
        nonlocal reported
        run = ask(wanted)
        if wanted != run_id or run is None or run.status is not dg.DagsterRunStatus.STARTED or reported:
            return run
        if not stops.has_come():
            return run
        reported = True
        instance.report_run_canceling(run, f"The command was stopped by {stops.words}.")
        return ask(wanted)

    instance.get_run_by_id = asked  # type: ignore[assignment,method-assign]  # of this object alone, for the time of its run
    try:
        yield
    finally:
        del instance.get_run_by_id


def _show_failure(
    console: Console, result: dg.ExecuteInProcessResult | None, stops: StopSignals, summary: Summary | None
) -> None:
    """Say why a run did not succeed."""
    if stops.first is not None:
        begun = any(event.is_step_start and event.step_key == "copy" for event in _events(result))
        say(console, f"Stopped by {stops.words}. {_what_stays(summary, begun=begun)}", "bold")
    for event in _events(result):
        if event.is_step_failure and event.step_failure_data.error_source is not ErrorSource.INTERRUPT:
            error = event.step_failure_data.error
            user_failure = event.step_failure_data.user_failure_data
            text = user_failure.description if user_failure else None
            say(console, plain(text or (sentence_of(error) if error else "failed")), "bold red")


def _events(result: dg.ExecuteInProcessResult | None) -> Sequence[dg.DagsterEvent]:
    return result.all_events if result is not None else ()


def _what_stays(summary: Summary | None, *, begun: bool) -> str:
    """Return what a stopped run has done, and how to go on. ``begun``: it may have copied something."""
    again = "Run the same command again: it goes on from there."
    if summary is None and begun:
        return f"What it has copied stays; there is no list of it. {again}"
    if summary is None:
        return f"This run has copied nothing yet. {again}"
    outcomes = summary.total.outcomes
    copied, present = outcomes[Outcome.COPIED], outcomes[Outcome.PRESENT]
    before = f" ({present:,} of them were there before)" if present else ""
    return f"{copied + present:,} of {summary.total.objects:,} objects are copied and stay{before}. {again}"


def _show_counts(console: Console, summary: Summary) -> None:
    """Show the counts by file type, and where the list of missing and failed objects is."""
    total = summary.total
    left = total.reasons[Reason.NOT_ATTEMPTED]
    aside = [*(["not attempted"] if left else []), *(["left out"] if total.left_out else [])]
    names = ("objects", "copied", "present", "missing", "failed", *aside, "MB")
    rows: dict[str, list[str]] = {}
    for group, stats in summary.groups.items():
        numbers, not_attempted = counts(stats), stats.reasons[Reason.NOT_ATTEMPTED]
        cells = [f"{numbers[name]:,}" for name in ("objects", "copied", "present", "missing")]
        cells.append(f"{numbers['failed'] - not_attempted:,}")
        cells += [f"{not_attempted:,}"] if left else []
        cells += [f"{stats.left_out:,}"] if total.left_out else []
        rows[group] = [*cells, f"{numbers['bytes'] / MEGABYTE:,.1f}"]
    if rows:
        _show_table(console, names, rows)
    else:
        say(console, "No object was to be copied.")
    # Rare: after the switch, after a refetch.
    for group, stats in summary.groups.items():
        if stats.only_at_destination:
            say(console, f"{group}: {stats.only_at_destination:,} of those present are only at the destination")
    open_ = {"missing": total.outcomes[Outcome.MISSING], "failed": total.outcomes[Outcome.FAILED] - left}
    if some := [f"{number:,} {name}" for name, number in open_.items() if number]:
        say(console, f"{' and '.join(some)}: `mastosync report` lists them, and what can be done about each.")


def _show_table(console: Console, names: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    table = Table()
    table.add_column("file type")
    for name in names:
        table.add_column(name, justify="right")
    for group, cells in rows.items():
        table.add_row(group, *cells)
    if Measurement.get(console, console.options.update(width=_WIDE), table).maximum <= console.width:
        console.print(table)
        return
    # In a narrow terminal the table's numbers would be cut.
    for group, cells in rows.items():
        say(console, f"{group}: {', '.join(f'{cell} {name}' for name, cell in zip(names, cells, strict=True))}")


def _trial(config: ChangesConfig) -> str | None:
    """Return what a trial was, and what it was not; None: the run was none."""
    if config.limit is None and not config.offset:
        return None
    rows = "all rows" if config.limit is None else f"{config.limit:,} rows at most"
    offset = f", after the first {config.offset:,}" if config.offset else ""
    return (
        f"This was a trial: {rows} of each file type{offset}, by id. Other rows were not looked at, and no watermark"
        " has moved. Without --limit and --offset the command takes every row."
    )


def name_other_run(console: Console, instance: dg.DagsterInstance, file_types: Sequence[str]) -> None:
    """Say that another run copies objects of the same file types."""
    for run_id in living(instance):
        record = instance.get_run_record_by_id(run_id)
        if record is None or not any(_copies(record.dagster_run, file_type) for file_type in file_types):
            continue
        began = record.start_time or record.create_timestamp.timestamp()
        since = datetime.fromtimestamp(began, timezone.utc).astimezone()
        say(
            console,
            f"Another sync of these file types is running since {since:%H:%M:%S}: run {run_id} of"
            f" {record.dagster_run.job_name}. This one goes on, if there is memory for both; what both find lacking is"
            " copied twice. Ctrl-C stops this one.",
        )
        return


def _copies(run: dg.DagsterRun, file_type: str) -> bool:
    """Return whether a run copies objects of a file type; of `sync_changes` its config says which."""
    ops = cast("dict[str, Any]", run.run_config.get("ops") or {})
    chosen = ops.get("plan_changes", {}).get("config", {}).get("file_types", [file_type])
    return copies(run, FileType(file_type)) and file_type in chosen
