"""The ``mastosync`` command."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mastosync_dagster.environment import SettingsError, rules_by_file_type, use_default_home
from mastosync_dagster.process import (
    FEWEST_FILES,
    HIGHLIGHTER,
    allow_open_files,
    collect_seldom,
    keep_files_private,
    load_without,
)
from mastosync_dagster.ranges.file_types import FILE_TYPES
from mastosync_dagster.units import LARGEST_NUMBER, MEGABYTE, MOST_ROWS

# Dagster, boto3 and pyarrow take seconds to import: each command imports what it needs, so that `--help` is instant
# (see the PLC0415 of this module in pyproject.toml).

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import dagster as dg

    from mastosync_dagster.cli.terminal import Output
    from mastosync_dagster.expected.policy import Policy

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Output for scripts.")
_SOME_FILE_TYPES = click.argument("file_types", nargs=-1, type=click.Choice(FILE_TYPES), metavar="[FILE_TYPE]...")


_WATCH_SECONDS = 10
_SIGNALLED = 128
_INTERRUPTED = _SIGNALLED + 2
_ONLY_WARNINGS = 3
"""Exit status of ``check --strict``; 2 is click's, for a command that cannot be understood."""
_WORK_IS_RESULT = frozenset({"sync", "night", "init", "ui", "demo"})
"""Commands whose exit status says how their work went. The others fail where their output is lost."""


class _NamedPath(click.Path):
    """A path, and not the current folder for want of a name: a shell makes an empty one of a variable that is unset."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if not str(value).strip():
            self.fail("the name is empty.", param, ctx)
        if not Path(value).is_absolute() and str(value) != "-":
            try:
                Path.cwd()
            except OSError:
                self.fail("the working folder is not there any more: name an absolute path.", param, ctx)
        return super().convert(value, param, ctx)


class _Finite(click.FloatRange):
    """A finite number in a range: Python also reads ``nan`` and ``inf`` as numbers, and ``nan`` is in each range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


_ABOVE_ZERO = _Finite(min=0, min_open=True, max=LARGEST_NUMBER)
_RATE = _Finite(0.001, LARGEST_NUMBER)
_ROWS = click.IntRange(0, MOST_ROWS)
# Where nothing was read for an hour, the rule MastosyncNotScraped fires.
_BETWEEN_READINGS = _Finite(1, 1800)


class _Commands(click.Group):
    """The commands. A terminal that is closed, full or gone changes neither their work nor their exit status."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command that the process's arguments name."""
        from mastosync_dagster.cli.terminal import Output

        output = Output()
        try:
            return super().__call__(*args, obj=output, **kwargs)
        except SystemExit as ending:
            if problem := output.problem():
                click.echo(f"Error: a part of the output could not be written: {problem}", err=True)
                raise SystemExit(ending.code or int(output.is_result)) from None
            if isinstance(ending.code, int) and ending.code > _SIGNALLED:
                # The end of the interpreter would wait for threads, and these for a host that may be silent. What is to
                # be kept is on the disk by now.
                sys.stderr.flush()
                os._exit(ending.code)
            raise
        finally:
            # Otherwise Python looks once more through all that Dagster consists of before it ends: half a second.
            gc.freeze()

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; Ctrl-C ends it without a traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            raise click.exceptions.Exit(_INTERRUPTED) from None
        finally:
            if ctx.obj is not None:
                ctx.obj.is_result = ctx.invoked_subcommand not in _WORK_IS_RESULT


