"""The pages: links lead somewhere, code blocks can be read, and what is made from the code is current."""

from __future__ import annotations

import configparser
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import yaml
from click.testing import CliRunner
from markdown_it import MarkdownIt

from mastosync_dagster.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[1]
PAGES = [*sorted((PROJECT / "docs").glob("*.md")), *sorted(PROJECT.glob("*.md"))]
IDS = [page.name for page in PAGES]


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", re.sub(r"`[^`\n]+`", "", text), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub, and Sphinx with MyST, make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)).lower() for title in titles)
    return {re.sub(r"[ ]", "-", title.strip()) for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_leads_to_a_file_and_a_heading_that_there_are(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the code blocks of a page, each with its language, also those inside lists and quotations."""
    for token in MarkdownIt("commonmark").parse(text):
        if token.type in {"fence", "code_block"}:
            yield token.info.partition(" ")[0], token.content


def spans(text: str) -> Iterator[str]:
    """Yield the code in the sentences of a page."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield from (child.content for child in token.children or () if child.type == "code_inline")


def commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each mastosync in some code: after a prompt, another command or a path as well."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        for piece in re.split(r"[|;>&]", re.sub(r"(^|\s)#\s.*", "", line)):
            words = piece.split()
            for number, word in enumerate(words[:-1]):
                # Not where it is a user, a role or a release of Helm's: what follows there is no command and no option.
                own = re.fullmatch(r"(\S*/bin/)?mastosync", word) and words[0] != "helm"
                if own and re.match(r"(--)?[a-z]", words[number + 1]):
                    yield words[number + 1 :]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_code_block_can_be_read(page: Path) -> None:
    for language, block in blocks(page.read_text()):
        if language == "python":
            compile(block, page.name, "exec")
        elif language == "yaml":
            assert yaml.safe_load(block)
        elif language == "json":
            assert json.loads(block)
        elif language == "ini":
            parser = configparser.ConfigParser(strict=False, interpolation=None)
            parser.read_string(block)
        elif language in {"sh", "bash"}:
            subprocess.run(["bash", "-n"], input=block, text=True, check=True)


@pytest.mark.parametrize(
    "line",
    [
        "mastosync sync accounts",
        "$ mastosync sync accounts",
        "    mastosync sync accounts   # a trial",
        "runuser -u mastosync -- env DAGSTER_HOME=/x /opt/mastosync/bin/mastosync sync accounts",
        "ExecStart=/opt/mastosync/bin/mastosync sync accounts",
        "docker compose exec code mastosync sync accounts > log",
        "cat file | sudo mastosync sync accounts && true",
        "mastosync \\\n  sync accounts",
    ],
)
def test_a_command_is_found_wherever_it_stands(line: str) -> None:
    assert list(commands(line)) == [["sync", "accounts"]]


def test_no_user_and_no_comment_is_taken_for_a_command() -> None:
    for line in ("CREATE ROLE mastosync LOGIN", "useradd -d /srv/mastosync -m mastosync", "# mastosync does"):
        assert list(commands(line)) == []


def test_code_is_found_in_lists_and_sentences_too() -> None:
    page = "1. A\n\n   ```sh\n   mastosync sync\n   ```\n\n   B\n\n       mastosync check\n\n`mastosync ui`\n"
    assert [content.strip() for _, content in blocks(page)] == ["mastosync sync", "mastosync check"]
    assert list(spans(page)) == ["mastosync ui"]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_of_a_page_exists_with_its_options(page: Path) -> None:
    text = page.read_text()
    for words in commands("\n".join([*(block for _, block in blocks(text)), *spans(text)])):
        command: click.Command = main
        rest = words
        while isinstance(command, click.Group) and rest and not rest[0].startswith(("-", "[")):
            assert rest[0] in command.commands, words
            command, rest = command.commands[rest[0]], rest[1:]
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help", "-h"}
        if command is main:
            known |= {"--version"}
        used = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert used <= known, words


def test_what_is_made_from_the_code_is_current() -> None:
    made = runpy.run_path(str(PROJECT / "scripts" / "reference.py"))["pages"]()
    old = [str(path) for path, text in made.items() if (PROJECT / path).read_text() != text]
    assert not old, f"python scripts/reference.py writes {old}"


@pytest.mark.skipif(shutil.which("man") is None, reason="no man on this machine (Debian: apt-get install man-db)")
def test_the_manual_page_is_well_formed() -> None:
    page = PROJECT / "mastosync_dagster" / "installation" / "mastosync.1"
    shown = subprocess.run(["man", "--warnings", "-l", str(page)], capture_output=True, text=True, check=True)
    assert shown.stderr == ""
    assert "mastosync status" in shown.stdout


@pytest.mark.long
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="sphinx is not installed: pip install 'mastosync-dagster[docs]'")
    command = [sys.executable, str(PROJECT / "scripts" / "site.py"), str(tmp_path)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    for page in (PROJECT / "docs").glob("*.md"):
        made = (tmp_path / f"{page.stem}.html").read_text()
        assert re.findall(r"<(?:script|link rel=.stylesheet)[^>]*(?:src|href)=.https?://", made) == []
    assert "moving.html" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_each_shell_is_printed(shell: str) -> None:

    outcome = CliRunner().invoke(main, ["completion", shell])
    assert outcome.exit_code == 0
    assert "_MASTOSYNC_COMPLETE" in outcome.output
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=outcome.output, text=True, check=True)


def test_deploying_names_variables_that_there_are() -> None:
    text = (PROJECT / "docs" / "deploy.md").read_text("utf-8")
    known = (PROJECT / ".env.example").read_text("utf-8") + "".join(
        path.read_text("utf-8") for path in (PROJECT / "deploy").glob("*.*") if path.is_file()
    )
    names = set(re.findall(r"\b(?:MASTOSYNC|DESTINATION|S3|AWS|DB|DAGSTER|SSH)_[A-Z0-9_]+(?![A-Z0-9_…])", text))
    assert "MASTOSYNC_MANIFESTS" in names
    missing = {name for name in names if name not in known and not name.endswith("_")}
    assert missing <= {"MASTOSYNC_ENV_FILE", "DAGSTER_HOME"}, missing
