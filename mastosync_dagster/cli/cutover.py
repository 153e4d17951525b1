"""``mastosync cutover``: the checklist of the switch, and whether it may be made."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from mastosync_dagster.cutover.answers import Answer
from mastosync_dagster.cutover.comparison import Storages
from mastosync_dagster.cutover.mastodon_env import env_text
from mastosync_dagster.cutover.nginx import Stage, nginx_configuration
from mastosync_dagster.cutover.plan import checklist
from mastosync_dagster.cutover.progress import TableProgress
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import plain
from mastosync_dagster.expected.policy import instance_policy
from mastosync_dagster.mastodon import Database
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.resources import MastodonDatabase, S3Bucket, ensure_different
from mastosync_dagster.resources.direction import ensure_not_swapped
from mastosync_dagster.runs.destination_folder import ensure_mounted
from mastosync_dagster.runs.manifests import ManifestOrigin, manifest_store
from mastosync_dagster.status.counts import statuses

if TYPE_CHECKING:
    from collections.abc import Iterable

    import dagster as dg

    from mastosync_dagster.cutover.answers import Line
    from mastosync_dagster.s3.storage import Storage

_COLOURS = {Answer.YES: "green", Answer.NO: "red", Answer.STOP: "yellow", Answer.NOTE: "cyan"}


def print_plan(instance: dg.DagsterInstance, resolver: str | None) -> None:
    """Print the checklist, the lines of ``.env.production`` and the nginx configuration. Raises an `AdminError`."""
    source, destination = _storages(instance)
    here, there = source.settings, destination.settings
    click.echo(f"From {here.bucket} at {here.server} to {there.bucket} at {there.server}\n")
    click.echo("# 1. What is done, and what is not yet\n")
    tables: list[TableProgress] | AdminError
    try:
        tables = table_progress(instance)
    except AdminError as error:
        tables = error
    for line in checklist(source, destination, tables):
        _print_line(line)
    click.echo("\n# 2. .env.production, on every machine with web, Sidekiq or streaming: at the switch, not before\n")
    click.echo(plain(env_text(destination)))
    click.echo("\n# 3. nginx of the media host: mastosync cutover plan --nginx old, both, new\n")
    click.echo(nginx_configuration(source, destination, Stage.both, resolver=resolver), nl=False)
    click.echo("\n# 4. Is it time? mastosync cutover check; a month later: mastosync cutover check --old-bucket")


def print_nginx(instance: dg.DagsterInstance, stage: str, resolver: str | None) -> None:
    """Print the nginx configuration alone. Raises an `AdminError`."""
    source, destination = _storages(instance)
    click.echo(nginx_configuration(source, destination, Stage(stage), resolver=resolver), nl=False)


def print_env(instance: dg.DagsterInstance) -> None:
    """Print the lines of ``.env.production`` alone. Raises an `AdminError`."""
    click.echo(env_text(_storages(instance)[1]))


def table_progress(instance: dg.DagsterInstance) -> list[TableProgress]:
    """Return what the history says of each table that the database has. Raises an `AdminError`."""
    with MastodonDatabase().session() as connect:
        schema = Database.open(connect).schema
    present = [file_type for file_type in FileType if schema.exists(file_type.value)]
    # A table that may not be read is no absent one: what its rows expect would go unseen.
    schema.require([file_type.value for file_type in present])
    return [
        TableProgress(
            table=each.file_type.value,
            ranges=each.ranges,
            failed=each.failed,
            running=each.running,
            not_run=each.not_run,
            every_row=each.watermark is not None and each.watermark.every_row,
            objects=each.objects_done + each.objects_missing + each.left.objects,
            left=each.left.objects,
            in_doubt=each.in_doubt,
            last_delta=each.watermark.timestamp if each.watermark else None,
            restored=each.restored,
        )
        for each in statuses(
            instance, MastodonDatabase(), S3Bucket.destination(), present, instance_policy(), warn=_warn
        )
    ]


def _warn(text: str) -> None:
    click.echo(plain(text), err=True)


def storages(instance: dg.DagsterInstance) -> Storages:
    """Return both storages with the records of the copy. Raises an `AdminError`."""
    source, destination = _storages(instance)
    ensure_mounted(instance, destination)
    store = manifest_store(instance, S3Bucket.destination(), S3Bucket.source())
    settings = destination.settings
    return Storages(source, destination, store, ManifestOrigin(settings.identity, acls=settings.has_acls))


def _storages(instance: dg.DagsterInstance) -> tuple[Storage, Storage]:
    source, destination = S3Bucket.source(), S3Bucket.destination()
    ensure_different(source, destination)
    ensure_not_swapped(instance, source.settings(), destination.settings())
    return source.storage(), destination.storage()


def print_answers(lines: Iterable[Line], question: str, *, as_json: bool) -> bool:
    """Print each answer as it comes, then the answer to the question; return whether it is yes."""
    found = []
    for line in lines:
        found.append(line)
        _clear_progress()
        if not as_json:
            _print_line(line)
    yes = all(line.passes for line in found)
    if as_json:
        answers = [{"name": line.name, "answer": line.answer.value, "text": line.text} for line in found]
        click.echo(json.dumps({"question": question, "yes": yes, "answers": answers}, indent=2))
        return yes
    against = [line.name for line in found if line.answer is Answer.NO]
    waiting = [line.name for line in found if line.answer is Answer.STOP]
    answer = "yes"
    if against:
        answer = f"no: {', '.join([*against, *waiting])}"
    elif waiting:
        answer = "not while Mastodon writes; nothing else is in the way"
    click.secho(f"\n{question} {answer}", fg="green" if yes else "red", bold=True)
    return yes


def _print_line(line: Line) -> None:
    click.echo(f"{click.style(f'{line.answer.value:6}', fg=_COLOURS[line.answer])}{line.name}: {plain(line.text)}")


def show_progress(message: str) -> None:
    """Show what is being compared, in a terminal alone; the next message replaces it."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{plain(message)}", nl=False, err=True)


def _clear_progress() -> None:
    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)
