"""The processes that serve an installation: code server, webserver and daemon, as long as a block lasts."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.errors import AdminError
from mastosync_dagster.installation.processes import running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping, Sequence

LOOPBACK = "127.0.0.1"
PROGRAM = "mastosync_dagster.installation.dagster_program"
PARENT = "--parent="
"""Begins an argument of `PROGRAM`: the process with which a service ends."""
LONGEST_END = 20.0
"""Seconds that a service whose parent was killed may take to end."""
UI_PORT = 3030
"""Mastodon has 3000, and 4000 for streaming."""
_START_SECONDS = 180.0
_POLL_SECONDS = 0.2
_LOG_LINES = 15
_LONGEST_SOCKET = 90
"""The kernel takes 107 bytes for the path of a socket."""


class ServiceError(AdminError):
    """A service does not start, or has ended. The message says which, and shows the end of its log."""


@dataclass(frozen=True)
class Service:
    """A process and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise `ServiceError` if it has ended."""
        if self.process.poll() is not None:
            raise ServiceError(f"the {self.name} has ended. The end of {self.log}:\n{_tail(self.log)}")


@dataclass(frozen=True)
class Services:
    """What serves the UI.

    Attributes:
        socket: Where the code server listens.
    """

    url: str
    socket: str
    all: tuple[Service, ...]

    def wait(self) -> None:
        """Wait until one of them ends, which is a `ServiceError`."""
        while True:
            for service in self.all:
                service.check()
            time.sleep(_POLL_SECONDS)


def ensure_free(port: int) -> None:
    """Raise `ServiceError` if a port of loopback is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise ServiceError(
                f"Port {port} of {LOOPBACK} cannot be used ({error.strerror}): choose another one with --port."
            ) from error


@contextlib.contextmanager
def serve(
    home: Path,
    environment: Mapping[str, str],
    *,
    port: int,
    logs: Path,
    before_code_ends: Callable[[str], None] = lambda _: None,
    held: Sequence[int] = (),
) -> Iterator[Services]:
    """Run code server, webserver and daemon until the block ends. `ServiceError` if one of them does not start.

    Args:
        home: The Dagster home, where they start.
        environment: Of all three; DAGSTER_HOME is in it.
        port: Of the webserver, on loopback.
        logs: Folder for a log of each, which begins anew.
        before_code_ends: Called with the code server's socket when nothing launches runs any more.
        held: Descriptors that webserver and daemon keep open, such as that of a lock. Not the code server: its runs may
            outlive all of them.
    """
    ensure_free(port)
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mastosync-", dir=_short_folder())))
        listening, workspace = folder / "code.sock", folder / "workspace.yaml"
        workspace.write_text(
            f"load_from:\n  - grpc_server:\n      socket: {listening}\n      location_name: mastosync_dagster\n"
        )

        def start(name: str, *arguments: str) -> Service:
            log = logs / f"{name.replace(' ', '-')}.log"
            log.unlink(missing_ok=True)
            command = [sys.executable, "-m", PROGRAM, f"{PARENT}{os.getpid()}", *arguments]
            process = stack.enter_context(
                running(
                    command,
                    log=log,
                    stop_by=signal.SIGINT,
                    cwd=home,
                    env=environment,
                    grace=_GRACE[name],
                    pass_fds=() if name == "code server" else held,
                )
            )
            return Service(name, process, log)

        module = ("-m", "mastosync_dagster", "--location-name", "mastosync_dagster")
        code = start("code server", "code", "--socket", str(listening), *module)
        stack.callback(before_code_ends, str(listening))
        # A webserver that finds no code server at its start shows an error until somebody reloads.
        _wait(code, listening.is_socket)
        web = start("webserver", "webserver", "-h", LOOPBACK, "-p", str(port), "-w", str(workspace))
        daemon = start("daemon", "daemon", "run", "-w", str(workspace))
        url = f"http://{LOOPBACK}:{port}"
        _wait(web, lambda: _answers(url))
        yield Services(url, str(listening), (code, web, daemon))


_GRACE = {"code server": 3.0, "webserver": 10.0, "daemon": 20.0}
"""Seconds until each is killed. When the code server is stopped its runs have ended, or are to be ended with it."""


def _short_folder() -> str | None:
    """Return a folder for a socket; None: the usual one for temporary files."""
    return None if len(tempfile.gettempdir()) < _LONGEST_SOCKET - 40 else "/tmp"  # noqa: S108  (below it a new folder)


def _wait(service: Service, is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_ready():
        service.check()
        if time.monotonic() > deadline:
            raise ServiceError(f"the {service.name} does not start. The end of {service.log}:\n{_tail(service.log)}")
        time.sleep(_POLL_SECONDS)


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError), opener.open(f"{url}/server_info", timeout=5):
        return True
    return False


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    return "\n".join(lines[-_LOG_LINES:])
