"""The commands of docs/moving.md, as an admin would type them, on a machine that the test stands for."""

from __future__ import annotations

import re
import shlex
import subprocess
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from click.testing import CliRunner

from mastosync_dagster.cli.main import main

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.nginx import Nginx

PAGE = (Path(__file__).parents[2] / "docs" / "moving.md").read_text()
_BLOCK = re.compile(r"^( *)```sh ([\w-]+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
BLOCKS = {name: textwrap.dedent(body).splitlines() for _, name, body in _BLOCK.findall(PAGE)}
"""The commands by the name behind ``sh``."""
_SECONDS = 30.0


class Machine(Protocol):
    """Mastodon's machine."""

    def stop(self, service: str) -> None:
        """Stop a systemd unit."""

    def start(self, service: str) -> None:
        """Start a systemd unit."""

    def query(self, statement: str) -> str:
        """Ask Mastodon's database, and return what psql prints."""

    def configure(self, lines: str) -> None:
        """Take over lines of ``.env.production``."""


class Admin:
    """Types the commands of a block, one by one."""

    def __init__(self, machine: Machine, nginx: Nginx, home: Path) -> None:
        self._machine = machine
        self._nginx = nginx
        self._home = home

    def follow(self, block: str) -> None:
        """Type all commands of a block. Each must succeed."""
        for line in BLOCKS[block]:
            for command in line.split(" && "):
                self._type(command)

    def _type(self, command: str) -> None:
        words = shlex.split(command.removeprefix("sudo "))
        units = [word for word in words[2:] if word.startswith("mastodon-")]
        if words[0] == "mastosync":
            self._mastosync(words[1:])
        elif words[:2] in (["systemctl", "stop"], ["systemctl", "start"]):
            for unit in units:
                (self._machine.stop if words[1] == "stop" else self._machine.start)(unit)
        elif words[0] == "psql":
            deadline = time.monotonic() + _SECONDS
            while self._machine.query(words[2]) != "0":
                assert time.monotonic() < deadline, command
                time.sleep(0.1)
        elif words[0] in {"sed", "install"}:
            # /etc/nginx and its conf.d are one folder here; the file of conf.d is media.conf.
            folder = str(self._nginx.folder)
            moved = [
                word.replace("/etc/nginx/conf.d/mastosync-media.conf", f"{folder}/media.conf").replace(
                    "/etc/nginx", folder
                )
                for word in words
            ]
            subprocess.run(moved, check=True, cwd=self._home)
        elif words == ["systemctl", "reload", "nginx"]:
            self._nginx.reload()
        else:
            # A schedule that nothing has started, and nginx's own test, which its tests run.
            assert words[:3] == ["dagster", "schedule", "stop"] or words == ["nginx", "-t"], command

    def _mastosync(self, words: list[str]) -> None:
        arguments, file = (words[: words.index(">")], words[words.index(">") + 1]) if ">" in words else (words, None)
        outcome = CliRunner().invoke(main, arguments)
        assert outcome.exit_code == 0, f"mastosync {' '.join(arguments)}\n{outcome.output}{outcome.exception!r}"
        if file is not None:
            (self._home / file).write_text(outcome.output)
        elif arguments[-1] == "--env":
            self._machine.configure(outcome.output)
