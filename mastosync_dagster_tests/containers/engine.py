"""Docker, as these tests use it: commands with their output, and images made from Debian's packages."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

PYTHON_IMAGE, SERVERS_IMAGE, REDIS_IMAGE = "mastosync-test/python", "mastosync-test/servers", "mastosync-test/redis"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mastosync-images"
"""What takes long to fetch, and stays."""
_IMAGES_SECONDS = 500


def unavailable() -> str | None:
    """Return why the Docker files cannot be tried on this machine; None: they can."""
    if shutil.which("docker") is None:
        return "there is no docker on this machine"
    asked = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    if asked.returncode:
        return f"no Docker engine answers: {asked.stderr.strip()}"
    if os.geteuid() != 0:
        return "the images are made by root (debootstrap)"
    if shutil.which("debootstrap") is None:
        return "there is no debootstrap on this machine (Debian: apt-get install debootstrap)"
    return None


def docker(*arguments: str, seconds: float = 60) -> str:
    """Run a docker command; return its output.

    Raises:
        AssertionError: It failed.
    """
    return execute(["docker", *arguments], seconds=seconds)


def execute(command: list[str], *, cwd: Path | None = None, seconds: float, **environment: str) -> str:
    """Run a command; return its output and errors.

    Raises:
        AssertionError: It failed; the message has the end of what it said.
    """
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}"
    return done.stdout


def make_images(*more: str) -> None:
    """Make the images that stand in for those of a registry; ``redis`` is made if it is asked for."""
    script = Path(__file__).with_name("images.sh")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        # Tests that run beside each other want the same images.
        fcntl.flock(lock, fcntl.LOCK_EX)
        execute([str(script), str(CACHE), sys.executable, *more], seconds=_IMAGES_SECONDS)


def compose_command() -> tuple[list[str], dict[str, str]]:
    """Return the command that is compose here, and the variables that it needs.

    It is the plugin, or else docker-compose; that one too, version 1 in Debian 12, where COMPOSE names it.
    """
    settings = CACHE / "cli"
    if os.environ.get("COMPOSE") != "docker-compose" and (settings / "cli-plugins" / "docker-compose").exists():
        return ["docker", "compose"], {"DOCKER_CONFIG": str(settings)}
    return ["docker-compose"], {}
