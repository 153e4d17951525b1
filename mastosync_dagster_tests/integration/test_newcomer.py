"""A new user's way, from a wheel in an empty environment to the first copied file type: scripts/newcomer.sh."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.installation.docker import FILES
from mastosync_dagster_tests.support.debian import debian, unavailable
from mastosync_dagster_tests.support.installation import PROJECT
from mastosync_dagster_tests.support.newcomer import (
    SCRIPT,
    build_wheel,
    check_outcome,
    copy_in_container,
    settings_files,
    uv_binary,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mastosync_dagster_tests.support.installation import Installation

pytestmark = pytest.mark.timeout(400)

HELD = {
    "installation/dagster.yaml": "dagster.yaml",
    "installation/workspace.yaml": "workspace.yaml",
    "installation/env.example": ".env.example",
    **{f"installation/{source}": name for name, source in FILES.items()},
    **{
        name: f"mastosync_dagster/{name}"
        for name in (
            "cli/prices.yaml",
            "cutover/nginx.conf",
            "installation/dagster-machines.yaml",
            "installation/mastosync.1",
            "metrics/grafana.json",
            "metrics/rules.yaml",
        )
    },
}
"""What commands and admins take out of the package, and where the project has it."""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    return build_wheel(tmp_path_factory.mktemp("dist"))


@pytest.mark.long
def test_the_wheel_holds_what_an_installation_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (description,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        manual = f"{description.replace('.dist-info', '.data')}/data/share/man/man1/mastosync.1"
        held = {f"mastosync_dagster/{name}": original for name, original in HELD.items()}
        held[manual] = HELD["installation/mastosync.1"]
        for name, original in held.items():
            assert archive.read(name) == (PROJECT / original).read_bytes(), name
        # No file of settings that lies beside them in somebody's checkout, either.
        others = {name for name in archive.namelist() if not name.startswith(description) and not name.endswith(".py")}
        assert others == {*held, "mastosync_dagster/py.typed", "mastosync_dagster/demo/schema_main.sql"}
        assert not [name for name in archive.namelist() if name.startswith(("mastosync_dagster_tests", "benchmarks"))]
        # Reproducible: no file has the time of its checkout.
        assert {info.date_time for info in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}


@pytest.mark.pythons
def test_a_commit_gives_the_same_files_wherever_and_whenever_it_is_built(tmp_path: Path) -> None:
    sums = []
    for name, umask in (("first", 0o022), ("second", 0o077)):
        # Another folder, other times and modes of the files; without what lies in this one beside the commit.
        clone, dist = tmp_path / name / "clone", tmp_path / name / "dist"
        commands = [
            ["git", "clone", "--quiet", "--local", "--no-hardlinks", str(PROJECT), str(clone)],
            ["bash", str(clone / "scripts" / "build.sh"), str(dist)],
        ]
        for command in commands:
            environment = {**os.environ, "BIN": str(Path(sys.executable).parent)}
            outcome = subprocess.run(command, umask=umask, env=environment, capture_output=True, text=True, check=False)
            assert outcome.returncode == 0, outcome.stdout[-2000:] + outcome.stderr[-2000:]
        sums.append({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in dist.iterdir()})
    assert sums[0] == sums[1]
    assert {name.rpartition(".")[2] for name in sums[0]} == {"whl", "gz"}


@pytest.mark.long
def test_a_newcomer_copies_in_ten_commands_without_an_editor(world: Installation, wheel: Path, tmp_path: Path) -> None:
    user = tmp_path / "user"
    user.mkdir()
    production, destination = settings_files(world, tmp_path)
    # The packages that the wheel needs are those of this environment; the wheel itself is installed.
    packages = Path(dg.__file__).parents[1]
    outcome = subprocess.run(
        ["bash", str(SCRIPT), str(wheel), str(production), str(destination)],
        env={
            "HOME": str(user),
            "PATH": os.environ["PATH"],
            "PYTHON": sys.executable,
            "INSTALL_OPTIONS": "--no-deps --no-index",
            "PYTHONPATH": str(packages),
            "NO_PROXY": "127.0.0.1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    check_outcome(world, outcome)
    assert "mastodons-own" not in (user / ".local/share/mastosync/mastosync.env").read_text()
    where = subprocess.run(
        [str(user / "venv/bin/python"), "-c", "import mastosync_dagster as m; print(m.__file__)"],
        env={"PYTHONPATH": str(packages)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert where.startswith(str(user / "venv"))


@pytest.mark.long(cases=0)
@pytest.mark.timeout(1800)  # the image, too
def test_an_empty_debian_with_uv_has_its_first_file_type_in_ten_minutes_and_ten_commands(
    world: Installation, wheel: Path, tmp_path: Path, report: Callable[[object], None]
) -> None:
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    uv = uv_binary()
    if uv is None:
        pytest.skip("uv is not installed: pip install 'mastosync-dagster[test]'")
    settings = tmp_path / "settings"
    settings.mkdir()
    with debian("trixie", tmp_path) as image:
        seconds = copy_in_container(world, image, wheel, settings, uv=uv)
    report(f"from an empty Debian 13 with uv to the first copied file type: {seconds:.0f} s")


def test_every_command_of_the_way_is_in_the_readme() -> None:
    readme = (PROJECT / "README.md").read_text()
    for command in set(re.findall(r"^mastosync (\w+)", SCRIPT.read_text(), re.MULTILINE)) - {"status"}:
        assert f"mastosync {command}" in readme


def test_whoever_has_a_wheel_installs_the_versions_that_are_tested() -> None:
    lines = re.findall(r"^ +(.* install .*\.whl)$", (PROJECT / "README.md").read_text(), re.MULTILINE)
    assert [line.partition(" install ")[0] for line in lines] == ["uv tool", "pipx", "pip"]
    assert [line for line in lines if "constraints.txt" not in line] == []
