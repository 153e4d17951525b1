"""Text from outside (keys, values of rows, what servers answer) for people: it must not command what shows it."""

from __future__ import annotations

import re

_LINE_BREAKS = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")
_CELL_CHARACTERS = 200
_MARKDOWN = str.maketrans(
    {"\\": "\\\\", "|": "\\|", "[": "\\[", "]": "\\]", "`": "'", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
)
_AS_CODE = re.compile(r"[^\\|`\[\]&<>]*")
_FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")
"""How a formula begins in one spreadsheet or another: the last four are the first four in full width."""


def plain(text: str) -> str:
    """Return a text for a terminal or a log: its lines stay, and nothing else in it that is not seen."""
    return "\n".join(one_line(line) for line in text.split("\n"))


def one_line(text: str) -> str:
    """Return a text for a terminal or a log as one line."""
    line = _LINE_BREAKS.sub(" ", text.strip("\r\n")).replace("\t", " ")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)


def markdown(text: str) -> str:
    """Return a text as one line of Markdown that shows it: no image, link, HTML, code or cell begins in it."""
    return one_line(text).translate(_MARKDOWN)


def cell(text: str | None) -> str:
    """Return a text, shortened, as the cell of a Markdown table."""
    return markdown(_short(text or ""))


def code_cell(text: str) -> str:
    """Return a text, shortened, as the cell of a Markdown table: as code, unless it holds what ends code or a cell."""
    shown = one_line(_short(text))
    return f"`{shown}`" if shown and _AS_CODE.fullmatch(shown) else markdown(shown)


def csv_cell(value: object) -> object:
    """Return what stands in a cell of a CSV file, so that no spreadsheet takes a text for a formula."""
    if not isinstance(value, str):
        return "" if value is None else value
    shown = one_line(value)
    return f"'{shown}" if value.startswith(_FORMULA) or shown.lstrip().startswith(_FORMULA) else shown


def _short(text: str) -> str:
    return text if len(text) <= _CELL_CHARACTERS else text[: _CELL_CHARACTERS - 1] + "…"
