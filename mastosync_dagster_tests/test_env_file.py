"""``.env.production`` read by the rules of Ruby's dotenv 3: a table of cases, and dotenv itself where it is found."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from mastosync_dagster.env_file import UnsetExportError, parse

CASES = json.loads((Path(__file__).parent / "data" / "dotenv_cases.json").read_text(encoding="utf-8"))
"""Made by dotenv 3.2.0: a file's text, the process's variables, and the values; None: the file is refused."""

_RUBY = """
require "json"
require "dotenv"
abort "dotenv #{Dotenv::VERSION}" unless Dotenv::VERSION.to_i >= 3
Dotenv::Substitutions::Command.define_singleton_method(:`) { |_| "" }
puts JSON.generate(JSON.parse($stdin.read).map { |each|
  ENV.replace(each["process"])
  begin
    Dotenv::Parser.call(each["text"])
  rescue Dotenv::FormatError
    nil
  end
})
"""
"""Reads cases from standard input, and prints the values. Commands are replaced by nothing, and not run."""

_PIECES = [
    *("A", "B", "export ", "export", "=", "=", "=", ": ", ":", "'", '"', "\\", "\\'", '\\"', "\\n", "\\r", "\\$"),
    *("$", "$A", "${B}", "{", "}", "$(", "(", ")", "#", " ", "\n", "\n", "\r\n", "\t", "\0", "x", "yé", "1", "_", "."),
    *("-", "\u212a", "\u017f", "\u2028", "DOTENV_LINEBREAK_MODE=legacy\n"),
]


def values(text: str, process: dict[str, str]) -> dict[str, str] | None:
    """Return what dotenv returns: the process's values where it has a variable too."""
    try:
        found = parse(text, process).assignments
    except UnsetExportError:
        return None
    return {name: line.value for name, line in found.items()} | {
        name: value for name, value in process.items() if name in found and name != "DOTENV_LINEBREAK_MODE"
    }


def by_ruby(cases: list[dict[str, object]]) -> list[dict[str, str] | None]:
    """Return what the real dotenv makes of some cases; skip the test where there is none."""
    if shutil.which("ruby") is None:
        pytest.skip("no ruby on this machine")
    done = subprocess.run(
        ["ruby", "-e", _RUBY], input=json.dumps(cases), capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        pytest.skip("ruby has no dotenv 3")
    found: list[dict[str, str] | None] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", CASES, ids=[case["why"] for case in CASES])
def test_a_file_has_the_values_that_dotenv_reads(case: dict[str, object]) -> None:
    text, process, expected = case["text"], case["process"], case["values"]
    assert isinstance(text, str)
    assert isinstance(process, dict)
    found = values(text, process)
    # `export NAME` of a variable of the process hands it on; here the process wins in any case.
    assert expected in (found, {**(found or {}), **process})


def test_the_table_is_what_dotenv_itself_reads() -> None:
    assert by_ruby(CASES) == [case["values"] for case in CASES]


def test_random_files_have_the_values_that_dotenv_reads() -> None:
    chance = random.Random(26)
    cases: list[dict[str, object]] = [
        {
            "text": chance.choice(["", "A=", "export B=", "A: ", "A='", 'A="'])
            + "".join(chance.choices(_PIECES, k=chance.randint(1, 22))),
            "process": {},
        }
        for _ in range(5_000)
    ]
    different = [
        (case["text"], found, ours)
        for case, found in zip(cases, by_ruby(cases), strict=True)
        if (ours := values(str(case["text"]), {})) != found
    ]
    assert different == []


@pytest.mark.parametrize(
    "text",
    ["A=$(date)", 'A="x$(cat /run/secrets/db)y"', "A=$($(date))", "B=$(date)\nA=x${B}", "A=$(date $(id)"],
)
def test_a_command_is_not_run_and_is_known(text: str) -> None:
    assert parse(text, {}).assignments["A"].command


@pytest.mark.parametrize(
    "text", ["A='$(date)'", "A=\\$(date)", "A=\\\\$(date)", "A=$()", "A=(date)", "B=$(date)\nA=$C", "A=$B"]
)
def test_what_is_no_command_is_none(text: str) -> None:
    assert not parse(text, {"B": "$(date)"}).assignments["A"].command


def test_lines_are_numbered_whatever_stands_between() -> None:
    text = "\n# a comment\nA=1\n  \nnot this\nB='one\ntwo\n'\r\nC=3\nnor that\nexport D=4"
    found = parse(text, {})
    assert {name: line.line for name, line in found.assignments.items()} == {"A": 3, "B": 6, "C": 9, "D": 11}
    assert found.ignored == (5, 10)


def test_a_large_file_takes_no_time() -> None:
    text = "A='" + "x'y \\'" * 20_000 + "\n" + 'B="' + "$C\\" * 20_000 + "\n" + "C=" + "$(" * 20_000
    parse(text, {})