def _price_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name the prices of source and destination."""
    options = (
        click.option(
            "--prices",
            type=_NamedPath(path_type=Path),
            help="A table of prices, like mastosync_dagster/cli/prices.yaml.",
        ),
        click.option("--from", "source", help="The source's name in that table, such as amazon."),
        click.option("--to", "destination", help="The destination's name in it."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _policy_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which part of the instance is wanted."""
    options = (
        click.option(
            "--local-only/--no-local-only",
            default=None,
            help="Without the copies of other servers' files; or with them, whatever the variables are.",
        ),
        click.option("--remote-days", type=click.IntRange(1, 36_500), help="Other servers' posts and cards of N days."),
        click.option(
            "--remote",
            multiple=True,
            metavar="FILE_TYPE=RULE",
            help="Other servers' files of one type: always, never or N (days), such as accounts=never.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _policy_config(*, local_only: bool | None, remote_days: int | None, remote: tuple[str, ...]) -> dict[str, object]:
    """Return what the options of `_policy_options` are as run config; None: not given."""
    form = "FILE_TYPE=RULE, such as accounts=never or preview_cards=30"
    try:
        rules = rules_by_file_type(remote, name="--remote", form=form)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    return {"local_only": local_only, "remote_days": remote_days, "remote": rules or None}


def _policy(options: Mapping[str, object]) -> Policy:
    """Return the policy that the options name, else the installation's."""
    from mastosync_dagster.expected.policy import IN_OPTIONS, instance_policy, make_policy

    if all(value is None for value in options.values()):
        return instance_policy()
    given: Any = options
    return make_policy(
        local_only=bool(given["local_only"]),
        remote_days=given["remote_days"],
        remote=given["remote"] or {},
        names=IN_OPTIONS,
    )


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Convert an error that an admin can resolve into its message and exit status 1."""
    from mastosync_dagster.errors import AdminError
    from mastosync_dagster.escaping import plain

    try:
        yield
    except AdminError as error:
        raise click.ClickException(plain(error.in_full())) from error


def _is_read(output: Output | None, seconds: float) -> bool:
    """Wait some seconds, or until nobody reads the output any more; return whether somebody does."""
    if output is not None:
        return output.is_read(seconds)
    time.sleep(seconds)  # within another program
    return True


@contextlib.contextmanager
def _instance(*, waits: bool = False) -> Iterator[dg.DagsterInstance]:
    """Open the Dagster instance of DAGSTER_HOME, and mark its dead runs as failed. ``waits`` is `opened_home`'s."""
    from mastosync_dagster.cli.opened_home import opened_home
    from mastosync_dagster.environment import Environment
    from mastosync_dagster.installation.settings_file import show_remarks
    from mastosync_dagster.runs.dead_runs import close_dead_runs

    with opened_home(waits=waits) as instance:
        show_remarks(Environment.read())
        close_dead_runs(instance)
        yield instance


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mastosync-dagster")
def main() -> None:
    """Move a Mastodon instance's media from one S3 storage to another, and keep the copy current."""
    keep_files_private()
    collect_seldom()
    load_without(HIGHLIGHTER)
    if (files := allow_open_files()) < FEWEST_FILES:
        raise click.ClickException(
            f"This process may open {files} files, and needs {FEWEST_FILES}: raise the limit (ulimit -n, or LimitNOFILE"
            " of a unit)."
        )
    use_default_home()


@main.command()
@click.argument("home", required=False, type=_NamedPath(path_type=Path, file_okay=False))
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="FILE",
    type=_NamedPath(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    help="Take its settings: Mastodon's .env.production, or a file of your own; - is standard input. A later one wins.",
)
@click.option("--env-file", type=_NamedPath(path_type=Path, dir_okay=False), help="File to write settings into.")
@click.option("--units", type=_NamedPath(path_type=Path, file_okay=False), help="Folder for the units of systemd.")
@click.option("--user", help="User of the units: you, who run this command.")
@click.option("--port", type=click.IntRange(1, 65535), default=3030, show_default=True, help="Port of the UI's unit.")
@click.option("--night", is_flag=True, help="Write a timer of `mastosync night` too, for a host without the daemon.")
@click.option("--worker", is_flag=True, help="Write what a worker of Celery needs, where machines share the runs.")
@click.option(
    "--docker", is_flag=True, help="Write what Docker needs instead, into the folder HOME: see docs/deploy.md."
)
@click.option("--no-input", is_flag=True, help="Ask nothing.")
@click.pass_context
def init(
    context: click.Context,
    home: Path | None,
    *,
    sources: tuple[Path, ...],
    env_file: Path | None,
    units: Path | None,
    user: str | None,
    port: int,
    night: bool,
    worker: bool,
    docker: bool,
    no_input: bool,
) -> None:
    """Make a Dagster home: dagster.yaml, history, a file of settings, units for systemd. What is there stays.

    HOME: DAGSTER_HOME by default, else ~/.local/share/mastosync, which every command finds by itself.

    The settings go into HOME/mastosync.env, which only its owner can read. Of a file that --from names, the lines that
    mastosync knows are taken, and no other. A terminal is asked for what is missing.
    """
    ask = not no_input and sys.stdin.isatty() and sys.stdout.isatty()
    if docker:
        of_a_home = ("env_file", "units", "user", "port", "night", "worker")
        default = click.core.ParameterSource.DEFAULT
        if home is None or any(context.get_parameter_source(name) is not default for name in of_a_home):
            raise click.UsageError("--docker needs a folder, and takes --from and --no-input beside it.")
        from mastosync_dagster.installation.docker import run_docker

        with _plain_errors():
            run_docker(home, sources, ask=ask)
        return

    from mastosync_dagster.history.postgres import limit_waits
    from mastosync_dagster.installation.init import Choices, run_init

    limit_waits(at_once=True)
    with _plain_errors():
        run_init(Choices(home, sources, env_file, units, user, port, ask, night, worker))


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=3030, show_default=True, help="TCP port on loopback.")
def ui(*, port: int) -> None:
    """Serve the Dagster UI and run its daemon on this machine, until Ctrl-C ends both.

    The port is not Mastodon's 3000. Runs that go on are stopped with it; what they have copied stays.
    """
    from mastosync_dagster.cli.settings import ensure_settings
    from mastosync_dagster.installation.ui import run_ui

    with _plain_errors(), _instance() as instance:
        # The code server would end with a stack, and each run with a failure.
        ensure_settings()
        raise click.exceptions.Exit(run_ui(instance, port))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion of a shell.

    \b
    bash: mastosync completion bash > ~/.local/share/bash-completion/completions/mastosync
    zsh:  mastosync completion zsh > a folder of $fpath, as _mastosync
    fish: mastosync completion fish > ~/.config/fish/completions/mastosync.fish
    """  # noqa: D301  (click keeps the lines after a backspace)
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None  # noqa: S101  (click has these three)
    click.echo(made(main, {}, "mastosync", "_MASTOSYNC_COMPLETE").source())


@main.command()
@_SOME_FILE_TYPES
@click.option("--all", "each", is_flag=True, help="Print each range.")
def ranges(file_types: tuple[str, ...], *, each: bool) -> None:
    """Register ID ranges up to now, and print how many there are.

    FILE_TYPE: media_attachments, accounts, custom_emojis, preview_cards, site_uploads, backups; all by default.
    Registered ranges do not change; new rows become new ranges after them.
    """
    from mastosync_dagster.environment import rows_per_partition
    from mastosync_dagster.ranges.partitions import FileType, range_key, register_ranges, registered_ranges
    from mastosync_dagster.resources import MastodonDatabase

    with _plain_errors(), _instance() as instance, MastodonDatabase().session() as connect:
        rows = rows_per_partition()
        for file_type in map(FileType, file_types or FILE_TYPES):
            new = set(register_ranges(instance, file_type, connect, rows_per_partition=rows))
            registered = registered_ranges(instance, file_type)
            count = f"{len(registered):,} ranges, {len(new):,} of them new"
            span = f": {range_key(registered[0])} to {range_key(registered[-1])}" if len(registered) > 1 else ""
            click.echo(f"{file_type.value}: {count}{span}")
            for ids in registered if each else ():
                click.echo(f"  {range_key(ids)}{'  new' if ids in new else ''}")


@main.command()
@_SOME_FILE_TYPES
@click.option("--limit", type=_ROWS, help="Rows per file type at the most.")
@click.option("--offset", type=_ROWS, default=0, help="Rows per file type to skip first.")
@click.option("--changed-since", metavar="T", help="Only rows changed after T: 2026-11-01T03:00:00Z, or last.")
@click.option("--concurrency", type=click.IntRange(1, 1024), help="Requests in flight at each storage (default 64).")
@click.option("--refetch/--no-refetch", default=None, help="Fetch missing remote originals from their servers.")
@click.option("--overwrite/--no-overwrite", default=None, help="Where objects differ, take the source's in any case.")
@_policy_options
@click.option("--max-gigabytes", type=_ABOVE_ZERO, help="Stop before more is copied.")
@click.option("--max-dollars", type=_ABOVE_ZERO, help="Stop before it costs more.")
@_price_options
def sync(
    file_types: tuple[str, ...],
    *,
    limit: int | None,
    offset: int,
    changed_since: str | None,
    concurrency: int | None,
    refetch: bool | None,
    overwrite: bool | None,
    local_only: bool | None,
    remote_days: int | None,
    remote: tuple[str, ...],
    max_gigabytes: float | None,
    max_dollars: float | None,
    prices: Path | None,
    source: str | None,
    destination: str | None,
) -> None:
    """Copy what the destination lacks, with a progress bar; run it again to continue.

    FILE_TYPE: media_attachments, accounts, custom_emojis, preview_cards, site_uploads, backups; all by default. This is
    the job sync_changes; the Dagster UI shows its run, and the ID ranges that it has finished. Exit status 0 only if
    nothing failed.
    """
    if sys.stdout.isatty():
        # The imports below take seconds on a small machine.
        click.echo("Reading settings and Dagster's history ...")
    from mastosync_dagster.cli.sync import run_sync

    wanted = _policy_config(local_only=local_only, remote_days=remote_days, remote=remote)
    plan_config: dict[str, object] = {
        **wanted,
        "file_types": list(dict.fromkeys(file_types or FILE_TYPES)),
        "limit": limit,
        "offset": offset,
        "changed_since": changed_since,
        "overwrite": overwrite,
    }
    copy_config: dict[str, object] = {
        "concurrency": concurrency,
        "refetch": refetch,
        "max_gigabytes": max_gigabytes,
        "max_dollars": max_dollars,
        "prices_from": source,
        "prices_to": destination,
        "prices": None if prices is None else str(prices.absolute()),
    }
    run_config = {
        "ops": {
            name: {"config": {field: value for field, value in config.items() if value is not None}}
            for name, config in {"plan_changes": plan_config, "copy": copy_config}.items()
        }
    }
    with _plain_errors(), _instance() as instance:
        # A wrong setting ends the command at once, before there is a run.
        _policy(wanted)
        raise click.exceptions.Exit(run_sync(instance, run_config))


@main.command()
def night() -> None:
    """Do all that a night does, in this process and without a daemon: for cron, or a timer of systemd.

    The same as the schedule nightly_incremental: copy what has changed, register and copy ID ranges that new rows have
    filled, send an alert for each run that fails, delete old records. Exit status 0 only if nothing failed.
    """
    if sys.stdout.isatty():
        click.echo("Reading settings and Dagster's history ...")
    from mastosync_dagster.cli.night import run_night

    with _plain_errors():
        raise click.exceptions.Exit(run_night(_instance(waits=True)))


@main.command()
@_SOME_FILE_TYPES
@click.option("--outcome", type=click.Choice(["missing", "failed"]), help="Only these; both by default.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", help="Default: table.")
@click.option("--left-out", is_flag=True, help="Instead: every object that the policy leaves out.")
@_policy_options
def report(
    file_types: tuple[str, ...],
    *,
    outcome: str | None,
    form: str,
    left_out: bool,
    local_only: bool | None,
    remote_days: int | None,
    remote: tuple[str, ...],
) -> None:
    """Print what is missing or failed over all ID ranges, what can be done about it, and totals.

    Without --outcome also what is damaged at the source and good at the destination. It reads the newest manifest of
    each range. If the database is reachable, it prints the tootctl commands that fetch remote objects again. What the
    policy leaves out is neither missing nor failed: --left-out prints it, a line of JSON each with --format json.
    """
    from mastosync_dagster.cli.left_out import print_left_out
    from mastosync_dagster.cli.report import run_report
    from mastosync_dagster.ranges.partitions import FileType
    from mastosync_dagster.resources import MastodonDatabase, S3Bucket

    if left_out and outcome is not None:
        raise click.UsageError("--outcome is not for --left-out: what is left out has no outcome.")
    wanted = _policy_config(local_only=local_only, remote_days=remote_days, remote=remote)
    with _plain_errors():
        if left_out:
            policy = _policy(wanted)
            chosen = [FileType(name) for name in dict.fromkeys(file_types or FILE_TYPES)]
            prefix = S3Bucket.destination().settings().prefix
            with MastodonDatabase().session() as connect:
                print_left_out(connect, chosen, policy, key_prefix=prefix, form=form)
            return
        with _instance() as instance:
            run_report(instance, file_types, outcome, form, _policy(wanted))


@main.command()
@_SOME_FILE_TYPES
@_policy_options
@_AS_JSON
@click.option("--watch", is_flag=True, help="Show it again every ten seconds, until Ctrl-C.")
@click.pass_context
def status(
    context: click.Context,
    file_types: tuple[str, ...],
    *,
    local_only: bool | None,
    remote_days: int | None,
    remote: tuple[str, ...],
    as_json: bool,
    watch: bool,
) -> None:
    """Show what is done and what is left, how long that takes, and what to do next.

    With a FILE_TYPE, more about it: ranges, objects and megabytes done and left, and the watermark of incremental runs.
    Rows that no run has read are counted in the database, which takes about a second for a hundred thousand of them.
    The newest million of a table is counted, the others are estimated.
    """
    from mastosync_dagster.cli.console import status_json, status_text
    from mastosync_dagster.escaping import plain
    from mastosync_dagster.ranges.partitions import FileType
    from mastosync_dagster.resources import MastodonDatabase, S3Bucket
    from mastosync_dagster.status.counts import statuses

    if watch and as_json:
        raise click.UsageError("--watch is for people, --json for scripts: leave one of them away.")
    chosen = [FileType(name) for name in dict.fromkeys(file_types or FILE_TYPES)]
    with _plain_errors(), _instance() as instance:
        policy = _policy(_policy_config(local_only=local_only, remote_days=remote_days, remote=remote))
        while True:
            remarks: list[str] = []
            found = statuses(instance, MastodonDatabase(), S3Bucket.destination(), chosen, policy, warn=remarks.append)
            if watch:
                click.clear()
            for remark in remarks:
                click.echo(plain(remark), err=True)
            if as_json:
                click.echo(json.dumps([status_json(each) for each in found], indent=2))
            else:
                click.echo(status_text(found, details=bool(file_types)))
            if not watch or not _is_read(context.obj, _WATCH_SECONDS):
                break


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=9464, show_default=True, help="TCP port on loopback.")
@click.option(
    "--every",
    type=_BETWEEN_READINGS,
    default=300,
    show_default=True,
    help="Seconds between two readings, half an hour at the most: after an hour without one an alert fires.",
)
@click.option("--once", is_flag=True, help="Print them instead, for the node exporter's textfile collector.")
@click.option("--rules", is_flag=True, help="Print the alert rules for Prometheus instead.")
@click.option("--dashboard", is_flag=True, help="Print the dashboard for Grafana instead.")
def metrics(*, port: int, every: float, once: bool, rules: bool, dashboard: bool) -> None:
    """Serve metrics for Prometheus at http://127.0.0.1:9464/metrics, until Ctrl-C.

    Each reading asks Mastodon's database, as status does; a scrape is given the last one.
    """
    import mastosync_dagster.metrics as package

    if once + rules + dashboard > 1:
        raise click.UsageError("--once, --rules and --dashboard print different things: leave all but one of them out.")
    for wanted, name in ((rules, "rules.yaml"), (dashboard, "grafana.json")):
        if wanted:
            click.echo(Path(package.__path__[0], name).read_text(), nl=False)
            return
    from mastosync_dagster.escaping import plain
    from mastosync_dagster.metrics.server import metrics_once, serve_metrics

    def say(text: str) -> None:
        click.echo(plain(text), err=True)

    with _plain_errors(), _instance() as instance:
        if once:
            click.echo(metrics_once(instance, say), nl=False)
        else:
            serve_metrics(instance, port, every, say)


@main.command()
@_AS_JSON
@click.option("--strict", is_flag=True, help="Exit status 3 where something is warned of and nothing failed.")
@click.option("--max-age", metavar="AGE", help="Fail where the last good night is older: 26h, 90m, 2d.")
def check(*, as_json: bool, strict: bool, max_age: str | None) -> None:
    """Try every connection and permission that a run needs.

    It writes, reads and deletes small objects of its own at the destination and where manifests go, and changes nothing
    else. Exit status: 0 if nothing failed, 1 if something did, 2 if the command is misspelt; with --strict, 3 if there
    are warnings alone.
    """
    from mastosync_dagster.cli.age import parse_age
    from mastosync_dagster.cli.check import Verdict, every_line
    from mastosync_dagster.cli.opened_home import is_named, opened_home
    from mastosync_dagster.escaping import plain

    lines = []
    with _plain_errors():
        limit = None if max_age is None else parse_age(max_age)
        for line in every_line(opened_home, limit, named=is_named()):
            lines.append(line)
            if not as_json:
                colour = {Verdict.OK: "green", Verdict.FAILED: "red"}.get(line.verdict, "yellow")
                click.echo(f"{click.style(f'{line.verdict.value:8}', fg=colour)}{line.name}: {plain(line.text)}")
    if as_json:
        results = [{"name": line.name, "verdict": line.verdict.value, "text": line.text} for line in lines]
        click.echo(json.dumps(results, indent=2))
    verdicts = {line.verdict for line in lines}
    if Verdict.FAILED in verdicts:
        raise click.exceptions.Exit(1)
    if strict and Verdict.WARNED in verdicts:
        raise click.exceptions.Exit(_ONLY_WARNINGS)


@main.command()
@_SOME_FILE_TYPES
@click.option("--all", "everything", is_flag=True, help="All rows, not only what is left.")
@_price_options
@click.option("--objects-per-second", type=_RATE, help="A rate instead of the measured one.")
@click.option("--megabytes-per-second", type=_RATE, help="The same in 10^6 bytes.")
@click.option(
    "--preview-kilobytes", type=click.IntRange(0, 1_000_000), default=40, help="Assumed size of each preview (40)."
)
@_policy_options
@_AS_JSON
def estimate(
    file_types: tuple[str, ...],
    *,
    everything: bool,
    prices: Path | None,
    source: str | None,
    destination: str | None,
    objects_per_second: float | None,
    megabytes_per_second: float | None,
    preview_kilobytes: int,
    local_only: bool | None,
    remote_days: int | None,
    remote: tuple[str, ...],
    as_json: bool,
) -> None:
    """Estimate what the copy will take, without copying: objects, bytes, requests, cost, hours."""
    from mastosync_dagster.cli.console import estimate_lines
    from mastosync_dagster.cli.estimate import FREE, Rate, measured_rate
    from mastosync_dagster.cli.estimate import estimate as estimated
    from mastosync_dagster.copy.spending import prices_of
    from mastosync_dagster.environment import RUN, Environment, expanded
    from mastosync_dagster.mastodon import TableSize
    from mastosync_dagster.ranges.partitions import FileType
    from mastosync_dagster.resources import MastodonDatabase, S3Bucket
    from mastosync_dagster.status.counts import statuses, whole_tables

    chosen = [FileType(name) for name in dict.fromkeys(file_types or FILE_TYPES)]
    with _plain_errors(), _instance() as instance:
        variables = Environment.read()
        named = variables.text(RUN["prices"])
        table = prices or (expanded(named, f"{RUN['prices']} names") if named else None)
        source = source or variables.text(RUN["prices_from"])
        destination = destination or variables.text(RUN["prices_to"])
        if prices is not None and source is None and destination is None:
            raise click.UsageError("--prices needs --from and --to, or one of them: the storages' names in that table.")
        source_prices = FREE if source is None else prices_of(source, table)
        destination_prices = FREE if destination is None else prices_of(destination, table)
        policy = _policy(_policy_config(local_only=local_only, remote_days=remote_days, remote=remote))
        found = statuses(instance, MastodonDatabase(), S3Bucket.destination(), chosen, policy)
        size, left_out = sum((each.left for each in found), TableSize()), sum(each.left_out for each in found)
        if everything:
            tables = whole_tables(MastodonDatabase(), chosen, policy)
            size, left_out = tables.unchanged, tables.left_out.objects
        measured = measured_rate(read for each in found for read in each.reads.values())
    given = Rate(objects_per_second, megabytes_per_second and megabytes_per_second * MEGABYTE, given=True)
    result = estimated(
        size,
        source_prices,
        destination_prices,
        given if objects_per_second or megabytes_per_second else measured,
        preview_bytes=preview_kilobytes * 1000,
        left_out=left_out,
        names=(source, destination),
    )
    click.echo(json.dumps(asdict(result), indent=2) if as_json else "\n".join(estimate_lines(result)))


@main.group()
def cutover() -> None:
    """Switch Mastodon to the new bucket: the checklist, and whether it is time."""


@cutover.command("plan")
@click.option(
    "--nginx", "stage", type=click.Choice(["old", "both", "new"]), help="Only the media host's configuration."
)
@click.option("--env", "only_env", is_flag=True, help="Only the lines for .env.production.")
@click.option("--resolver", metavar="IP", help="Name server for nginx; by default the first of this machine's.")
def cutover_plan(stage: str | None, resolver: str | None, *, only_env: bool) -> None:
    """Print this instance's own checklist, its .env.production lines and its nginx configuration.

    It reads settings and records, and changes nothing.
    """
    from mastosync_dagster.cli.cutover import print_env, print_nginx, print_plan

    if only_env and stage is not None:
        raise click.UsageError("--env and --nginx print different things: leave one of them out.")
    if only_env and resolver is not None:
        raise click.UsageError("--resolver is for nginx, and --env prints nothing for that.")
    with _plain_errors(), _instance() as instance:
        if stage is not None:
            print_nginx(instance, stage, resolver)
        elif only_env:
            print_env(instance)
        else:
            print_plan(instance, resolver)


@cutover.command("check")
@click.option("--old-bucket", is_flag=True, help="May the old bucket be deleted? (After the switch.)")
@click.option("--accept", multiple=True, metavar="NAME", help="With --old-bucket: not needed; repeatable.")
@click.option("--full", is_flag=True, help="With --old-bucket: read every body at both buckets.")
@click.option("--quick", is_flag=True, help="Go by the records of runs: compare no objects, ask nobody.")
@click.option(
    "--max-age",
    type=click.IntRange(1, 1_000_000),
    default=60,
    show_default=True,
    help="Minutes: age of the last delta.",
)
@_AS_JSON
@click.pass_context
def cutover_check(
    context: click.Context,
    accept: tuple[str, ...],
    max_age: int,
    *,
    old_bucket: bool,
    full: bool,
    quick: bool,
    as_json: bool,
) -> None:
    """Say whether Mastodon may be switched to the new bucket now; exit status 0 only if it may.

    Every object that a row expects is compared at both buckets, every private one is asked for without a signature. It
    changes nothing. With --old-bucket: whether the old bucket may be deleted; NAME is what you have looked at and do
    not need: a folder or file at its top, or one of private, orphans, remote, foreign (a folder of such a name with its
    slash: private/).
    """
    from datetime import timedelta

    from mastosync_dagster.cli.cutover import print_answers, show_progress, storages, table_progress
    from mastosync_dagster.cutover.old_bucket import check_old_bucket
    from mastosync_dagster.cutover.switch import check_switch
    from mastosync_dagster.resources import MastodonDatabase

    if not old_bucket and (accept or full):
        raise click.UsageError("--accept and --full are for --old-bucket.")
    if old_bucket and quick:
        raise click.UsageError("--quick is not for --old-bucket: what is deleted is gone.")
    if old_bucket and context.get_parameter_source("max_age") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--max-age is not for --old-bucket, which asks for no delta.")
    with _plain_errors(), _instance() as instance:
        tables, both, database = table_progress(instance), storages(instance), MastodonDatabase()
        if old_bucket:
            question = "May the old bucket be deleted?"
            lines = check_old_bucket(database, both, tables, accept=accept, full=full, on_progress=show_progress)
        else:
            question, age = "May Mastodon be switched now?", timedelta(minutes=max_age)
            lines = check_switch(database, both, tables, max_age=age, quick=quick, on_progress=show_progress)
        yes = print_answers(lines, question, as_json=as_json)
    if not yes:
        raise click.exceptions.Exit(1)


@cutover.command("private")
def cutover_private() -> None:
    """Print the rows whose media is private, for the nginx configuration: never taken from the old bucket."""
    from mastosync_dagster.cutover.nginx import private_rows
    from mastosync_dagster.resources import MastodonDatabase

    with _plain_errors():
        for line in private_rows(MastodonDatabase()):
            click.echo(line)


@main.command()
@click.option("--ui", is_flag=True, help="Serve the Dagster UI on loopback afterwards, until Ctrl-C.")
@click.option("--directory", type=_NamedPath(path_type=Path), default=Path(".demo"), help="Folder for its files.")
def demo(*, ui: bool, directory: Path) -> None:
    """Copy a small generated instance between two S3 servers on this machine."""
    try:
        from mastosync_dagster.demo.command import run_demo
    except ModuleNotFoundError as error:
        raise click.ClickException(f"the demo needs {error.name}: pip install 'mastosync-dagster[demo]'") from error

    raise click.exceptions.Exit(run_demo(ui=ui, directory=directory))


if __name__ == "__main__":
    main()  # the units of systemd call it so: the interpreter is known, where its scripts lie is not
