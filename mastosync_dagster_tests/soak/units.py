"""The units that `mastosync init` writes, started without systemd: the same commands, variables and signals."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mastosync_dagster.demo.servers.start import free_port
from mastosync_dagster.installation.init import UNITS_FOLDER
from mastosync_dagster.installation.processes import running
from mastosync_dagster.installation.systemd import CODE, DAEMON, SERVICES_FILE, WEBSERVER
from mastosync_dagster_tests.support.graphql import Webserver
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SOCKET_OF_UNITS = "/run/mastosync"
CODE_SERVER = "code"
_START_SECONDS = 180.0


@dataclass(frozen=True)
class Unit:
    """What a unit's file says.

    Attributes:
        before: The command that must have ended before; empty: none.
        stop_by: The signal that ends it.
    """

    command: list[str]
    before: list[str]
    environment: dict[str, str]
    stop_by: signal.Signals

    @classmethod
    def read(cls, file: Path) -> Unit:
        """Read a file that `mastosync init` has written."""
        lines = [line.partition("=") for line in file.read_text().splitlines() if "=" in line and line[0] != "#"]
        said = {name: value for name, _, value in lines if name != "Environment"}
        words = [word for name, _, value in lines if name == "Environment" for word in shlex.split(value)]
        return cls(
            command=shlex.split(said["ExecStart"]),
            before=shlex.split(said.get("ExecStartPre", "")),
            environment=dict(word.split("=", 1) for word in words),
            stop_by=signal.Signals[said.get("KillSignal", "SIGTERM")],
        )


@dataclass(frozen=True)
class Production:
    """The processes of an installation.

    Attributes:
        long_lived: Code server, daemon and webserver, by name.
        environment: Of a shell in which an admin gives commands.
    """

    home: Path
    long_lived: Mapping[str, psutil.Process]
    webserver: Webserver
    environment: Mapping[str, str]

    def command(self, *arguments: str) -> None:
        """Give a command (``mastosync``, ``dagster``), which must succeed."""
        _command(*arguments, home=self.home, environment=self.environment)

    def check(self) -> None:
        """Fail if one of the processes has ended."""
        for name, process in self.long_lived.items():
            log = self.home.parent / f"{name}.log"
            assert process.is_running(), f"the {name} has ended:\n{log.read_text(errors='replace')[-3000:]}"


def _command(*arguments: str, home: Path, environment: Mapping[str, str]) -> None:
    program = str(Path(sys.executable).with_name(arguments[0]))
    ended = subprocess.run(
        [program, *arguments[1:]], env=environment, cwd=home, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{arguments}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}"


@contextlib.contextmanager
def production(folder: Path, settings: Mapping[str, str]) -> Iterator[Production]:
    """Have `mastosync init` set up a home below a folder, and run its units until the block ends."""
    home, port, given = folder / "home", free_port(), folder / "given.env"
    given.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()))
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    _command(
        "mastosync", "init", str(home), "--from", str(given), "--port", str(port), "--no-input",
        home=folder, environment=own,
    )  # fmt: skip
    # systemd makes the folder of the socket anew, for the unit's user alone.
    for file in (home / SERVICES_FILE, *(home / UNITS_FOLDER).iterdir()):
        file.write_text(file.read_text().replace(_SOCKET_OF_UNITS, str(folder)))
    units = {name: Unit.read(home / UNITS_FOLDER / name) for name in (CODE, DAEMON, WEBSERVER)}
    webserver = Webserver(f"http://127.0.0.1:{port}")
    with contextlib.ExitStack() as stack:

        def start(name: str) -> psutil.Process:
            unit = units[name]
            environment = {**own, **unit.environment}
            if unit.before:
                subprocess.run(unit.before, env=environment, cwd=home, check=True, capture_output=True)
            log = folder / f"{_short(name)}.log"
            process = stack.enter_context(
                running(unit.command, log=log, stop_by=unit.stop_by, cwd=home, env=environment)
            )
            return psutil.Process(process.pid)

        processes = {_short(CODE): start(CODE)}
        wait_until((folder / "code.sock").is_socket, _START_SECONDS)
        processes |= {_short(name): start(name) for name in (DAEMON, WEBSERVER)}
        wait_until(webserver.answers, _START_SECONDS)
        yield Production(home, processes, webserver, {**own, **units[CODE].environment})


def _short(unit: str) -> str:
    return unit.removeprefix("mastosync-").removesuffix(".service")
