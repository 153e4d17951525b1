"""What `mastosync init` has to know of database and storages: out of files, or asked of a terminal."""

from __future__ import annotations

import getpass
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mastosync_dagster.environment import DESTINATION_FOLDER, DESTINATION_PREFIX, SOURCE_FOLDER, Environment
from mastosync_dagster.installation.home_files import InitError, absolute
from mastosync_dagster.installation.settings_file import settings_of, show_remarks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STDIN = "-"


@dataclass(frozen=True)
class Question:
    """A setting that a terminal is asked for where nothing gives it."""

    name: str
    text: str
    secret: bool = False
    needed: bool = True


QUESTIONS = (
    Question("S3_BUCKET", "Source: the bucket that Mastodon uses now"),
    Question("S3_ENDPOINT", "Source: URL of the storage (empty: Amazon S3)", needed=False),
    Question("S3_REGION", "Source: region (empty: asked of Amazon, else us-east-1)", needed=False),
    Question("AWS_ACCESS_KEY_ID", "Source: access key (empty: AWS configuration files)", needed=False),
    Question("AWS_SECRET_ACCESS_KEY", "Source: its secret", secret=True, needed=False),
    Question("DESTINATION_S3_BUCKET", "Destination: the bucket to fill"),
    Question("DESTINATION_S3_ENDPOINT", "Destination: URL of the storage (empty: Amazon S3)", needed=False),
    Question("DESTINATION_S3_REGION", "Destination: region (empty: asked of Amazon, else us-east-1)", needed=False),
    Question("DESTINATION_AWS_ACCESS_KEY_ID", "Destination: access key (empty: AWS configuration files)", needed=False),
    Question("DESTINATION_AWS_SECRET_ACCESS_KEY", "Destination: its secret", secret=True, needed=False),
)
_DATABASE = ("DATABASE_URL", "DB_HOST", "DB_NAME", "DB_USER", "DB_PASS")
"""One of these says which database is meant; the others have Mastodon's defaults."""


def given_settings(sources: Sequence[Path]) -> dict[str, str]:
    """Return what files of settings give; a later one wins. ``-``: standard input. Misspelt names are said."""
    found: dict[str, str] = {}
    for path in sources:
        is_stdin = str(path) == _STDIN
        # /dev/stdin would open a pipe for the pipe's owner alone.
        content = sys.stdin.buffer.read() if is_stdin else None
        environment = Environment.of_file(
            Path("standard input") if is_stdin else absolute(path),
            "--from - reads" if is_stdin else "--from names",
            content=content,
        )
        show_remarks(environment)
        found.update(settings_of(environment))
    return found


def asked_settings(known: Mapping[str, str], process: Environment) -> dict[str, str]:
    """Ask the terminal for what neither a file nor the environment of the processes that will run gives."""
    answers: dict[str, str] = {}
    if not any(name in known or process.text(name) for name in _DATABASE):
        url = _ask("Database: postgresql://user:password@host:5432/dbname (empty: Mastodon's defaults)", secret=True)
        if url:
            answers["DATABASE_URL"] = url
    for question in QUESTIONS:
        if question.name in known or process.text(question.name) or _is_folder(question.name, known, process):
            continue
        # A file that names the bucket says all about its storage: what it leaves out has Mastodon's default.
        bucket = f"{DESTINATION_PREFIX if question.name.startswith(DESTINATION_PREFIX) else ''}S3_BUCKET"
        if not question.needed and (bucket in known or process.text(bucket)):
            continue
        if question.secret and not _has_key(question.name, {**known, **answers}):
            continue
        answer = _ask(question.text, secret=question.secret, needed=question.needed)
        if answer:
            answers[question.name] = answer
    return answers


def _is_folder(name: str, known: Mapping[str, str], process: Environment) -> bool:
    """Return whether a setting is about a storage that is a folder and no bucket."""
    variable = DESTINATION_FOLDER if name.startswith(DESTINATION_PREFIX) else SOURCE_FOLDER
    return bool(known.get(variable) or process.text(variable))


def _has_key(secret: str, settings: Mapping[str, str]) -> bool:
    return secret.replace("SECRET_ACCESS_KEY", "ACCESS_KEY_ID") in settings


def _ask(text: str, *, secret: bool = False, needed: bool = False) -> str:
    while True:
        try:
            answer = getpass.getpass(f"{text}: ") if secret else input(f"{text}: ")
            answer.encode()
        except UnicodeError:
            click.echo("That is no UTF-8 text.")
            continue
        except EOFError:
            raise InitError(
                "The terminal has ended: give the settings as a file with --from, or say --no-input."
            ) from None
        if answer.strip() or not needed:
            return answer.strip()


def unset_settings(settings: Mapping[str, str], process: Environment) -> list[str]:
    """Return the names of the settings that are needed, and given nowhere."""
    needed = [question.name for question in QUESTIONS if question.needed]
    given = {name for name in needed if settings.get(name) or process.text(name)}
    return [name for name in needed if name not in given and not _is_folder(name, settings, process)]
