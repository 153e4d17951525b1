"""The Pythons that mastosync names, each in a container of Debian's suite that has it (``make pythons``).

The wheel goes into an empty environment with the versions of constraints.txt, a new user's way is gone with it, and a
selection of the tests runs.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.support.debian import PYTHONS, debian, run_in, unavailable
from mastosync_dagster_tests.support.installation import PROJECT
from mastosync_dagster_tests.support.newcomer import build_wheel, copy_in_container

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mastosync_dagster_tests.support.installation import Installation

_SECONDS = 3600
_SELECTION = (
    "cli",
    "copy",
    "expected",
    "mastodon",
    "metrics",
    "plan",
    "ranges",
    "records",
    "resources",
    "runs",
    "s3",
    "test_env_file.py",
    "test_environment.py",
    "test_launcher.py",
    "integration/test_sync.py",
    "integration/test_signals.py",
)
"""What depends on Python and on compiled packages: processes, signals, the event loop, TLS, Arrow, Dagster."""
_TESTS = """
python3 -m venv /venv
/venv/bin/pip install --quiet --disable-pip-version-check -c /project/constraints.txt "$WHEEL[test]"
mkdir /copy && cd /copy
# Without the package: the tests are those of the wheel.
tar -C /project --exclude=./.venv --exclude=./.git --exclude=./mastosync_dagster -c . | tar -x
/venv/bin/pytest -p no:cacheprovider --tb=line -rfEs -n 3 --dist worksteal -o timeout=600 $TESTS
"""


def test_the_pythons_that_are_named_are_those_that_are_tested() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    oldest = ".".join(map(str, min(PYTHONS.values())))
    assert project["project"]["requires-python"] == f">={oldest}"
    named = re.findall(r":: (3\.\d+)$", "\n".join(project["project"]["classifiers"]), re.MULTILINE)
    assert named == [".".join(map(str, version)) for version in PYTHONS.values()]
    assert project["tool"]["mypy"]["python_version"] == oldest
    for page in ("README.md", "Makefile", ".ci/run", "deploy/Dockerfile", "docs/moving.md"):
        older = re.findall(rf"\b[Pp]ython3?\W{{1,2}}(3\.\d+)\b(?<!{re.escape(oldest)})", (PROJECT / page).read_text())
        assert [version for version in older if int(version[2:]) < min(PYTHONS.values())[1]] == [], page


@pytest.mark.pythons
@pytest.mark.timeout(2 * _SECONDS)
@pytest.mark.parametrize("suite", PYTHONS)
def test_a_python_runs_the_wheel_and_the_tests(
    suite: str, world: Installation, tmp_path: Path, report: Callable[[object], None]
) -> None:
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    (dist, settings) = (tmp_path / "dist", tmp_path / "settings")
    settings.mkdir()
    wheel = build_wheel(dist)
    with debian(suite, tmp_path) as image:
        ask = "import sys; print(*sys.version_info[:2])"
        version = run_in(image, f"python3 -c '{ask}'", mounts={}, environment={}, seconds=60).stdout.split()
        assert tuple(map(int, version)) == PYTHONS[suite]
        seconds = copy_in_container(world, image, wheel, settings)
        tests = " ".join(f"mastosync_dagster_tests/{name}" for name in _SELECTION)
        outcome = run_in(
            image,
            _TESTS,
            mounts={PROJECT: "/project:ro", dist: "/wheel:ro"},
            environment={"WHEEL": f"/wheel/{wheel.name}", "TESTS": tests},
            seconds=_SECONDS,
        )
    assert outcome.returncode == 0, outcome.stdout[-6000:] + outcome.stderr[-2000:]
    (passed,) = re.findall(r"^(\d+ passed.*)$", outcome.stdout, re.MULTILINE)[-1:]
    report(f"{suite}, Python {'.'.join(version)}: the new user's way in {seconds:.0f} s; {passed}")


_BY_PIPX = """
apt-get -qq update && apt-get -qq install -y pipx man-db > /dev/null
PIPX_HOME=/opt/pipx pipx install --pip-args "-c /project/constraints.txt" "$WHEEL"
export PATH=$PATH:/root/.local/bin
mastosync --version
mastosync init --no-input
mastosync init --docker /srv/mastosync --no-input
man -w mastosync
"""


@pytest.mark.pythons
@pytest.mark.timeout(_SECONDS)
def test_pipx_installs_the_command_and_its_manual_page(tmp_path: Path) -> None:
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    dist = tmp_path / "dist"
    wheel = build_wheel(dist)
    with debian("trixie", tmp_path) as image:
        mounts = {PROJECT: "/project:ro", dist: "/wheel:ro"}
        outcome = run_in(
            image, _BY_PIPX, mounts=mounts, environment={"WHEEL": f"/wheel/{wheel.name}"}, seconds=_SECONDS
        )
    assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-2000:]
    assert "/share/man/man1/mastosync.1" in outcome.stdout
