"""A release, by the command of CONTRIBUTING.md in a clone of the project: scripts/release.sh."""

from __future__ import annotations

import json
import os
import re
import site
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.installation.docker import FILES
from mastosync_dagster_tests.support.installation import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "9.9.9"
_WHO = {
    f"GIT_{role}_{what}": text
    for role in ("AUTHOR", "COMMITTER")
    for what, text in (("NAME", "An admin"), ("EMAIL", "admin@social.example"))
}
_OF_AN_OUTER_MAKE = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in _OF_AN_OUTER_MAKE}
    environment = {**kept, **_WHO, **variables}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def output_of(folder: Path, *words: str) -> str:
    outcome = run(folder, *words)
    assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-3000:]
    return outcome.stdout.strip()


def state(clone: Path) -> dict[str, list[str]]:
    """Return what a release changes: commit, tags, work trees, and files that are not committed."""
    questions = ("rev-parse HEAD", "tag", "worktree list", "status --porcelain --ignored")
    found = {question: output_of(clone, "git", *question.split()).splitlines() for question in questions}
    # What `make` installs, it installs into the checkout.
    installed = {"!! .venv/", "!! mastosync_dagster.egg-info/"}
    return {question: [line for line in lines if line not in installed] for question, lines in found.items()}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout with nothing but what is committed."""
    output_of(tmp_path, "git", "clone", "--quiet", "--local", "--no-hardlinks", str(PROJECT), "clone")
    return tmp_path / "clone"


@pytest.mark.long
def test_a_version_that_packaging_tools_would_spell_otherwise_is_refused_in_a_sentence(clone: Path) -> None:
    before = state(clone)
    for version in ("0.2.0a", "0.2.0rc", "0.2.01", "0.2.0rc01", "0.2", "v0.2.0", "0.2.0-rc1", "0.2.0.dev1", "0.2.05b"):
        outcome = run(clone, "bash", "scripts/release.sh", version)
        assert outcome.returncode == 1
        sentence = f"{version} is not a version such as 0.2.0, 0.2.0a1, 0.2.0b1 or 0.2.0rc1\n"
        assert (outcome.stdout, outcome.stderr) == ("", sentence)
    for version in ("0.2.0", "10.20.30", "0.2.0a1", "0.2.0b12", "0.2.0rc1"):
        # Nothing is in that folder: the first program that is needed is missing, and nothing stays of what was begun.
        outcome = run(clone, "bash", "scripts/release.sh", version, BIN="/nonexistent")
        assert outcome.returncode == 127
        assert "/nonexistent/python" in outcome.stderr
    assert state(clone) == before


def make_environment(clone: Path) -> None:
    """Give the clone the environment that `make` would make first; the tests' packages are in it already."""
    output_of(clone, sys.executable, "-m", "venv", ".venv")
    (there,) = (clone / ".venv").glob("lib/python3*/site-packages")
    (there / "of-the-tests.pth").write_text("".join(f"{folder}\n" for folder in site.getsitepackages()))
    (clone / ".venv" / ".installed").touch()


