"""What the benchmark needs in C, built when it starts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_SOURCES = Path(__file__).parent / "native"
_LIBRARIES = {"slow_sync"}
"""They are preloaded into a program."""


class NoCompilerError(RuntimeError):
    """There is no C compiler on this machine."""


def build(name: str, folder: Path) -> Path:
    """Compile ``native/<name>.c`` for this machine's processor unless that is done, and return the program.

    Args:
        name: ``delayline`` or ``memory_s3``, or the library ``slow_sync``.
        folder: Where programs lie.

    Raises:
        NoCompilerError: Neither ``cc`` nor ``gcc`` nor ``clang`` is on PATH.
    """
    source, program = _SOURCES / f"{name}.c", folder / name
    changed = max(file.stat().st_mtime for file in (source, Path(__file__)))
    if program.exists() and program.stat().st_mtime > changed:
        return program
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise NoCompilerError("the benchmark needs a C compiler: install the package gcc")
    folder.mkdir(parents=True, exist_ok=True)
    kind = ["-shared", "-fPIC"] if name in _LIBRARIES else []
    subprocess.run([compiler, "-O2", "-march=native", *kind, "-o", str(program), str(source)], check=True)
    return program
