"""The commands of docs/deploy.md for a wheel make an image, in a folder that has nothing of a clone."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.containers.deployment import PROJECT, documented
from mastosync_dagster_tests.containers.engine import (
    PYTHON_IMAGE,
    compose_command,
    docker,
    execute,
    make_images,
    unavailable,
)
from mastosync_dagster_tests.support.newcomer import build_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

_IMAGE = "mastosync-test-wheel"
_SECONDS = 900
_MASTODONS = "SECRET_KEY_BASE=not-for-us\nDB_HOST=db\nS3_BUCKET=media\nAWS_SECRET_ACCESS_KEY=s3cret\n"
_LOOK = """
mastosync --version
celery --version > /dev/null && echo celery
python3 -m pip freeze --all
echo
cat /var/lib/mastosync/dagster.yaml
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder after the documented commands, with the images of this machine in the place of a registry's."""
    if reason := unavailable():
        pytest.skip(reason)
    make_images()
    tmp_path = tmp_path_factory.mktemp("wheel")
    made, start = tmp_path / "srv", tmp_path / "start"
    start.mkdir()
    (start / ".env.production").write_text(_MASTODONS)
    (start / "destination.env").write_text("DESTINATION_S3_BUCKET=copy\n")
    build_wheel(start)
    lines = documented("With Docker, from the wheel")
    (build,) = [line for line in lines if line.endswith("up -d --build")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for line in lines[: lines.index(build) - 1]:
        here = line.replace("/home/mastodon/live/", "").replace("/srv/mastosync", str(made))
        execute(["bash", "-euo", "pipefail", "-c", here], cwd=start, seconds=60, PATH=path)
    assert lines[lines.index(build) - 1] == "cd /srv/mastosync"
    with (made / "deploy" / ".env").open("a") as file:
        file.write(f"PYTHON_IMAGE={PYTHON_IMAGE}\nMASTOSYNC_IMAGE={_IMAGE}\n")
    words, variables = compose_command()
    build = build.replace("docker compose", shlex.join(words)).replace("up -d --build", "build")
    execute(["bash", "-euo", "pipefail", "-c", build], cwd=made, seconds=_SECONDS, **variables)
    yield made
    docker("rmi", "--force", _IMAGE)


def pinned(line: str) -> tuple[str, str]:
    """Return a package and its version; names are spelled in several ways."""
    name, _, version = line.partition(" ")[0].partition("==")
    return re.sub(r"[-_.]+", "-", name).lower(), version


def test_the_image_has_the_wheel_with_the_tested_versions_and_no_settings(folder: Path) -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    look = docker("run", "--rm", _IMAGE, "sh", "-ec", _LOOK)
    first, second, *rest = look.splitlines()
    assert (first, second) == (f"mastosync, version {version}", "celery")
    packages = {pinned(line) for line in rest[: rest.index("")] if not line.startswith(("pip==", "mastosync"))}
    tested = {pinned(line) for line in (folder / "constraints.txt").read_text().splitlines()}
    assert "dagster" in {name for name, _ in packages}
    assert packages <= tested
    assert look.endswith("\n\n" + (folder / "deploy" / "dagster.yaml").read_text())
    # Neither in the files of the image, nor in what its builder was sent.
    found = docker("run", "--rm", "--user", "0", _IMAGE, "find", "/usr/src/mastosync", "-name", "*.env*").split()
    assert found == []
    assert "s3cret" not in docker("history", "--no-trunc", _IMAGE)


def test_two_wheels_are_refused_in_a_sentence(folder: Path) -> None:
    (wheel,) = folder.glob("*.whl")
    (folder / wheel.name.replace("-py3", "-1-py3")).write_bytes(wheel.read_bytes())
    words, variables = compose_command()
    with pytest.raises(AssertionError, match="there is mastosync_dagster-"):
        execute([*words, "-f", "deploy/compose.yaml", "build"], cwd=folder, seconds=_SECONDS, **variables)
