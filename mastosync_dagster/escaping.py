"""Escaping of untrusted text (keys, values of rows, answers of servers) for terminals, Markdown and spreadsheets."""

from __future__ import annotations

import re

_LINE_BREAKS = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")
_CELL_CHARACTERS = 200
_MARKDOWN = str.maketrans(
    {"\\": "\\\\", "|": "\\|", "[": "\\[", "]": "\\]", "`": "'", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
)
_AS_CODE = re.compile(r"[^\\|`\[\]&<>]*")
_FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")
"""First characters of a formula in some spreadsheet; the last four are the full-width forms of the first four."""


def plain(text: str) -> str:
    """Return a text for a terminal or a log: line breaks stay, other unprintable characters are replaced."""
    return "\n".join(one_line(line) for line in text.split("\n"))


def one_line(text: str) -> str:
    """Return a text for a terminal or a log as one line."""
    line = _LINE_BREAKS.sub(" ", text.strip("\r\n")).replace("\t", " ")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)


def markdown(text: str) -> str:
    """Return a text as one line of Markdown in which no image, link, HTML, code or cell begins."""
    return one_line(text).translate(_MARKDOWN)


def cell(text: str | None) -> str:
    """Return a text, shortened, as the cell of a Markdown table."""
    return markdown(_short(text or ""))


def code_cell(text: str) -> str:
    """Return a text, shortened, as a code cell of a Markdown table; as plain text if it has special characters."""
    shown = one_line(_short(text))
    return f"`{shown}`" if shown and _AS_CODE.fullmatch(shown) else markdown(shown)


def csv_cell(value: object) -> object:
    """Return the value for a cell of a CSV file, quoted if a spreadsheet might take it for a formula."""
    if not isinstance(value, str):
        return "" if value is None else value
    shown = one_line(value)
    return f"'{shown}" if value.startswith(_FORMULA) or shown.lstrip().startswith(_FORMULA) else shown


def _short(text: str) -> str:
    return text if len(text) <= _CELL_CHARACTERS else text[: _CELL_CHARACTERS - 1] + "…"