def make_release(clone: Path) -> subprocess.CompletedProcess[str]:
    """Run the command of CONTRIBUTING.md for another version."""
    (line,) = re.findall(r"^ {4}(make release VERSION=)\S+$", (PROJECT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return run(clone, *f"{line}{VERSION}".split())


@pytest.mark.pythons
@pytest.mark.timeout(1800)  # it installs what the wheel needs
def test_a_release_has_version_changelog_tag_and_files_and_a_failed_one_leaves_nothing(
    clone: Path, tmp_path: Path
) -> None:
    make_environment(clone)
    script = clone / "scripts" / "build.sh"
    whole = script.read_text()
    script.write_text(whole.replace("set -euo pipefail\n", "set -euo pipefail\necho the disk is full >&2; exit 1\n"))
    output_of(clone, "git", "commit", "--quiet", "--all", "--message", "A build that fails")
    before = state(clone)
    outcome = make_release(clone)
    assert outcome.returncode != 0
    assert "the disk is full" in outcome.stderr
    assert state(clone) == before
    output_of(clone, "git", "reset", "--quiet", "--hard", "HEAD~1")

    base = output_of(clone, "git", "rev-parse", "HEAD")
    fragments = [file.read_text() for file in (clone / "changes").glob("*.*.md")]
    assert fragments
    outcome = make_release(clone)
    assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-3000:]
    check_commit(clone, base)
    check_changelog(clone, fragments)
    check_files(clone / "dist", (clone / "constraints.txt").read_text())

    (wheel,) = (clone / "dist").glob("*.whl")
    pip = (str(clone / ".venv" / "bin" / "pip"), "install", "--quiet", "--no-deps", "--no-index")
    output_of(tmp_path, *pip, "--force-reinstall", str(wheel))
    command = str(clone / ".venv" / "bin" / "mastosync")
    assert output_of(tmp_path, command, "--version") == f"mastosync, version {VERSION}"
    # Installed, it has what it writes, and no links to a checkout.
    output_of(tmp_path, command, "init", "--docker", "docker", "--no-input")
    written = {name: (tmp_path / "docker" / name).read_bytes() for name in FILES}
    assert written == {name: (clone / name).read_bytes() for name in FILES}


def check_commit(clone: Path, base: str) -> None:
    """Assert that one commit with a tag has been added, and that nothing else is left over."""
    found = state(clone)
    assert found["tag"] == [f"v{VERSION}"]
    assert len(found["worktree list"]) == 1
    assert found["status --porcelain --ignored"] == ["!! dist/"]
    assert output_of(clone, "git", "cat-file", "-t", f"v{VERSION}") == "tag"
    assert output_of(clone, "git", "rev-parse", f"v{VERSION}^{{commit}}", "HEAD~1").split() == [
        *found["rev-parse HEAD"],
        base,
    ]
    # On the branch, so that a push of the branch has it.
    assert output_of(clone, "git", "symbolic-ref", "HEAD").startswith("refs/heads/")
    assert re.findall(r"^version = .*$", (clone / "pyproject.toml").read_text(), re.MULTILINE) == [
        f'version = "{VERSION}"'
    ]


def check_changelog(clone: Path, fragments: list[str]) -> None:
    """Assert that every change is an entry under its kind, word by word, and waits for no further release."""
    assert sorted(file.name for file in (clone / "changes").iterdir()) == ["README.md"]
    text = (clone / "CHANGELOG.md").read_text()
    assert len(re.findall(rf"^## {re.escape(VERSION)} \(\d{{4}}-\d\d-\d\d\)$", text, re.MULTILINE)) == 1
    kinds = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert kinds == [kind for kind in ("Added", "Changed", "Fixed", "Removed", "Security") if kind in kinds]
    entries = [" ".join(entry.split()) for entry in re.split(r"^(?:- |#+ .*$)", text, flags=re.MULTILINE)]
    assert sorted({" ".join(fragment.split()) for fragment in fragments} - set(entries)) == []
    # Behind an entry stands no issue, not even an empty one: fragments are named after what they are about.
    assert not [line for line in text.splitlines() if line.endswith(("()", " ")) or line.strip() == "("]
    assert "\n\n\n" not in text


def check_files(dist: Path, constraints: str) -> None:
    """Assert that all files are there, name the version, and have the sums that lie beside them."""
    stem = f"mastosync_dagster-{VERSION}"
    wheel, sbom = dist / f"{stem}-py3-none-any.whl", dist / f"{stem}.cdx.json"
    summed = {wheel.name, f"{stem}.tar.gz", sbom.name, "constraints.txt"}
    assert {file.name for file in dist.iterdir()} == {*summed, "SHA256SUMS"}
    assert {line.split()[1] for line in (dist / "SHA256SUMS").read_text().splitlines()} == summed
    assert output_of(dist, "sha256sum", "--check", "--strict", "SHA256SUMS").count(": OK") == len(summed)
    assert (dist / "constraints.txt").read_text() == constraints
    with zipfile.ZipFile(wheel) as archive:
        assert f"\nVersion: {VERSION}\n" in archive.read(f"{stem}.dist-info/METADATA").decode()
    described = json.loads(sbom.read_text())
    assert described["bomFormat"] == "CycloneDX"
    root = described["metadata"]["component"]
    assert (root["name"], root["version"]) == ("mastosync-dagster", VERSION)
    versions = {component["name"]: component["version"] for component in described["components"]}
    # A package may have several lines, for several Pythons.
    tested = set(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", constraints, re.MULTILINE))
    assert {"dagster", "boto3", "pycurl", "pyarrow"} <= {name for name, _ in tested} & versions.keys()
    assert {(name, versions[name]) for name, _ in tested if name in versions} <= tested
    # What the tests and the release itself need is no part of what an admin installs.
    assert not versions.keys() & {"pip", "pytest", "towncrier", "cyclonedx-bom"}
