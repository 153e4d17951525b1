"""Reads a file such as Mastodon's ``.env.production`` as Mastodon does: by the rules of Ruby's dotenv 3.

Those rules are neither a shell's nor those of Python's libraries of this kind; `parse` names them where they apply. One
is not followed: a command in a value is not run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_ASSIGNMENT = re.compile(
    r"^\s*(?P<export>export\s+)?(?P<name>[\w.]+)"
    # The colon of YAML needs a space after it; whitespace around `=` may be line ends.
    r"(?:(?:\s*=\s*?|:\s+?)"
    # In quotation marks a value goes over several lines, and a backslash before the mark keeps it open. A value that
    # does not end with its closing mark, but for a comment, is tried as one without marks, which ends at `#`.
    r"""(?P<value>\s*'(?:\\'|[^'])*'|\s*"(?:\\"|[^"])*"|[^#\n]+)?)?"""
    r"\s*(?:#.*)?$",
    re.ASCII | re.MULTILINE,
)
_QUOTED = re.compile(r"(['\"])(.*)\1", re.DOTALL)
_ESCAPED = re.compile(r"\\([^$])")
_VARIABLE = re.compile(r"(\\?)\$(?!\()\{?([A-Z0-9_]*)\}?", re.IGNORECASE)
# What python-dotenv, which read the file in earlier versions, made of backslashes: it took no other one off.
_IN_SINGLE_BEFORE = re.compile(r"\\([\\'])")
_IN_DOUBLE_BEFORE = re.compile(r"\\([\\'\"nr])")
_LINE_END_BEFORE = {"n": "\n", "r": "\r"}
_EMPTY_AND_CUT = re.compile(r"\s*=#")
_WHITESPACE = "\0\t\n\v\f\r "
_LINE_ENDS = "DOTENV_LINEBREAK_MODE"
"""dotenv's own variable: with the value ``legacy``, ``\\n`` in double quotation marks is a line end."""


class UnsetExportError(ValueError):
    """A line ``export NAME`` whose variable has no value: dotenv refuses the file.

    Attributes:
        line: Its number, from 1.
    """

    def __init__(self, line: int) -> None:
        super().__init__(f"line {line} exports a variable that is not set above it")
        self.line = line


@dataclass(frozen=True, slots=True)
class Assignment:
    """One variable's last line.

    Attributes:
        line: Its number, from 1.
        command: The value holds ``$(…)``, or a variable whose value does: dotenv would run it. It is left out here.
        unclosed: The value begins with a quotation mark that does not enclose it, and so belongs to it.
        unset: The value names a variable that neither the process nor a line above sets: nothing stands there.
        cut: The value ends at a ``#`` without a blank before it, which earlier versions took for a part of it.
        taken_off: A backslash is left out, and was not in earlier versions, or stood for something else.
        kept: A backslash is a part of the value, and was not in earlier versions.
    """

    value: str
    line: int
    command: bool = False
    unclosed: bool = False
    unset: bool = False
    cut: bool = False
    taken_off: bool = False
    kept: bool = False


_NOTHING = Assignment("", 0)


@dataclass(frozen=True, slots=True)
class EnvFile:
    """What a file says.

    Attributes:
        assignments: By name.
        ignored: Numbers of lines, from 1, that are neither a variable nor a comment: dotenv passes over them.
    """

    assignments: Mapping[str, Assignment]
    ignored: tuple[int, ...]


def parse(text: str, process: Mapping[str, str]) -> EnvFile:
    """Parse a file's text.

    Args:
        text: Of the file.
        process: The variables of the process, which win over the file's where a value names another variable.

    Raises:
        UnsetExportError: As dotenv does.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found: dict[str, Assignment] = {}
    ignored: list[int] = []
    end, line = 0, 1
    for match in _ASSIGNMENT.finditer(text):
        ignored += _ignored(text[end : match.start()], line)
        name, value = match["name"], match["value"]
        line += text.count("\n", end, match.start("name"))
        # `export NAME` alone hands on what stands above; it sets nothing.
        if value is None and match["export"]:
            if name not in found and name not in process:
                raise UnsetExportError(line)
        else:
            found[name] = replace(_assignment(value or "", line, found, process), cut=_is_cut(match))
        end = match.end()
        line += text.count("\n", match.start("name"), end)
    ignored += _ignored(text[end:], line)
    return EnvFile(found, tuple(ignored))


def _ignored(between: str, line: int) -> list[int]:
    """Return the numbers of the lines of a text between variables that are no comments; it begins in ``line``."""
    stripped = (part.strip() for part in between.split("\n"))
    return [line + number for number, part in enumerate(stripped) if part and not part.startswith("#")]


def _is_cut(match: re.Match[str]) -> bool:
    """Return whether a comment begins within a word of a value that is not in quotation marks."""
    value = match["value"]
    if value is None:
        return _EMPTY_AND_CUT.match(match.string, match.end("name")) is not None
    quoted = _QUOTED.fullmatch(value.strip(_WHITESPACE))
    return not quoted and match.string.startswith("#", match.end("value")) and not value[-1].isspace()


def _assignment(raw: str, line: int, found: Mapping[str, Assignment], process: Mapping[str, str]) -> Assignment:
    """Return what stands behind a name: without its quotation marks, with what it names put in."""
    value = raw.strip(_WHITESPACE)
    quoted = _QUOTED.fullmatch(value)
    mark = quoted[1] if quoted else ""
    unclosed = not quoted and value[:1] in {"'", '"'}
    if quoted:
        value = quoted[2]
    if mark == "'":
        return Assignment(value, line, kept=value != _IN_SINGLE_BEFORE.sub(r"\1", value))
    written = value
    if mark == '"':
        value = _line_ends(value, found, process)
    value = _ESCAPED.sub(r"\1", value)
    taken_off, kept = _backslashes(written, value, quoted=bool(mark))
    value, command = _without_commands(value)
    unset = False

    def named(match: re.Match[str]) -> str:
        nonlocal command, unset
        backslash, name = match.groups()
        if backslash or not name:
            return match[0][len(backslash) :]
        if name in process:
            return process[name]
        other = found.get(name, _NOTHING)
        unset |= other is _NOTHING
        command |= other.command
        return other.value

    value = _VARIABLE.sub(named, value)
    return Assignment(value, line, command, unclosed, unset, taken_off=taken_off, kept=kept)


def _backslashes(written: str, value: str, *, quoted: bool) -> tuple[bool, bool]:
    r"""Return whether a backslash is taken off, and whether one is kept, that earlier versions read otherwise.

    Args:
        written: What stands between the quotation marks, if there are any.
        value: The same without the backslashes that stand before another character than ``$``.
        quoted: It stands between double ones.
    """
    before = written
    if quoted:
        before = _IN_DOUBLE_BEFORE.sub(lambda match: _LINE_END_BEFORE.get(match[1], match[1]), written)
    # The backslash of `\$` goes when variables are put in.
    differs = "\\$" in value or value != before
    kept = differs and value == written and "\\$" not in value
    return differs and not kept, kept


def _line_ends(value: str, found: Mapping[str, Assignment], process: Mapping[str, str]) -> str:
    r"""Return a value from double quotation marks with the two characters ``\n`` as they are, or as a line end."""
    mode = found[_LINE_ENDS].value if _LINE_ENDS in found else process.get(_LINE_ENDS)
    if mode == "legacy":
        return value.replace(r"\n", "\n").replace(r"\r", "\r")
    # Another backslash, which the next step takes off again.
    return value.replace(r"\n", r"\\n").replace(r"\r", r"\\r")


def _without_commands(value: str) -> tuple[str, bool]:
    r"""Return a value without its ``$(…)``, and whether there were any. ``\$(…)`` loses its backslash alone."""
    kept: list[str] = []
    closing = _closing_brackets(value)
    position, command = 0, False
    while position < len(value):
        escaped = value.startswith("\\$(", position)
        begins = escaped or value.startswith("$(", position)
        end = closing.get(position + escaped + 1) if begins else None
        if end is None:
            kept.append(value[position])
            position += 1
            continue
        if escaped:
            kept.append(value[position + 1 : end])
        command |= not escaped
        position = end
    return "".join(kept), command


def _closing_brackets(value: str) -> dict[int, int]:
    """Return, by the positions of opening brackets, those behind their closing ones.

    Without those of pairs that have, or enclose, one with nothing between: dotenv sees no command there.
    """
    found: dict[int, int] = {}
    enclosing: list[tuple[int, bool]] = []
    for position, character in enumerate(value):
        if character == "(":
            enclosing.append((position, False))
        elif character == ")" and enclosing:
            opening, hollow = enclosing.pop()
            hollow |= opening == position - 1
            if not hollow:
                found[opening] = position + 1
            elif enclosing:
                enclosing[-1] = (enclosing[-1][0], True)
    return found
