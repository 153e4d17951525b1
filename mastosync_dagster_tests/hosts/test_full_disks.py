"""A disk that fills or loses its inodes under the services: few lines, and all goes on by itself."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from benchmarks.hosts.limits import ranges
from benchmarks.hosts.machine import HOME, VAR
from mastosync_dagster_tests.hosts.box import UNITS, Box, make_box

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(1800)]

_TROUBLE_SECONDS = 120.0
_LINES_AN_HOUR = 10
_FILL = "head -c 1G /dev/zero > {folder}/filler 2>/dev/null; true"
_FILES = "i=0; while touch {folder}/filler-$i 2>/dev/null; do i=$((i+1)); done; true"
_ABOUT_DISKS = re.compile(r"disk|No space|read-?only|unable to open|locked", re.IGNORECASE)
_MANIFESTS = VAR / "manifests"


def on_small_disk(box: Box, folder: Path, *options: str) -> None:
    """Put what lies in a folder onto a small file system of its own, while the services are stopped."""
    script = (
        f"systemctl stop {' '.join(UNITS)}; mkdir -p {folder} /kept && cp -a {folder}/. /kept/"
        f" && mount -t tmpfs -o {','.join(('size=80m', *options))} none {folder}"
        f" && cp -a /kept/. {folder}/ && rm -rf /kept && chown mastosync:mastosync {folder} && chmod 700 {folder}"
        f" && systemctl start {' '.join(UNITS)}"
    )
    box.machine.run("sh", "-c", script)
    box.wait_for_ui()


@pytest.fixture
def box(opt: Path) -> Iterator[Box]:
    with make_box(opt, MASTOSYNC_MANIFESTS=str(_MANIFESTS)) as made:
        yield made


@pytest.mark.parametrize(
    ("folder", "trouble", "cure"),
    [
        (HOME, _FILL, "rm -f {folder}/filler*"),
        (HOME / "history", _FILL, "rm -f {folder}/filler*"),
        (HOME / "storage", _FILL, "rm -f {folder}/filler*"),
        (_MANIFESTS, _FILL, "rm -f {folder}/filler*"),
        (HOME, _FILES, "rm -f {folder}/filler*"),
    ],
    ids=["home", "history", "compute logs", "manifests", "inodes"],
)
def test_trouble_with_a_disk_is_said_seldom_and_a_backfill_goes_on_after_it(
    box: Box, folder: Path, trouble: str, cure: str
) -> None:
    on_small_disk(box, folder, *(["nr_inodes=1500"] if trouble == _FILES else []))
    box.webserver.launch_backfill("media_attachments", ranges(box.webserver))
    box.wait_for_copies()
    before = {unit: len(box.machine.journal(unit)) for unit in UNITS}
    box.machine.run("sh", "-c", trouble.format(folder=folder))
    time.sleep(_TROUBLE_SECONDS)
    said = {unit: _troubled(box.machine.journal(unit)[before[unit] :]) for unit in UNITS}
    box.machine.run("sh", "-c", cure.format(folder=folder))
    box.wait_for_ui()
    box.wait_for_ranges()
    assert {unit: lines for unit, lines in said.items() if len(lines) > _LINES_AN_HOUR} == {}


def _troubled(lines: list[str]) -> list[str]:
    """Return the lines of a log that are about a disk; a run that dies of it leaves its own stack, once."""
    return [line for line in lines if _ABOUT_DISKS.search(line)]
