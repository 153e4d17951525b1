"""Containers of Debian's suites, each with its own Python. The images are made here, and come from no registry."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PYTHONS = {"bookworm": (3, 11), "trixie": (3, 13), "forky": (3, 14)}
"""The suites, and the Python of each: the oldest and the newest that mastosync names, and the one of Debian 13."""
_PACKAGES = "python3,python3-venv,ca-certificates"
_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_INSTALLERS_OWN = ("PIP_", "UV_", "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "https_proxy")
"""Variables that say how this machine reaches the package index."""
_IMAGE_SECONDS = 900


def unavailable() -> str | None:
    """Return why there can be no such container on this machine; None: there can."""
    for command in ("docker", "debootstrap"):
        if shutil.which(command) is None:
            return f"no {command} on this machine (Debian: apt-get install docker.io debootstrap)"
    if os.geteuid() != 0:
        return "debootstrap needs root"
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "no Docker engine answers"
    return None if _mirror() else "apt names no mirror of Debian on this machine"


@contextlib.contextmanager
def debian(suite: str, folder: Path) -> Iterator[str]:
    """Make an image of a suite with its Python and nothing else, and remove it; one that is there already stays."""
    image = f"mastosync-python:{suite}"
    made = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode != 0
    if made:
        root = folder / suite
        # All of Debian's suites are made alike, also those that are newer than the debootstrap of this machine.
        words = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", suite, str(root), _mirror(), "sid"]
        outcome = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_IMAGE_SECONDS)
        assert outcome.returncode == 0, outcome.stdout[-2000:] + outcome.stderr
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as packed:
            subprocess.run(["docker", "import", "-", image], stdin=packed.stdout, check=True, capture_output=True)
        assert packed.returncode == 0
        shutil.rmtree(root)
    try:
        yield image
    finally:
        if made:
            subprocess.run(["docker", "image", "rm", image], check=True, capture_output=True)


def _mirror() -> str:
    """Return the mirror of Debian that apt uses on this machine; empty: it uses none."""
    if shutil.which("apt-get") is None:
        return ""
    words = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Identifier: Packages", "Origin: Debian"]
    listed = subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()
    # Not the archives of updates: they have no whole suite.
    return next((line.split()[1] for line in listed if "-" not in line.split()[0]), "")


def run_in(
    image: str, script: str, *, mounts: Mapping[Path, str], environment: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a script of bash in a new container with this machine's network, so that servers on loopback are reached.

    ``mounts``: where each path of this machine is in the container, as ``/there`` or ``/there:ro``.
    """
    variables = {name: value for name, value in os.environ.items() if name.startswith(_INSTALLERS_OWN)}
    variables |= {"SSL_CERT_FILE": str(_BUNDLE), "PIP_ROOT_USER_ACTION": "ignore", **environment}
    own = [path for path in (Path("/etc/pip.conf"), Path("~/.config/pip/pip.conf").expanduser()) if path.exists()]
    bound = {**mounts, _BUNDLE: f"{_BUNDLE}:ro", **dict.fromkeys(own[-1:], "/etc/pip.conf:ro")}
    name = f"mastosync-python-{uuid4().hex[:8]}"
    words = ["docker", "run", "--rm", "--name", name, "--network", "host"]
    words += [word for path, there in bound.items() for word in ("--volume", f"{path}:{there}")]
    words += [word for variable in variables for word in ("--env", variable)]
    try:
        return subprocess.run(
            [*words, image, "bash", "-euo", "pipefail", "-c", script],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)
