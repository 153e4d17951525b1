"""mastosync in containers, as an admin has it who has followed docs/deploy.md."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.demo.servers.start import free_port
from mastosync_dagster_tests.containers.engine import (
    PYTHON_IMAGE,
    REDIS_IMAGE,
    SERVERS_IMAGE,
    compose_command,
    docker,
    execute,
)
from mastosync_dagster_tests.containers.instance import NETWORK
from mastosync_dagster_tests.support.graphql import Run, Webserver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mastosync_dagster_tests.containers.instance import Mastodon

PROJECT = Path(__file__).parents[2]
NAME = "mastosync-test"
KEPT = f"{NAME}:before"
"""The image that is kept for the way back."""
_NEEDED = ("pyproject.toml", "setup.py", "constraints.txt", "README.md", "LICENSE", "dagster.yaml", "workspace.yaml")
_FOLDERS = ("deploy", "mastosync_dagster")
_FILES = "-f deploy/compose.yaml"
_RATE = "MASTOSYNC_DESTINATION_REQUESTS_PER_SECOND"
WITH_MASTODON = ("deploy/compose.mastodon.yaml",)
"""What docs/deploy.md adds where the database is in a network of Docker."""


def documented(section: str) -> list[str]:
    """Return the commands of a section of docs/deploy.md, a line each; those of its lists too."""
    text = (PROJECT / "docs" / "deploy.md").read_text()
    body = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [line.strip() for line in re.findall(r"^ {4}(?: {2})?(\S.*)$", body, re.MULTILINE)]


def crash(container: str) -> None:
    """Kill the first process of a container, as the kernel or a bug would: Docker starts it again by its policy."""
    os.kill(int(docker("inspect", "--format", "{{.State.Pid}}", container)), signal.SIGKILL)


@dataclass(frozen=True)
class Deployment:
    """A copy of the project in a folder, and the containers that its compose files make.

    Attributes:
        files: What each command of compose names beside deploy/compose.yaml.
        said: What each documented command said when the deployment was made.
    """

    folder: Path
    mastodon: Mastodon
    files: tuple[str, ...] = WITH_MASTODON
    said: dict[str, str] = field(default_factory=dict)

    @cached_property
    def port(self) -> int:
        """Of the UI, on loopback."""
        return free_port()

    @property
    def webserver(self) -> Webserver:
        """The UI."""
        return Webserver(f"http://127.0.0.1:{self.port}")

    def unpack(self) -> None:
        """Lay out the project's files, Mastodon's own settings, and what the admin writes for the destination."""
        for name in (*_NEEDED, ".env.example", ".dockerignore"):
            shutil.copy(PROJECT / name, self.folder / name)
        for name in _FOLDERS:
            ignored = shutil.ignore_patterns("__pycache__", ".env")
            shutil.copytree(PROJECT / name, self.folder / name, ignore=ignored, symlinks=True)
        (self.folder / "destination.env").write_text(self.mastodon.destination_env)
        (self.folder / ".env.production").write_text(self.mastodon.env_production)

    def add_variables(self) -> None:
        """Write into deploy/.env what docs/deploy.md says may be set there: names of images and of the network."""
        with (self.folder / "deploy" / ".env").open("a") as file:
            file.write(
                f"PYTHON_IMAGE={PYTHON_IMAGE}\nPOSTGRES_IMAGE={SERVERS_IMAGE}\nMASTOSYNC_IMAGE={NAME}\n"
                f"MASTOSYNC_PORT={self.port}\nMASTODON_NETWORK={NETWORK}\nREDIS_IMAGE={REDIS_IMAGE}\n"
            )

    def limit_runs(self, requests_per_second: float | None) -> None:
        """Set how many requests the runs that begin from now on send to the destination together; None: no limit."""
        settings = self.folder / "instance.env"
        kept = [line for line in settings.read_text().splitlines() if not line.startswith(f"{_RATE}=")]
        limit = [] if requests_per_second is None else [f"{_RATE}={requests_per_second}"]
        # In place: the container has this file, not its name.
        settings.write_text("\n".join([*kept, *limit, ""]))

    def run_documented(self, line: str, seconds: float = 900) -> str:
        """Run a command of docs/deploy.md; return what it says.

        Word by word, but for the file of Mastodon's settings, which lies elsewhere; and each names both files, as the
        page asks where the database is in a network of Docker. Where compose is no plugin, it is `docker-compose`. What
        compose calls after the folder `deploy` and the default image have this deployment's name.
        """
        words, variables = compose_command()
        if "compose.mastodon.yaml" not in line:
            line = line.replace(_FILES, " -f ".join([_FILES, *(name for name in self.files if name not in line)]))
        line = line.replace("docker compose ", shlex.join(words) + " ")
        # Not twice: version 1 of compose does nothing then, and calls it a success.
        line = line.replace(" exec -T ", " exec ").replace(" exec ", " exec -T ")
        line = line.replace("/home/mastodon/live/", "")
        line = line.replace("-v deploy_", f"-v {NAME}_").replace(" mastosync:", f" {NAME}:")
        return execute(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.folder,
            seconds=seconds,
            COMPOSE_PROJECT_NAME=NAME,
            **variables,
        )

    def compose(self, *arguments: str, seconds: float = 900) -> str:
        """Run a command of compose with both files."""
        return self.run_documented(f"docker compose {_FILES} {shlex.join(arguments)}", seconds)

    def follow(self, lines: Iterable[str]) -> None:
        """Run documented commands, and keep what they say; what may be set is set as soon as there is a file for it."""
        for line in lines:
            self.said[line] = self.run_documented(line)
            if line.endswith("> deploy/.env"):
                self.add_variables()
            if " --build" in line:
                self.wait_until_healthy()

    def start(self, *command: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a command in `code`, as ``exec`` does."""
        environment = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        words = ["docker", "exec", *environment, self.container("code"), *command]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait_for_command(self, job: str = "sync_changes", seconds: float = 120) -> str:
        """Wait until the run of a command copies; return its id."""
        deadline = time.monotonic() + seconds
        while True:
            (run,) = self.webserver.newest_runs(1)
            if run.job == job and run.status == "STARTED" and self.webserver.has_begun(run.run_id, "copy"):
                return run.run_id
            assert time.monotonic() < deadline, run
            time.sleep(0.5)

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        (found,) = self.containers(service)
        return found

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's containers."""
        return self.compose("ps", "-q", service).split()

    def crash(self, service: str) -> None:
        """Kill the first process of a service's container."""
        crash(self.container(service))

    def wait_until_healthy(self, seconds: float = 400) -> None:
        """Wait until history and code server are healthy, and the UI answers with what is in the history."""
        deadline = time.monotonic() + seconds
        while True:
            found = {name: self._health(name) for name in ("history", "code")}
            if set(found.values()) == {"healthy"} and self._answers():
                return
            assert time.monotonic() < deadline, (found, self.logs())
            time.sleep(1)

    def _answers(self) -> bool:
        try:
            # The webserver's connections to runs and to events: those that a history has broken off end with an error.
            self.webserver.newest_runs(1)
            self.webserver.partition_keys("accounts")
        except OSError:
            return False
        return True

    def _health(self, service: str) -> str:
        return docker("inspect", "--format", "{{.State.Health.Status}}", self.container(service)).strip()

    def logs(self) -> str:
        """Return the end of what all containers have written."""
        return self.compose("logs", "--tail", "40")[-8000:]

    def wait_for_runs(self, backfill: str, enough: Callable[[list[Run]], bool], seconds: float = 900) -> list[Run]:
        """Wait until the runs of a backfill are as wanted; the UI may be away meanwhile."""
        deadline = time.monotonic() + seconds
        runs: list[Run] = []
        while True:
            try:
                runs = self.webserver.runs_of_backfill(backfill)
            except (OSError, AssertionError):
                pass  # the webserver is started again, or its history is away
            else:
                if enough(runs):
                    return runs
            assert time.monotonic() < deadline, (runs, self.logs())
            time.sleep(0.5)

    def remove(self) -> None:
        """Remove the containers, their volumes and their networks, and the image."""
        self.compose("down", "--volumes", "--timeout", "5", seconds=120)
        docker("rmi", "--force", NAME, KEPT)
