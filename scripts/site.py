"""Makes the site of the documentation: ``python scripts/site.py FOLDER``. A link that leads nowhere ends it.

Sphinx reads a copy of docs/ and of the pages of the project's folder; links to other files get a copy of the file.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]
_PAGES = {"README.md": "index.md", **{name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")}}
_LINK = re.compile(r"(!?\[[^]]*\]\()([^)#\s]+)((?:#[^)]*)?\))")
_CONTENTS = {
    "For admins": [
        "moving",
        "operations",
        "monitoring",
        "subsets",
        "folder",
        "verify-and-prune",
        "providers",
        "deploy",
        "upgrading",
    ],
    "Reference": ["settings", "commands", "performance", "scale", "reliability"],
    "For developers": ["architecture", "how-to-add", "CONTRIBUTING", "CHANGELOG", "SECURITY"],
}
_SETTINGS = """\
project = "mastosync"
html_title = "mastosync"
extensions = ["myst_parser"]
html_theme = "furo"
html_static_path = []
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
# performance.md is written by `make bench`, whose sections have a level of their own.
suppress_warnings = ["misc.highlighting_failure", "myst.header"]
"""


def make_site(site: Path) -> None:
    """Write the site into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        (source / "conf.py").write_text(_SETTINGS)
        for page in (PROJECT / "docs").glob("*"):
            if page.suffix == ".md":
                (source / page.name).write_text(_with_links(page.read_text(), "docs", source))
            else:
                shutil.copy(page, source)
        for page_name, name in _PAGES.items():
            (source / name).write_text(_with_links((PROJECT / page_name).read_text(), "", source))
        with (source / "index.md").open("a") as index:
            for title, names in _CONTENTS.items():
                index.write("\n".join(["", "```{toctree}", ":hidden:", f":caption: {title}", "", *names, "```", ""]))
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(source), str(site)]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit("the site has warnings")


def _with_links(markdown: str, folder: str, source: Path) -> str:
    """Return a page whose links lead to where the project's files are on the site."""

    def change(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        path = posixpath.normpath(posixpath.join(folder, link))
        if "://" in link or not (PROJECT / path).exists():
            return match[0]
        if path in _PAGES:
            return f"{before}{_PAGES[path]}{after}"
        if path.startswith("docs/"):
            return f"{before}{path.removeprefix('docs/')}{after}"
        if not (PROJECT / path).is_file():
            return match[0]
        name = path.replace("/", "-").lstrip(".") + ("" if path.endswith((".png", ".svg")) else ".txt")
        shutil.copy(PROJECT / path, source / name)
        return f"{before}{name}{after}"

    return _LINK.sub(change, markdown)


if __name__ == "__main__":
    make_site(Path(sys.argv[1]))
