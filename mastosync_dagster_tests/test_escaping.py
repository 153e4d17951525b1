"""Text from outside, in the places where people see it."""

from __future__ import annotations

import csv
import io

import pytest
from markdown_it import MarkdownIt

from mastosync_dagster.escaping import cell, code_cell, csv_cell, markdown, one_line, plain

HOSTILE = [
    "![x](http://127.0.0.1:3000/graphql?query=mutation)",
    "a`![x](http://e.example)`",
    "a|![x](http://e.example)|b",
    "a\\|![x](http://e.example)",
    "a\\\\|`![x](http://e.example)",
    "<img src=http://e.example>",
    "\\<img src=http://e.example>",
    "&lt;img src=x&gt;",
    "[x](javascript:alert(1))",
    "\\[x](http://e.example)",
    "![x][1]\n\n[1]: http://e.example",
    "a\r![x](http://e.example)",
    "a\n| --- |\n<script>",
    "a\u2028![x](http://e.example)",
    "<!-- ",
    "``![x](http://e.example)``",
    "\\",
    "`",
    "|",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("as_cell", [cell, code_cell])
def test_nothing_begins_in_a_cell_and_the_table_keeps_its_shape(text: str, as_cell: object) -> None:
    assert callable(as_cell)
    table = f"| a | b | c |\n|---|---|---|\n| 1 | {as_cell(text)} | {as_cell(text)} |\n| 2 | 3 | 4 |"
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(table)
    assert "![" not in as_cell(text)
    assert "<" not in as_cell(text)
    assert "<img" not in html
    assert "<a" not in html
    assert "<script" not in html
    assert html.count("<td>") == 6
    assert html.count("<tr>") == 3


def test_what_is_harmless_stays_as_it_is() -> None:
    key = "cache/media_attachments/files/000/000/001/original/a-b_c.png"
    assert code_cell(key) == f"`{key}`"
    assert cell("the source answered 503 (SlowDown): x_y") == "the source answered 503 (SlowDown): x_y"
    assert cell(None) == ""
    assert cell("said | so\nby the server") == "said \\| so by the server"
    assert MarkdownIt().render(markdown("a [b] <c> & d")) == "<p>a [b] &lt;c&gt; &amp; d</p>\n"
    assert len(cell("x" * 1000)) == 200


CONTROL = ["\x1b[2J", "\x07", "\x9b31m", "\r", "\b", "\x00", "\u202e", "\u200b", "\x7f", "\udc80", "\u2029"]


@pytest.mark.parametrize("control", CONTROL)
def test_nothing_that_commands_a_terminal_is_shown(control: str) -> None:
    for show in (plain, one_line, markdown, cell, code_cell, csv_cell):
        shown = str(show(f"a{control}b"))
        assert not [letter for letter in shown if not letter.isprintable()], show
        assert shown.encode()


def test_lines_of_a_message_stay_lines_and_of_a_cell_do_not() -> None:
    assert plain("one\ntwo\r\nthree\tfour") == "one\ntwo\nthree four"
    assert one_line("one\r\ntwo\n") == "one two"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1", "\uff1d1"])
def test_no_spreadsheet_takes_a_text_for_a_formula(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([csv_cell(text)])
    ((read,),) = csv.reader(io.StringIO(out.getvalue()))
    assert read.startswith("'")


def test_numbers_and_other_texts_stay_as_they_are_in_a_csv_file() -> None:
    assert [csv_cell(value) for value in (-99, None, True, "a=b", "accounts/a-b.png")] == [
        -99,
        "",
        True,
        "a=b",
        "accounts/a-b.png",
    ]
