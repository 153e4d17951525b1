"""``mastosync init``: the home, the settings and the units of an installation, from questions or from files."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
import sys
import unicodedata
import zoneinfo
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mastosync_dagster.environment import (
    DAGSTER_HOME,
    DESTINATION_FOLDER,
    ENV_FILE,
    HOME_ENV_FILE,
    MANIFESTS,
    NIGHTLY_CRON,
    NIGHTLY_TIMEZONE,
    Environment,
    dagster_home,
)
from mastosync_dagster.installation.home_files import (
    InitError,
    absolute,
    make_folder,
    make_home,
    prepare_history,
    write_new,
    writing,
)
from mastosync_dagster.installation.questions import asked_settings, given_settings, unset_settings
from mastosync_dagster.installation.settings_file import read_settings, write_settings
from mastosync_dagster.installation.systemd import (
    SERVICES,
    SERVICES_FILE,
    UnitSettings,
    calendar_of,
    night_units,
    units,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

UNITS_FOLDER = "systemd"


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
    home = absolute(named)
    env_file = absolute(choices.env_file or home / HOME_ENV_FILE)
    user = _checked_user(choices.user, home if choices.home else None)
    given = given_settings(choices.sources)
    of_home = env_file == home / HOME_ENV_FILE
    _ensure_units(home, env_file, {**given, **_settings_of(env_file, of_home=of_home)}, night=choices.night)
    # Before the first question: whether the folder can be written at all.
    files = make_home(home, machines=choices.worker)
    there = _settings_of(env_file, of_home=of_home)
    answers = asked_settings({**given, **there}, _environment(home)) if choices.ask else {}
    settings = write_settings(env_file, {**given, **answers}, of_home=of_home)
    written = read_settings(env_file)
    folders = tuple(_written_folders(written))
    unit_settings = UnitSettings(home, env_file, user, choices.port, folders, choices.worker)
    files.append(write_new(home / SERVICES_FILE, SERVICES))
    folder = absolute(choices.units or home / UNITS_FOLDER)
    make_folder(folder)
    _make_manifests(written)
    # Units hold no secret, and systemd warns of files that it alone may read.
    texts = {**units(unit_settings), **(night_units(unit_settings, _calendar(written)) if choices.night else {})}
    # An empty unit in a folder of systemd's is one that somebody has masked.
    made_here = choices.units is None
    files += [write_new(folder / name, text, 0o644, replaces_empty=made_here) for name, text in texts.items()]
    prepare_history(home)

    for file in files:
        click.echo(f"{file.path}: {file.written.value}")
    for line in settings.lines():
        click.echo(line)
    click.echo(f"{home}: history prepared")
    if home.stat().st_mode & stat.S_IWOTH:
        click.echo(f"Warning: {home} may be written by others: chmod o-w {shlex.quote(str(home))}", err=True)
    _say_next(home, env_file, folder, written)


def _environment(home: Path) -> Environment:
    """Return the settings that the home has beside its file: not those of another one, which DAGSTER_HOME names now."""
    return Environment.read({**os.environ, DAGSTER_HOME: str(home)})


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _checked_user(named: str | None, home: Path | None) -> str:
    """Return who runs the services. It is who runs this command: the home is closed to all others."""
    me = os.geteuid()
    if named is None:
        return _user()
    _ensure_in_units(named)
    try:
        found = pwd.getpwnam(named).pw_uid
    except KeyError:
        if not named.isdecimal():
            raise InitError(f"There is no user {named!r} on this machine.") from None
        found = int(named)
    if found != me:
        become = ["runuser", "-u", named, "--"] if me == 0 else ["sudo", "-H", "-u", named]
        command = shlex.join([*become, "mastosync", "init", str(home) if home else "FOLDER"])
        raise InitError(
            f"Services of {named} cannot use a home of {_user()}: run the command as {named}, with a folder of its own"
            f" ({command}, and the options that you have given)."
        )
    return named


def _ensure_units(home: Path, env_file: Path, settings: Mapping[str, str], *, night: bool) -> None:
    """Raise an `InitError` where no unit could be written, or systemd would refuse it: before there is anything."""
    for path in (home, env_file, *_written_folders(settings)):
        _ensure_in_units(str(path))
    if night:
        _calendar(settings)


def _ensure_in_units(text: str) -> None:
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise InitError(f"{text!a} has a control character, or is no UTF-8, which no unit of systemd can hold.")


def _settings_of(env_file: Path, *, of_home: bool) -> dict[str, str]:
    """Return what a file of settings sets; nothing where there is none."""
    try:
        env_file.stat()
    except PermissionError as error:
        if of_home:
            return {}  # what is wrong is said of the home, which is made first
        raise InitError(
            f"{env_file} cannot be read: {error.strerror}. Name a file that this user may read, or run the command as"
            " its owner."
        ) from None
    except OSError:
        return {}
    return read_settings(env_file)


def _written_folders(settings: Mapping[str, str]) -> Iterator[Path]:
    """Yield the folders outside the home that runs write to."""
    named = [settings.get(name) for name in (MANIFESTS, DESTINATION_FOLDER)]
    return (absolute(Path(folder)) for folder in named if folder and not folder.startswith("s3://"))


def _make_manifests(settings: Mapping[str, str]) -> None:
    """Make the folder of manifests that the settings name: the units let nobody make it later."""
    named = settings.get(MANIFESTS)
    if named and not named.startswith("s3://"):
        folder = absolute(Path(named))
        with writing(folder):
            is_there = folder.exists()
        if not is_there:
            make_folder(folder)


def _calendar(settings: Mapping[str, str]) -> str:
    """Return when the night is, as systemd writes it."""
    cron, timezone = settings.get(NIGHTLY_CRON) or "0 3 * * *", settings.get(NIGHTLY_TIMEZONE) or "UTC"
    found = calendar_of(cron, timezone)
    if found is None:
        raise InitError(
            f"{NIGHTLY_CRON} is {cron!r}: the timer of --night takes a minute and an hour of every day alone, such as"
            " '0 3 * * *'. Set such a one, and write OnCalendar= of the timer afterwards yourself."
        )
    try:
        zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise InitError(
            f"{NIGHTLY_TIMEZONE} is {timezone!r}, which is no time zone: write one such as Europe/Berlin."
        ) from None
    return found


def _say_next(home: Path, env_file: Path, folder: Path, settings: Mapping[str, str]) -> None:
    process = _environment(home)
    click.echo("\nNext:")
    if unset := unset_settings(settings, process):
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
