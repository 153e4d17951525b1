"""A new user's way, scripts/newcomer.sh: its wheel, its two files of settings, and what must hold at its end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster_tests.support.debian import run_in
from mastosync_dagster_tests.support.installation import PROJECT

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.installation import Installation

SCRIPT = PROJECT / "scripts" / "newcomer.sh"
_SOURCE = ("DATABASE_URL", "S3_", "AWS_")
_MOST_COMMANDS, _MOST_SECONDS = 10, 600


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this tree as a release is built: by way of a source distribution."""
    words = [sys.executable, "-m", "build", "--quiet", "--outdir", str(folder), str(PROJECT)]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})
    (built,) = folder.glob("*.whl")
    return built


def settings_files(world: Installation, folder: Path) -> tuple[Path, Path]:
    """Write Mastodon's own file, with a secret that is not mastosync's, and the destination's settings."""
    settings = world.environment
    production, destination = folder / ".env.production", folder / "destination.env"
    production.write_text(
        "SECRET_KEY_BASE=mastodons-own\n"
        + "".join(f"{name}={value}\n" for name, value in settings.items() if name.startswith(_SOURCE))
    )
    destination.write_text(
        "".join(
            f"{name}={value}\n" for name, value in settings.items() if name.startswith(("DESTINATION_", "MASTOSYNC_"))
        )
    )
    return production, destination


def check_outcome(world: Installation, outcome: subprocess.CompletedProcess[str]) -> None:
    """Assert that the first file type is copied, in at most ten commands, and that no secret has been shown."""
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert world.compare("custom_emojis").differences == ()
    assert "mastodons-own" not in outcome.stdout
    assert "Warning" not in outcome.stderr
    assert re.search(r"ranges +(\d+): \1 materialized, 0 failed, 0 running, 0 not run yet", outcome.stdout)
    # bash has traced them; what only decides between two of them is none.
    commands = [
        line for line in outcome.stderr.splitlines() if line.startswith("+ ") and not line.startswith(("+ [", "+ '['"))
    ]
    assert len(commands) <= _MOST_COMMANDS, commands


def uv_binary() -> str | None:
    """Return the path of uv, which the extra ``test`` has; None: it is not installed."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


def copy_in_container(world: Installation, image: str, wheel: Path, folder: Path, *, uv: str | None = None) -> float:
    """Go a new user's way in an empty container, with uv or without. Returns how many seconds it took."""
    settings_files(world, folder)
    mounts = {wheel.parent: "/wheel:ro", folder: "/settings:ro", PROJECT: "/project:ro"}
    environment = {"INSTALL_OPTIONS": "-c /project/constraints.txt", "NO_PROXY": "127.0.0.1"}
    if uv is not None:
        mounts[Path(uv).resolve()] = "/usr/local/bin/uv:ro"
        environment |= {"INSTALLER": "uv", "UV_PYTHON_DOWNLOADS": "never"}
    script = f"/project/scripts/{SCRIPT.name} /wheel/{wheel.name} /settings/.env.production /settings/destination.env"
    began = time.monotonic()
    outcome = run_in(image, f"bash {script}", mounts=mounts, environment=environment, seconds=_MOST_SECONDS)
    check_outcome(world, outcome)
    return time.monotonic() - began
