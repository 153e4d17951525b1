"""An installation as ``pip install .`` makes it, copied from this interpreter's packages: no index is asked."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mastosync_dagster

_NAME = "mastosync-dagster"
_LEFT_OUT = ("test", "tests", "idlelib", "ensurepip", "config-*", "site-packages", "*.a")
"""Of Python itself: what no installation reads."""
_COMMAND = """#!{python}
from mastosync_dagster.cli.main import main

main()
"""


def requirements() -> set[str]:
    """Return the packages that mastosync needs without extras, with all that these need."""
    found: set[str] = set()
    waiting = [(_NAME, frozenset[str]())]
    while waiting:
        name, extras = waiting.pop()
        for text in importlib.metadata.requires(name) or []:
            wanted = Requirement(text)
            applies = wanted.marker is None or any(wanted.marker.evaluate({"extra": each}) for each in (*extras, ""))
            if applies and canonicalize_name(wanted.name) not in found:
                found.add(canonicalize_name(wanted.name))
                waiting.append((wanted.name, frozenset(wanted.extras)))
    return found


def programs() -> Path:
    """Return the folder of this interpreter's own commands."""
    return Path(sys.executable).parent


def python_copy() -> Path | None:
    """Return where a copy of this interpreter must be seen, since its libraries are found there; None: in /usr."""
    base = Path(sys.base_prefix)
    # A distribution's own Python lies among the programs of the whole machine, which a container sees anyway.
    return None if base == Path("/usr") else base


def install(folder: Path, seen_as: Path) -> None:
    """Copy Python, the packages that mastosync needs, and mastosync.

    A copy, so that a container which reads it is charged for each page, whoever else on this machine has read it.

    Args:
        folder: New; gets ``bin/python``, ``bin/mastosync``, and ``python`` to be seen at `python_copy`.
        seen_as: Where the container has this folder.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages, programs = folder / "lib" / version / "site-packages", folder / "bin"
    packages.mkdir(parents=True)
    programs.mkdir()
    base, python = Path(sys.base_prefix), f"bin/{version}"
    if python_copy() is not None:
        own = folder / "python"
        (own / "bin").mkdir(parents=True)
        shutil.copy2(base / python, own / python)
        shutil.copytree(base / "lib", own / "lib", symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    (folder / "pyvenv.cfg").write_text(f"home = {base / 'bin'}\ninclude-system-site-packages = false\n")
    (programs / "python").symlink_to(base / python)
    command = programs / "mastosync"
    command.write_text(_COMMAND.format(python=seen_as / "bin" / "python"))
    command.chmod(0o755)
    for name in requirements():
        _copy(name, packages)
    # The links to the project's own files become files, as in a wheel.
    shutil.copytree(Path(mastosync_dagster.__file__).parent, packages / "mastosync_dagster")


def _copy(name: str, packages: Path) -> None:
    distribution = importlib.metadata.distribution(name)
    tops = {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}
    for top in tops - {"__pycache__"}:
        source = Path(str(distribution.locate_file(top)))
        if source.is_dir():
            shutil.copytree(source, packages / top, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy2(source, packages / top)
