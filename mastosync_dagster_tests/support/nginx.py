"""A real nginx on loopback, for configurations that are files of ``/etc/nginx/conf.d/``."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.demo.servers.start import LOOPBACK, free_port
from mastosync_dagster.installation.processes import running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine (Debian: apt-get install nginx-light)")
_SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    """What a client gets. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Nginx:
    """A running nginx whose one server listens on a port of loopback."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Send a request; the path goes out as it is."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=20)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True)
            for name, value in {"Host": "files.example.com", **headers}.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def reload(self, configuration: str | None = None) -> None:
        """Load a changed configuration, or files that it includes, and wait until the old workers are gone."""
        if configuration is not None:
            write(self.folder, configuration, self.port)
        before = _children(self.process.pid)
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + _SECONDS
        while before & _children(self.process.pid) or not _children(self.process.pid):
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)


def _children(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def write(folder: Path, configuration: str, port: int) -> Path:
    """Write a configuration that listens on 80 as one that listens on a port of loopback; return its main file."""
    for old, new in (
        ("listen 80;", f"listen {LOOPBACK}:{port};"),
        ("listen [::]:80;", ""),
        ("/etc/nginx/", f"{folder}/"),
    ):
        assert old in configuration
        configuration = configuration.replace(old, new)
    (folder / "media.conf").write_text(configuration)
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    main = folder / "nginx.conf"
    main.write_text(
        f"{user} daemon off; worker_processes 1; pid {folder}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off; {places}\ninclude {folder}/media.conf;\n}}\n"
    )
    return main


def check_configuration(folder: Path, configuration: str) -> tuple[int, str]:
    """Run ``nginx -t``; return its status and what it prints."""
    main = write(folder, configuration, free_port())
    outcome = subprocess.run(
        [str(NGINX), "-e", "stderr", "-t", "-p", str(folder), "-c", str(main)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return outcome.returncode, outcome.stderr


@contextlib.contextmanager
def nginx(folder: Path, configuration: str) -> Iterator[Nginx]:
    """Run nginx until the block ends."""
    port = free_port()
    main = write(folder, configuration, port)
    log = folder / "log"
    command = [str(NGINX), "-e", "stderr", "-p", str(folder), "-c", str(main)]
    with running(command, log=log, cwd=folder) as process:
        deadline = time.monotonic() + _SECONDS
        while True:
            connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
            with contextlib.closing(connection), contextlib.suppress(OSError):
                connection.connect()
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield Nginx(port, folder, process)
