"""The ``mastosync`` command."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

# Dagster, boto3 and pyarrow take seconds to import: each command imports what it needs, so that `--help` is instant
# (hence the PLC0415 of this module in pyproject.toml).

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg

FILE_TYPES = ("media_attachments", "accounts", "custom_emojis", "preview_cards")


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn an error that an admin can do something about into its message and exit status 1."""
    from mastosync_dagster.failures import PLAIN_ERRORS

    try:
        yield
    except PLAIN_ERRORS as error:
        raise click.ClickException(str(error)) from error


@contextlib.contextmanager
def _instance() -> Iterator[dg.DagsterInstance]:
    """Open the Dagster instance that DAGSTER_HOME names."""
    import dagster as dg
    from dagster._core.errors import DagsterHomeNotSetError

    try:
        opened = dg.DagsterInstance.get()
    except DagsterHomeNotSetError as error:
        raise click.ClickException(
            "DAGSTER_HOME is not set: set it to the absolute path of a folder with dagster.yaml, where Dagster keeps"
            " its run history"
        ) from error
    except dg.DagsterInvariantViolationError as error:
        # A relative path, or no folder: Dagster's own sentence says which.
        raise click.ClickException(str(error)) from error
    with opened:
        yield opened


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mastosync-dagster")
def main() -> None:
    """Move a Mastodon instance's media from one S3 storage to another, and keep the copy current."""


@main.command()
@click.argument("file_types", nargs=-1, type=click.Choice(FILE_TYPES), metavar="[FILE_TYPE]...")
def ranges(file_types: tuple[str, ...]) -> None:
    """Register ID ranges up to now, and print them.

    FILE_TYPE: media_attachments, accounts, custom_emojis, preview_cards; all by default. Ranges that are registered
    stay as they are; new rows become new ranges behind them.
    """
    from mastosync_dagster.environment import rows_per_partition
    from mastosync_dagster.partitions import FileType, range_key, register_ranges, registered_ranges
    from mastosync_dagster.resources import MastodonDatabase

    with _plain_errors(), _instance() as instance, MastodonDatabase().session() as connect:
        rows = rows_per_partition()
        for file_type in map(FileType, file_types or FILE_TYPES):
            new = set(register_ranges(instance, file_type, connect, rows_per_partition=rows))
            registered = registered_ranges(instance, file_type)
            click.echo(f"{file_type.value}: {len(registered)} ranges, {len(new)} of them new")
            for ids in registered:
                click.echo(f"  {range_key(ids)}{'  new' if ids in new else ''}")


@main.command()
@click.argument("file_types", nargs=-1, required=True, type=click.Choice(FILE_TYPES), metavar="FILE_TYPE...")
@click.option("--limit", type=click.IntRange(min=0), help="Rows per file type at the most.")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="Rows per file type to leave out first.")
@click.option("--changed-since", metavar="T", help="Only rows changed after T, such as 2026-11-01T03:00:00Z.")
@click.option("--concurrency", type=click.IntRange(1, 1024), help="Objects in flight (default 64).")
def sync(
    file_types: tuple[str, ...], limit: int | None, offset: int, changed_since: str | None, concurrency: int | None
) -> None:
    """Copy what the destination lacks, with a progress bar; run it again to continue.

    It is the job sync_changes, and its run stands in the Dagster UI. Exit status 0 only when nothing failed.
    """
    from rich.console import Console

    from mastosync_dagster.console import run_with_bar

    plan_config = {
        "file_types": list(dict.fromkeys(file_types)),
        "limit": limit,
        "offset": offset,
        "changed_since": changed_since,
    }
    run_config = {
        "ops": {
            "plan_changes": {"config": {name: value for name, value in plan_config.items() if value is not None}},
            "copy": {"config": {"concurrency": concurrency} if concurrency else {}},
        }
    }
    with _instance() as instance:
        if not run_with_bar(Console(), instance, run_config):
            raise click.exceptions.Exit(1)


@main.command()
@click.option("--ui", is_flag=True, help="Serve the Dagster UI on loopback afterwards, until Ctrl-C.")
@click.option("--directory", type=click.Path(path_type=Path), default=Path(".demo"), help="Where its files lie.")
def demo(*, ui: bool, directory: Path) -> None:
    """Copy a small generated instance between two S3 servers on this machine."""
    try:
        from mastosync_dagster.demo.command import run_demo
    except ModuleNotFoundError as error:
        raise click.ClickException(f"the demo needs {error.name}: pip install 'mastosync-dagster[demo]'") from error

    raise click.exceptions.Exit(run_demo(ui=ui, directory=directory))
