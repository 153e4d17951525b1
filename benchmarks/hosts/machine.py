"""A small machine: a container with a limit of memory and processors, in which systemd runs.

Its programs are this machine's (``/usr``, read-only) and a copy of this interpreter's packages: no image is fetched.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import subprocess
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.hosts.cgroup import Cgroup
from benchmarks.hosts.installed import install, python_copy
from mastosync_dagster.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SYSTEMD = "/usr/lib/systemd/systemd"
OPT, VAR = Path("/opt/mastosync"), Path("/var/lib/mastosync")
HOME = VAR / "home"
USER = "mastosync"
_IMAGE = "mastosync-machine"
_START_SECONDS = 60.0
_EMPTY = (
    "usr",
    "etc/systemd/system",
    "etc/ssl",
    "opt",
    "proc",
    "sys",
    "dev",
    "run",
    "root",
    "home",
    "srv",
    "mnt",
    "var/log/journal",
    "var/lib",
)
_LINKS = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")} | {"var/run": "../run"}
_MASKED = (
    *("systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket"),
    *("systemd-udev-trigger.service", "systemd-sysctl.service", "systemd-modules-load.service"),
    *("systemd-random-seed.service", "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount"),
    *("kmod-static-nodes.service", "getty.target", "systemd-logind.service", "systemd-hwdb-update.service"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "systemd-sysusers.service"),
)
"""What would set up the machine that the container is on."""
_FILES = {
    "etc/passwd": f"root:x:0:0::/root:/bin/sh\n{USER}:x:990:990::{VAR}:/usr/sbin/nologin\n"
    "other:x:989:989::/:/usr/sbin/nologin\nmessagebus:x:991:991::/:/usr/sbin/nologin\n"
    "nobody:x:65534:65534::/:/usr/sbin/nologin\n",
    "etc/group": f"root:x:0:\n{USER}:x:990:\nother:x:989:\nmessagebus:x:991:\nadm:x:4:\ntty:x:5:\nutmp:x:43:\n"
    "systemd-journal:x:992:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/os-release": "ID=machine\nNAME=machine\n",
    "etc/machine-id": "",
    "start": 'for each in /sys/fs/cgroup/*; do mount -o remount,bind,rw "$each" || :; done\n'
    f"exec {_SYSTEMD} --system --log-target=journal\n",
}


class NoMachineError(RuntimeError):
    """A container with systemd cannot be made here. The message says why."""


@dataclass(frozen=True)
class Machine:
    """A running machine.

    Attributes:
        folder: What lies in `VAR` of the machine.
    """

    name: str
    folder: Path
    cgroup: Cgroup

    def run(
        self, *command: str, user: str = "root", stdin: str | None = None, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine, as a user."""
        variables = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
        words = ["docker", "exec", "-i", "-u", user, "-w", "/", *variables, self.name, *command]
        ended = subprocess.run(words, input=stdin or "", capture_output=True, text=True, check=False)
        if check and ended.returncode:
            raise RuntimeError(f"{' '.join(command)}: status {ended.returncode}\n{ended.stdout}\n{ended.stderr}")
        return ended

    def mastosync(
        self, *arguments: str, check: bool = True, user: str = USER, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of mastosync as the home's owner, as docs/deploy.md has it."""
        words = (str(OPT / "bin" / "mastosync"), *arguments)
        return self.run(*words, user=user, check=check, DAGSTER_HOME=str(HOME), **environment)

    def install(self, settings: Mapping[str, str], *options: str) -> None:
        """Make home and units, as docs/deploy.md has it."""
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        command = (str(OPT / "bin" / "mastosync"), "init", str(HOME), "--from", "-", *options)
        self.run(*command, user=USER, stdin=text)
        self.run("sh", "-c", f"cp {HOME}/systemd/* /etc/systemd/system/ && systemctl daemon-reload")

    def journal(self, unit: str) -> list[str]:
        """Return what a unit has said."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit).stdout.splitlines()

    def logged(self, unit: str, since: float) -> list[str]:
        """Return what a unit has said since a time (UNIX seconds)."""
        words = ("journalctl", "--no-pager", "-o", "cat", "--since", f"@{since:.0f}", "_SYSTEMD_UNIT=" + unit)
        return self.run(*words).stdout.splitlines()


def reason_for_none() -> str | None:
    """Return why there can be no machine here; None: there can."""
    if os.geteuid() != 0:
        return "only root may make a machine"
    if not Path(_SYSTEMD).exists():
        return f"no systemd here ({_SYSTEMD})"
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        return "no container engine here (docker info)"
    return None


def _status(*command: str) -> int:
    return subprocess.run(command, capture_output=True, check=False).returncode


@contextlib.contextmanager
def installation() -> Iterator[Path]:
    """Copy what machines have in /opt, until the block ends."""
    reason = reason_for_none()
    if reason is not None:
        raise NoMachineError(reason)
    # Not below /tmp, which may be memory.
    with tempfile.TemporaryDirectory(prefix="mastosync-opt-", dir="/var/tmp") as folder:
        made = Path(folder)
        made.chmod(0o755)
        install(made / "opt", OPT)
        yield made / "opt"


@contextlib.contextmanager
def machine(opt: Path, memory_mb: int, processors: float = 1) -> Iterator[Machine]:
    """Run a machine until the block ends.

    Args:
        opt: What `installation` has made.
        memory_mb: Its memory; it has no swap.
        processors: How much processor time it gets in a second.
    """
    name, limit = f"mastosync-{secrets.token_hex(4)}", f"{memory_mb * MIB}"
    subprocess.run(["docker", "import", "-", _IMAGE], input=_image(), check=True, capture_output=True)
    with tempfile.TemporaryDirectory(prefix="mastosync-var-", dir="/var/tmp") as folder:
        os.chown(folder, 990, 990)
        words = [
            *("docker", "run", "-d", "--name", name, "--network", "host", "--cgroupns", "private"),
            *("--memory", limit, "--memory-swap", limit, "--cpus", str(processors), "--cap-add", "SYS_ADMIN"),
            *(
                word
                for each in ("seccomp", "apparmor", "systempaths")
                for word in ("--security-opt", f"{each}=unconfined")
            ),
            *(f"--tmpfs={each}" for each in ("/run", "/run/lock", "/tmp")),  # noqa: S108  (of the machine)
            *("-e", "container=docker", "-v", "/usr:/usr:ro", "-v", "/etc/ld.so.cache:/etc/ld.so.cache:ro"),
            *("-v", f"{opt}:{OPT}:ro", "-v", f"{folder}:{VAR}"),
            *(["-v", f"{opt / 'python'}:{python_copy()}:ro"] if python_copy() else []),
            *(_IMAGE, "sh", "/start"),
        ]
        try:
            subprocess.run(words, check=True, capture_output=True)
            pid = int(subprocess.check_output(["docker", "inspect", "-f", "{{.State.Pid}}", name]))
            made = Machine(name, Path(folder), Cgroup.of_process(pid))
            _wait_until_up(made)
            yield made
        finally:
            subprocess.run(["docker", "rm", "-f", "-v", name], check=False, capture_output=True)
            subprocess.run(["docker", "rmi", _IMAGE], check=False, capture_output=True)  # another one may need it


def _wait_until_up(made: Machine) -> None:
    deadline, state = time.monotonic() + _START_SECONDS, ""
    while state != "running":
        state = made.run("systemctl", "is-system-running", check=False).stdout.strip()
        if time.monotonic() > deadline:
            log = subprocess.run(["docker", "logs", made.name], capture_output=True, text=True, check=False)
            raise NoMachineError(f"systemd does not start in a container here ({state}): {log.stdout}{log.stderr}")
        time.sleep(0.2)


def _image() -> bytes:
    """Return an image with folders and a few files alone: all else is mounted."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:

        def add(name: str, kind: bytes, data: bytes = b"", *, mode: int = 0o755, link: str = "") -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.linkname, entry.size = kind, mode, link, len(data)
            tar.addfile(entry, io.BytesIO(data))

        for name in _EMPTY:
            add(name, tarfile.DIRTYPE)
        for name in ("tmp", "var/tmp"):
            add(name, tarfile.DIRTYPE, mode=0o1777)
        links = _LINKS | {f"etc/systemd/system/{name}": "/dev/null" for name in _MASKED}
        for name, link in {
            **links,
            "etc/systemd/system/default.target": "/usr/lib/systemd/system/multi-user.target",
        }.items():
            add(name, tarfile.SYMTYPE, link=link)
        for name, text in _FILES.items():
            add(name, tarfile.REGTYPE, text.encode(), mode=0o644)
    return stream.getvalue()
