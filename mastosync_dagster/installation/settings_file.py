"""The file of settings that `mastosync init` writes: the lines of `.env.example`, with the values that are known.

Values are read with the rules of `environment.py`, written down, and read again: what is written means what was read.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import click

from mastosync_dagster.environment import ENV_FILE, Environment, SettingsError
from mastosync_dagster.escaping import plain
from mastosync_dagster.installation.home_files import InitError, Written, packaged, write_new, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_LINE = re.compile(r"(?P<off>#?)(?P<name>[A-Z][A-Z0-9_]*)=.*")
_BARE = re.compile(r"[A-Za-z0-9_./:@%+,=~-]*", re.ASCII)
_EMPTY_MEANS_SOMETHING = "S3_PERMISSION"
_OTHERS = 0o077


class Readers(Enum):
    """Who may read a file of settings."""

    OWNER = "its owner alone can read it"
    OWNER_NOW = "others could read it; now its owner alone can"
    OTHERS = "others can read it, and its mode stays, since it is a link or not the home's own file: chmod o-rwx"


@dataclass(frozen=True)
class EnvFile:
    """What became of a file of settings.

    Attributes:
        added: Names of the settings that were written.
        different: Names that the file sets to another value than was given; they stay.
        readers: Who may read it besides its owner.
    """

    path: Path
    written: Written
    added: tuple[str, ...]
    different: tuple[str, ...]
    readers: Readers

    def lines(self) -> Iterator[str]:
        """Yield what is printed of it."""
        names = f", {len(self.added)} settings written" if self.added else ""
        yield f"{self.path}: {self.written.value}{names}"
        if self.different:
            yield f"  {', '.join(self.different)}: another value was there, and stays"
        if self.readers is not Readers.OWNER:
            yield f"  {self.readers.value}"


def read_settings(path: Path) -> dict[str, str]:
    """Return the settings of a file such as Mastodon's ``.env.production``, its other lines left out."""
    return settings_of(read_file(path))


def read_file(path: Path, content: bytes | None = None) -> Environment:
    """Read a file of settings alone, without the variables of the process; ``content``: one that is to be written."""
    return Environment.of_file(path, "The file of settings is", content=content)


def settings_of(environment: Environment) -> dict[str, str]:
    """Return the settings that a file sets."""
    return {
        name: value
        for name, value in environment.file.items()
        if name != ENV_FILE and (value or name.endswith(_EMPTY_MEANS_SOMETHING))
    }


def show_remarks(environment: Environment) -> None:
    """Say on standard error what an admin should know of the settings, such as a misspelt name."""
    for remark in environment.remarks():
        click.echo(f"Warning: {plain(remark)}", err=True)


def write_settings(path: Path, settings: Mapping[str, str], *, of_home: bool) -> EnvFile:
    """Write a file of settings, or add to one what it does not set. No line that is there changes.

    ``of_home``: it is the home's own, which its owner alone shall read. The mode of another file, such as Mastodon's,
    is not ours to change: its users would be shut out.
    """
    with writing(path):
        if path.exists():
            return _add(path, settings, of_home=of_home)
        text = _written(lambda lines: _filled(packaged("env.example"), lines), settings, path)
        if write_new(path, text).written is Written.KEPT:  # another process has just made it
            return _add(path, settings, of_home=of_home)
    return EnvFile(path, Written.NEW, tuple(settings), (), Readers.OWNER)


def _add(path: Path, settings: Mapping[str, str], *, of_home: bool) -> EnvFile:
    there = read_settings(path)
    new = {name: value for name, value in settings.items() if name not in there}
    different = tuple(name for name, value in settings.items() if there.get(name, value) != value)
    if new:
        before = path.read_text("utf-8")
        gap = "" if before.endswith("\n") or not before else "\n"
        addition = _written(lambda lines: gap + "".join(f"{line}\n" for line in lines.values()), new, path)
        _append(path, addition.encode())
    return EnvFile(path, Written.KEPT, tuple(new), different, _close(path, of_home=of_home))


def _append(path: Path, content: bytes) -> None:
    """Add to a file that may be a link, or another user's: it stays the same one. All is added, or nothing."""
    with path.open("ab", buffering=0) as stream:
        size, rest = os.fstat(stream.fileno()).st_size, memoryview(content)
        try:
            while rest:
                rest = rest[stream.write(rest) :]
            os.fsync(stream.fileno())
        except OSError:
            stream.truncate(size)
            raise


def _close(path: Path, *, of_home: bool) -> Readers:
    """Take the rights of others away from the home's own file; a link, of either kind, may lead to another's."""
    found = path.lstat()
    is_link = stat.S_ISLNK(found.st_mode) or found.st_nlink > 1
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & _OTHERS:
        return Readers.OWNER
    if is_link or not of_home:
        return Readers.OTHERS
    path.chmod(mode & ~_OTHERS)
    return Readers.OWNER_NOW


def _filled(example: str, lines: Mapping[str, str]) -> str:
    """Return the example with known settings in the place of its lines; its own values of needed ones are no values."""
    rest, filled = dict(lines), []
    for line in example.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            filled.append(line)
        elif found["name"] in lines:
            if found["name"] in rest:
                filled.append(rest.pop(found["name"]))
        else:
            filled.append(line if found["off"] else f"{found['name']}=")
    return "".join(f"{line}\n" for line in [*filled, *rest.values()])


def _written(text_of: Callable[[Mapping[str, str]], str], settings: Mapping[str, str], path: Path) -> str:
    """Return the text in which every setting, quoted one way or the other, is read back as it is."""

    def read_back(text: str) -> Mapping[str, str]:
        try:
            return read_file(path, text.encode()).file
        except SettingsError:  # it ends in the middle of a quotation
            return {}

    lines = {}
    for name, value in settings.items():
        good = (line for line in _lines(name, value) if read_back(f"{line}\n").get(name) == value)
        lines[name] = next(good, "")
    text = text_of(lines)
    found = read_back(text)
    if wrong := [name for name, value in settings.items() if found.get(name) != value]:
        raise InitError(f"{path} cannot hold the value of {wrong[0]}: set it as a variable of the process.")
    return text


def _lines(name: str, value: str) -> Iterator[str]:
    """Yield ways to write a setting, the plainest first."""
    if _BARE.fullmatch(value):
        yield f"{name}={value}"
    single = value.replace("\\", "\\\\").replace("'", "\\'")
    double = re.sub(r'([\\"$`])', r"\\\1", value)
    yield from (f"{name}='{value}'", f'{name}="{double}"', f"{name}='{single}'", f'{name}="{value}"')
