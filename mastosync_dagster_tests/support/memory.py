"""What a process holds in memory at most, measured from outside."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A process of its own starts the command: a child's high-water mark begins with that of whoever starts it.
_MEASURE = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def peak_megabytes(command: Sequence[str], env: Mapping[str, str] | None = None) -> float:
    """Run a command that must succeed. Returns its largest resident set, in 10^6 bytes."""
    measured = subprocess.run(
        [sys.executable, "-S", "-c", _MEASURE, *command], env=env, capture_output=True, text=True, check=False
    )
    assert measured.returncode == 0, measured.stderr[-3000:]
    return int(measured.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024) / 1e6
