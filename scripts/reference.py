"""Writes what documents the code from the code: docs/settings.md, docs/commands.md and the manual page.

``python scripts/reference.py`` writes them; a test says when they are not current.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mastosync_dagster import environment
from mastosync_dagster.cli.main import main as mastosync

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[1]
_MADE = "<!-- Made by scripts/reference.py: change .env.example or the commands, and run it. -->"
_SECTION = re.compile(r"# -{4} (.*?)\.? -*$")
_SETTING = re.compile(r"(#?)([A-Z][A-Z0-9_]+)=(.*)$")


def pages() -> dict[Path, str]:
    """Return the text of each page, by its path in the project."""
    return {
        Path("docs/settings.md"): settings_page(),
        Path("docs/commands.md"): commands_page(),
        Path("mastosync_dagster/installation/mastosync.1"): manual_page(),
    }


def settings_page() -> str:
    """Return the table of settings: the names that the code knows, with what .env.example says of each."""
    lines = [
        _MADE,
        "",
        "# Settings",
        "",
        "Variables of the process, or lines of the file of settings (`mastosync.env` in the Dagster home, or what",
        "`MASTOSYNC_ENV_FILE` names). [.env.example](../.env.example) is such a file, with the same texts.",
        "The second column says what holds where the variable is not set, or, in italics, an example of a value.",
    ]
    known, found = environment.known_names(), set[str]()
    for section, settings in _sections((PROJECT / ".env.example").read_text()):
        lines += ["", f"## {section}", "", "| variable | default | what it is |", "|---|---|---|"]
        for name, default, text in settings:
            found.add(name)
            lines.append(f"| `{name}` | {default} | {_cell(text)} |")
    if found != known:
        raise SystemExit(f".env.example and mastosync_dagster/environment.py differ: {sorted(found ^ known)}")
    return "\n".join(lines) + "\n"


def _sections(text: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    title, settings, about = "", list[tuple[str, str, str]](), list[str]()
    for line in text.splitlines():
        if section := _SECTION.match(line):
            if settings:
                yield title, settings
            title, settings, about = section[1], [], []
        elif setting := _SETTING.match(line):
            settings.append((setting[2], _default(setting[3], is_example=not setting[1]), " ".join(about)))
            continue
        elif line.startswith("#"):
            if settings and about and settings[-1][2] == " ".join(about):
                about = []
            about.append(line[1:].strip())
        else:
            about = []
    yield title, settings


def _default(value: str, *, is_example: bool) -> str:
    """Return the cell of a value: .env.example shows a default behind a ``#``, and examples without one."""
    if is_example:
        return f"*such as* `{value}`"
    return f"`{value}`" if value else "unset"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command, click.Context]]:
    context = click.Context(command, info_name=name)
    if not isinstance(command, click.Group) or name != "mastosync":
        yield name, command, context
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            sub = command.get_command(context, each)
            if sub is not None:
                yield from _commands(sub, f"{name} {each}")


def _usage(command: click.Command, context: click.Context) -> str:
    return " ".join([context.info_name or "", *command.collect_usage_pieces(context)])


def _options(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    records = (each.get_help_record(context) for each in command.params if isinstance(each, click.Option))
    return [record for record in records if record is not None]


def _paragraphs(command: click.Command) -> list[str]:
    text = (command.help or "").split("\f")[0]
    blocks = re.split(r"\n\s*\n", "\n".join(line.strip() for line in text.strip().splitlines()))
    return [block.removeprefix("\b\n") if block.startswith("\b") else " ".join(block.split()) for block in blocks]


def commands_page() -> str:
    """Return the reference of the commands: what ``--help`` says."""
    lines = [_MADE, "", "# Commands", "", "`mastosync COMMAND --help` says the same.", ""]
    for name, command, context in _commands(mastosync, "mastosync"):
        lines += [f"## {name}", "", f"    {_usage(command, context)}", ""]
        for paragraph in _paragraphs(command):
            lines += [*(f"    {line}" if "\n" in paragraph else line for line in paragraph.splitlines()), ""]
        options = _options(command, context)
        if options:
            lines += ["| option | what it does |", "|---|---|"]
            lines += [f"| `{_plain(names)}` | {_cell(text)} |" for names, text in options] + [""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def manual_page() -> str:
    """Return the manual page, mastosync(1)."""
    lines = [
        '.\\" Made by scripts/reference.py.',
        '.TH MASTOSYNC 1 "" "mastosync" "User Commands"',
        ".SH NAME",
        f"mastosync \\- {_roff(_paragraphs(mastosync)[0].rstrip('.'))}",
        ".SH SYNOPSIS",
        ".B mastosync",
        ".I COMMAND",
        "[OPTIONS] [ARGUMENTS]",
        ".SH COMMANDS",
    ]
    for name, command, context in _commands(mastosync, "mastosync"):
        lines.append(f".SS {_roff(_usage(command, context))}")
        assert context.info_name == name  # noqa: S101  (the usage begins with the command)
        for paragraph in _paragraphs(command):
            block = "\n" in paragraph
            lines += [
                ".PP",
                *([".nf"] if block else []),
                *map(_roff, paragraph.splitlines()),
                *([".fi"] if block else []),
            ]
        for names, text in _options(command, context):
            lines += [".TP", f".B {_roff(names)}", _roff(text)]
    lines += [
        ".SH FILES",
        ".TP",
        ".I ~/.local/share/mastosync",
        "History and settings, unless DAGSTER_HOME names another folder.",
        ".TP",
        ".I mastosync.env",
        "The settings, in that folder, unless MASTOSYNC_ENV_FILE names another file.",
    ]
    return "\n".join(lines) + "\n"


def _roff(line: str) -> str:
    text = line.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    for path, text in pages().items():
        (PROJECT / path).write_text(text)
