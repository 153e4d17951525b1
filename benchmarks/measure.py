"""What a contender's processes cost: wall time, CPU time, memory."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_LOOK_EVERY = 0.05
_FAMILY_EVERY = 10  # looks


@dataclass(frozen=True)
class Usage:
    """What a command cost, with all processes it started and waited for.

    Attributes:
        seconds: Wall time.
        cpu_seconds: User and system time.
        peak_rss_mb: Largest resident memory, in 10^6 bytes: of a single process the kernel's own high-water mark, of
            several the sum of what each holds, pages that they share divided among them (looked at every half second).
    """

    seconds: float
    cpu_seconds: float
    peak_rss_mb: float


class ContenderError(RuntimeError):
    """A command ended with an error; the message holds the end of its output."""


def run(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Usage:
    """Run a command to its end and measure it.

    Args:
        command: Program and arguments.
        environment: Added to what every program needs (PATH, HOME).
        log: File for its output.

    Raises:
        ContenderError: It failed.
    """
    base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    with log.open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            command, env={**base, **environment}, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        watcher = _MemoryWatcher(process.pid)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            watcher.stop()
        seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise ContenderError(
            f"{' '.join(command)} ended with status {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}"
        )
    return Usage(seconds, usage.ru_utime + usage.ru_stime, watcher.peak_bytes / 1e6)


class _MemoryWatcher:
    """Looks at the memory of a process and its descendants until it is stopped.

    ``ru_maxrss`` will not do: it begins with what the process that forked had.
    """

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        looks = 0
        while True:
            self.peak_bytes = max(self.peak_bytes, _memory(self._pid, "status", "VmHWM"))
            if looks % _FAMILY_EVERY == 0:
                family = list(_family(self._pid))
                if len(family) > 1:
                    together = sum(_memory(pid, "smaps_rollup", "Pss") for pid in family)
                    self.peak_bytes = max(self.peak_bytes, together)
            looks += 1
            if self._stopped.wait(_LOOK_EVERY):
                return


def _memory(pid: int, file: str, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    line = next((line for line in lines if line.startswith(f"{field}:")), "0 0 kB")
    return int(line.split()[1]) * 1024


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it has ended, or a thread of it
        return
    for child in children:
        yield from _family(child)
