"""Measures what mastosync takes of a small host: ``python -m benchmarks.hosts``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.site import site
from mastosync_dagster.installation.services import Service, serve
from mastosync_dagster.units import MIB

_HOUR = 3600.0
_SETTLE_SECONDS = 30.0
"""The services load code, and answer their first questions, before they are idle."""
_PORT = 3131


def peak_of(*arguments: str, **environment: str) -> str:
    """Run a command, and return its status, the most memory that it had at a time, and its processor time."""
    command = [str(Path(sys.executable).with_name("mastosync")), *arguments]
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    return f"status {process.returncode}, {usage.ru_maxrss * 1024 / MIB:,.0f} MiB at most, {seconds:.1f} CPU s"


def _tree(service: Service) -> list[psutil.Process]:
    first = psutil.Process(service.process.pid)
    return [first, *first.children(recursive=True)]


def _cpu(service: Service) -> float:
    times = [process.cpu_times() for process in _tree(service)]
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)


def idle(home: Path, seconds: float) -> list[str]:
    """Return what each service takes while nothing is to be done."""
    with serve(home, os.environ, port=_PORT, logs=home / "logs") as found:
        time.sleep(_SETTLE_SECONDS)
        before = {service.name: _cpu(service) for service in found.all}
        time.sleep(seconds)
        lines = []
        for service in found.all:
            memory = sum(process.memory_full_info().pss for process in _tree(service)) / MIB
            spent = (_cpu(service) - before[service.name]) * _HOUR / seconds
            lines.append(f"{service.name}: {memory:,.0f} MiB (PSS), {spent:,.0f} CPU s an hour")
        return lines


def measure(objects: int, seconds: float) -> None:
    """Print what commands and services take."""
    with site(objects) as made:
        for memory in ("64", "256", "1000"):
            home = made.folder / memory
            os.environ |= {"DAGSTER_HOME": str(home), "MASTOSYNC_MEMORY_MB": memory}
            peak_of("init", str(home), "--no-input")
            print(f"MASTOSYNC_MEMORY_MB={memory}")
            # What is at the destination is copied again: a new prefix.
            prefix = {"DESTINATION_S3_KEY_PREFIX": f"under-{memory}"}
            print(f"  sync of {objects:,} objects:", peak_of("sync", "media_attachments", **prefix))
            print("  night, nothing new:", peak_of("night", **prefix))
            print("  status:", peak_of("status", "media_attachments", **prefix))
        print("idle:")
        for line in idle(home, seconds):
            print(f"  {line}")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=__doc__)
    parser.add_argument("--objects", type=int, default=10_000, help="objects of a run (default 10,000)")
    parser.add_argument("--seconds", type=float, default=300, help="seconds of idleness (default 300)")
    arguments = parser.parse_args()
    measure(arguments.objects, arguments.seconds)


if __name__ == "__main__":
    main()
