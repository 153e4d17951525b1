"""``mastosync init``: the home, the settings and the units of an installation, from questions or from files."""

from __future__ import annotations

import getpass
import os
import pwd
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mastosync_dagster.environment import (
    DAGSTER_HOME,
    DESTINATION_FOLDER,
    DESTINATION_PREFIX,
    ENV_FILE,
    HOME_ENV_FILE,
    MANIFESTS,
    NIGHTLY_CRON,
    NIGHTLY_TIMEZONE,
    SOURCE_FOLDER,
    Environment,
    dagster_home,
)
from mastosync_dagster.installation.home_files import InitError, make_folder, make_home, prepare_history, write_new
from mastosync_dagster.installation.settings_file import Readers, read_settings, write_settings
from mastosync_dagster.installation.systemd import (
    SERVICES,
    SERVICES_FILE,
    UnitSettings,
    calendar_of,
    night_units,
    units,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mastosync_dagster.installation.settings_file import EnvFile

UNITS_FOLDER = "systemd"
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


@dataclass(frozen=True)
class Choices:
    """What the command line says.

    Attributes:
        home: None: DAGSTER_HOME, or the default one.
        sources: Files of settings; a later one wins. ``-``: standard input.
        env_file: None: in the home.
        units: Their folder; None: in the home.
        user: Who runs the services; None: who runs this command.
        ask: Whether a terminal is asked for what is missing.
        night: Whether there are units of ``mastosync night`` too.
        worker: Whether machines share the runs: there is a unit of a worker too, and another dagster.yaml.
    """

    home: Path | None
    sources: Sequence[Path]
    env_file: Path | None
    units: Path | None
    user: str | None
    port: int
    ask: bool
    night: bool = False
    worker: bool = False


def run_init(choices: Choices) -> None:
    """Write everything that is not there yet, and say what was written and what comes next."""
    named = choices.home or dagster_home()
    if named is None:
        raise InitError("This user has no home folder: name a folder, as in `mastosync init FOLDER`.")
    home = _absolute(named)
    env_file = _absolute(choices.env_file or home / HOME_ENV_FILE)
    given = _given(choices.sources)
    # Before the first question: whether the folder can be written at all.
    files = make_home(home, machines=choices.worker)
    there = read_settings(env_file) if env_file.exists() else {}
    answers = _asked({**given, **there}) if choices.ask else {}
    settings = write_settings(env_file, {**given, **answers}, of_home=env_file == home / HOME_ENV_FILE)
    unit_settings = UnitSettings(
        home, env_file, choices.user or _user(), choices.port, _written_folders(env_file), choices.worker
    )
    files.append(write_new(home / SERVICES_FILE, SERVICES))
    folder = _absolute(choices.units or home / UNITS_FOLDER)
    make_folder(folder)
    _make_manifests(env_file)
    # Units hold no secret, and systemd warns of files that it alone may read.
    texts = {**units(unit_settings), **(night_units(unit_settings, _calendar(env_file)) if choices.night else {})}
    files += [write_new(folder / name, text, 0o644) for name, text in texts.items()]
    prepare_history(home)

    for file in files:
        click.echo(f"{file.path}: {file.written.value}")
    _say_settings(settings)
    click.echo(f"{home}: history prepared")
    _say_next(home, env_file, folder, read_settings(env_file))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  (a link stays a link)


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _given(sources: Sequence[Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sources:
        found.update(_settings_of_stdin() if str(path) == _STDIN else read_settings(_absolute(path)))
    return found


def _settings_of_stdin() -> dict[str, str]:
    """Return the settings that come through a pipe, which /dev/stdin opens for the pipe's owner alone."""
    with tempfile.NamedTemporaryFile(prefix="mastosync-") as file:
        file.write(sys.stdin.buffer.read())
        file.flush()
        return read_settings(Path(file.name))


def _asked(known: Mapping[str, str]) -> dict[str, str]:
    """Ask the terminal for what neither a file nor the process's environment gives."""
    process = Environment.read()
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
        except EOFError:
            raise InitError(
                "The terminal has ended: give the settings as a file with --from, or say --no-input."
            ) from None
        if answer.strip() or not needed:
            return answer.strip()


def _written_folders(env_file: Path) -> tuple[Path, ...]:
    """Return the folders outside the home that runs write to."""
    settings = Environment.read({ENV_FILE: str(env_file)})
    named = [settings.text(name) for name in (MANIFESTS, DESTINATION_FOLDER)]
    return tuple(_absolute(Path(folder)) for folder in named if folder and not folder.startswith("s3://"))


def _make_manifests(env_file: Path) -> None:
    """Make the folder of manifests that the settings name: the units let nobody make it later."""
    named = Environment.read({ENV_FILE: str(env_file)}).text(MANIFESTS)
    if named and not named.startswith("s3://") and not _absolute(Path(named)).exists():
        make_folder(_absolute(Path(named)))


def _calendar(env_file: Path) -> str:
    """Return when the night is, as systemd writes it."""
    settings = Environment.read({ENV_FILE: str(env_file)})
    cron = settings.text(NIGHTLY_CRON) or "0 3 * * *"
    found = calendar_of(cron, settings.text(NIGHTLY_TIMEZONE) or "UTC")
    if found is None:
        raise InitError(
            f"{NIGHTLY_CRON} is {cron!r}: the timer of --night takes a minute and an hour of every day alone, such as"
            " '0 3 * * *'. Set such a one, and write OnCalendar= of the timer afterwards yourself."
        )
    return found


def _say_settings(settings: EnvFile) -> None:
    names = f", {len(settings.added)} settings written" if settings.added else ""
    click.echo(f"{settings.path}: {settings.written.value}{names}")
    if settings.different:
        click.echo(f"  {', '.join(settings.different)}: another value was there, and stays")
    if settings.readers is not Readers.OWNER:
        click.echo(f"  {settings.readers.value}")


def _say_next(home: Path, env_file: Path, folder: Path, settings: Mapping[str, str]) -> None:
    process = Environment.read()
    needed = [question.name for question in QUESTIONS if question.needed]
    given = {name for name in needed if settings.get(name) or process.text(name)}
    unset = [name for name in needed if name not in given and not _is_folder(name, settings, process)]
    click.echo("\nNext:")
    if unset:
        click.echo(f"  set {' and '.join(unset)} in {env_file}")
    if home != dagster_home():
        click.echo(f"  export {DAGSTER_HOME}={shlex.quote(str(home))}")
    if env_file != home / HOME_ENV_FILE and process.text(ENV_FILE) != str(env_file):
        click.echo(f"  export {ENV_FILE}={shlex.quote(str(env_file))}")
    command = shlex.quote(sys.argv[0]) if os.sep in sys.argv[0] else "mastosync"
    click.echo(f"  {command} check      every connection and permission, tried")
    click.echo(f"  {command} ranges     the ID ranges of all tables")
    click.echo(f"  {command} ui         the Dagster UI, where ranges are copied")
    click.echo(f"As services: the units in {folder}; docs/deploy.md says how.")
