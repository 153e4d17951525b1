"""A new user's way, from a wheel in an empty environment to the first copied file type: scripts/newcomer.sh."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster_tests.support.installation import PROJECT

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.installation import Installation

SCRIPT = PROJECT / "scripts" / "newcomer.sh"
SOURCE = ("DATABASE_URL", "S3_", "AWS_")
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built as a release is: by way of a source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--quiet", "--outdir", str(folder), str(PROJECT)]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_what_an_installation_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name, original in (
            ("dagster.yaml", "dagster.yaml"),
            ("workspace.yaml", "workspace.yaml"),
            ("env.example", ".env.example"),
        ):
            assert archive.read(f"mastosync_dagster/installation/{name}") == (PROJECT / original).read_bytes()
        assert not [name for name in archive.namelist() if name.startswith(("mastosync_dagster_tests", "benchmarks"))]
        # Reproducible: no file has the time of its checkout.
        assert {info.date_time for info in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}


def test_a_newcomer_copies_in_ten_commands_without_an_editor(world: Installation, wheel: Path, tmp_path: Path) -> None:
    user, settings = tmp_path / "user", world.environment
    user.mkdir()
    production, destination = tmp_path / ".env.production", tmp_path / "destination.env"
    production.write_text(
        "SECRET_KEY_BASE=mastodons-own\n"
        + "".join(f"{name}={value}\n" for name, value in settings.items() if name.startswith(SOURCE))
    )
    destination.write_text(
        "".join(
            f"{name}={value}\n" for name, value in settings.items() if name.startswith(("DESTINATION_", "MASTOSYNC_"))
        )
    )
    # The packages that the wheel needs are those of this environment; the wheel itself is installed.
    packages = Path(dg.__file__).parents[1]
    outcome = subprocess.run(
        ["bash", str(SCRIPT), str(wheel), str(production), str(destination)],
        env={
            "HOME": str(user),
            "PATH": os.environ["PATH"],
            "PYTHON": sys.executable,
            "PIP_OPTIONS": "--no-deps --no-index",
            "PYTHONPATH": str(packages),
            "NO_PROXY": "127.0.0.1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert world.compare("custom_emojis").differences == ()
    assert "mastodons-own" not in outcome.stdout + (user / ".local/share/mastosync/mastosync.env").read_text()
    assert "Warning" not in outcome.stderr
    assert re.search(r"ranges +(\d+): \1 materialized, 0 failed, 0 running, 0 not run yet", outcome.stdout)
    where = subprocess.run(
        [str(user / "venv/bin/python"), "-c", "import mastosync_dagster as m; print(m.__file__)"],
        env={"PYTHONPATH": str(packages)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert where.startswith(str(user / "venv"))


def test_the_way_has_at_most_ten_commands_and_every_one_is_in_the_readme() -> None:
    lines = [line for line in SCRIPT.read_text().splitlines() if line and not line.startswith(("#", "set ", "wheel="))]
    assert len(lines) <= 10
    readme = (PROJECT / "README.md").read_text()
    for command in {found[1] for line in lines if (found := re.match(r"mastosync (\w+)", line))} - {"status"}:
        assert f"mastosync {command}" in readme
