"""``mastosync init --docker``: a folder in which Docker builds and runs mastosync without a clone of the project."""

from __future__ import annotations

import os
import secrets
import shlex
from typing import TYPE_CHECKING

import click

from mastosync_dagster.environment import Environment
from mastosync_dagster.installation.home_files import WrittenFile, absolute, make_folder, packaged, write_new
from mastosync_dagster.installation.questions import asked_settings, given_settings, unset_settings
from mastosync_dagster.installation.settings_file import read_settings, write_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEPLOYED = "deploy"
FILES = {
    ".dockerignore": "dockerignore",
    "constraints.txt": "constraints.txt",
    **{
        f"{DEPLOYED}/{name}": f"deploy/{name}"
        for name in (
            "Dockerfile",
            "celery/dagster.yaml",
            "compose.celery.mastodon.yaml",
            "compose.celery.yaml",
            "compose.mastodon.yaml",
            "compose.yaml",
            "dagster.yaml",
            "kubernetes.yaml",
            "nginx.conf",
            "workspace.yaml",
        )
    },
}
"""Where a clone has them, so that the commands of docs/deploy.md are the same, and their names in this package."""
INSTANCE_ENV = "instance.env"
USER_ID = 1000
"""Of the containers' user: the Dockerfile names it."""


def run_docker(folder: Path, sources: Sequence[Path], *, ask: bool) -> None:
    """Write everything that is not there yet, and say what was written and what comes next."""
    folder = absolute(folder)
    # The containers have none of this process's variables.
    nothing = Environment(process={}, file={})
    given = given_settings(sources)
    files = [WrittenFile(folder, make_folder(folder))]
    for name in sorted({(folder / name).parent for name in FILES}):
        make_folder(name)
    # Containers read some of them, as another user.
    files += [write_new(folder / name, packaged(source), 0o644) for name, source in FILES.items()]
    password = f"DAGSTER_PG_PASSWORD={secrets.token_hex(24)}\n"
    files.append(write_new(folder / DEPLOYED / ".env", password))
    instance = folder / INSTANCE_ENV
    is_new = not instance.exists()
    there = {} if is_new else read_settings(instance)
    answers = asked_settings({**given, **there}, nothing) if ask else {}
    settings = write_settings(instance, {**given, **answers}, of_home=True)
    if is_new and os.geteuid() == 0:
        os.chown(instance, USER_ID, -1)

    for file in files:
        click.echo(f"{file.path}: {file.written.value}")
    for line in settings.lines():
        click.echo(line)
    click.echo("\nNext:")
    if unset := unset_settings(read_settings(instance), nothing):
        click.echo(f"  set {' and '.join(unset)} in {instance}")
    if instance.stat().st_uid != USER_ID:
        click.echo(f"  chown {USER_ID} {shlex.quote(str(instance))}      the user of the containers reads it")
    click.echo(f"  cp mastosync_dagster-*.whl {shlex.quote(str(folder))}      the wheel that the image is made of")
    click.echo(f"  cd {shlex.quote(str(folder))}")
    click.echo(f"  docker compose -f {DEPLOYED}/compose.yaml up -d --build")
    click.echo(f"  docker compose -f {DEPLOYED}/compose.yaml exec code mastosync check")
    click.echo("docs/deploy.md has what follows, and what may be set.")
