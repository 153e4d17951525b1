"""The pages for people lead where they say: links, headings, and the variables that the settings pages name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(PROJECT.glob("docs/*.md"))
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = (re.sub(r"[^\w -]", "", heading.lower()) for heading in _HEADING.findall(page.read_text("utf-8")))
    return {heading.strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for path, anchor in _LINK.findall(page.read_text("utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_deploying_names_variables_that_there_are() -> None:
    text = (PROJECT / "docs" / "deploy.md").read_text("utf-8")
    known = (PROJECT / ".env.example").read_text("utf-8") + "".join(
        path.read_text("utf-8") for path in (PROJECT / "deploy").glob("*.*") if path.is_file()
    )
    names = set(re.findall(r"\b(?:MASTOSYNC|DESTINATION|S3|AWS|DB|DAGSTER|SSH)_[A-Z0-9_]+(?![A-Z0-9_…])", text))
    assert "MASTOSYNC_MANIFESTS" in names
    missing = {name for name in names if name not in known and not name.endswith("_")}
    assert missing <= {"MASTOSYNC_ENV_FILE", "DAGSTER_HOME"}, missing
