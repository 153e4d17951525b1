"""A run looks for room on the disk before it begins."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.support.mounts import run_with_mounts

if TYPE_CHECKING:
    from pathlib import Path

SMALL = 'mount -t tmpfs -o "size=$SIZE,nr_inodes=$FILES" none "$HOME_OF_DAGSTER" && exec "$@"'

WAIT = """
import os, sys
import dagster as dg
from mastosync_dagster.runs.disk_room import DiskFullError, ensure_room
from mastosync_dagster.runs.work_folder import create_work_folder
from mastosync_dagster_tests.support.run_processes import some_job
home = os.environ["HOME_OF_DAGSTER"]
open(home + "/dagster.yaml", "w").write("telemetry: {enabled: false}")
with dg.DagsterInstance.from_config(home) as instance:
    run = instance.create_run_for_job(some_job)
    filler = []
    for number in range(int(sys.argv[2])):
        open(f"{home}/{number}", "w").close()
        filler.append(f"{home}/{number}")
    with open(home + "/filler", "wb") as file:
        file.write(bytes(int(sys.argv[1])))
    try:
        ensure_room(instance)
    except DiskFullError as error:
        print(error)
    def make_room(text):
        print(text)
        for path in [home + "/filler", *filler]:
            os.unlink(path)
    assert create_work_folder(instance, run.run_id, make_room).is_dir()
"""


@pytest.mark.long(cases=1)
@pytest.mark.parametrize(
    ("size", "files", "fill", "says"),
    [("60m", "2000", (40 * 2**20, 0), "MB left: make room"), ("200m", "800", (0, 700), "inodes left: make room")],
)
def test_a_run_waits_on_a_full_disk_and_goes_on_by_itself(
    tmp_path: Path, size: str, files: str, fill: tuple[int, int], says: str
) -> None:
    environment = {"HOME_OF_DAGSTER": str(tmp_path), "SIZE": size, "FILES": files}
    ended = run_with_mounts(SMALL, sys.executable, "-c", WAIT, *map(str, fill), environment=environment)
    assert ended.returncode == 0, ended.stderr
    refused, waiting = ended.stdout.splitlines()
    assert says in refused
    assert waiting.startswith("Waiting. The disk of DAGSTER_HOME/history, ")
    assert says in waiting


PLACES = """
import os, sys
import dagster as dg
from mastosync_dagster.runs.disk_room import DiskFullError, ensure_room
with dg.DagsterInstance.local_temp(sys.argv[1], {"telemetry": {"enabled": False}}) as instance:
    try:
        ensure_room(instance)
    except DiskFullError as error:
        print(error)
"""


@pytest.mark.long(cases=1)
@pytest.mark.parametrize(
    ("place", "options", "says"),
    [
        ("home/history", "size=1m", "The disk of DAGSTER_HOME/history, "),
        ("home/storage", "size=1m", "The disk of DAGSTER_HOME/storage, "),
        ("manifests", "size=1m", "The disk of MASTOSYNC_MANIFESTS, "),
        ("tmp", "nr_inodes=100", "The disk of temporary files (TMPDIR), "),
        ("manifests", "ro", "is read-only: mount it writable"),
    ],
)
def test_every_disk_that_a_run_writes_to_is_looked_at(tmp_path: Path, place: str, options: str, says: str) -> None:
    for name in ("home/history", "home/storage", "manifests", "tmp"):
        (tmp_path / name).mkdir(parents=True)
    ended = run_with_mounts(
        f'mount -t tmpfs -o {options} none "$PLACE" && exec "$@"',
        *(sys.executable, "-c", PLACES, str(tmp_path / "home")),
        environment={
            "PLACE": str(tmp_path / place),
            "MASTOSYNC_MANIFESTS": str(tmp_path / "manifests"),
            "TMPDIR": str(tmp_path / "tmp"),
        },
    )
    assert says in ended.stdout, ended.stderr


@pytest.mark.long(cases=0)
def test_of_a_home_that_is_read_only_the_folders_that_are_written_to_count(tmp_path: Path) -> None:
    """As deploy/compose.yaml has it: the history is elsewhere, and the rest are volumes."""
    (tmp_path / "home" / "storage").mkdir(parents=True)
    ended = run_with_mounts(
        'mount -t tmpfs none "$PLACE" && mkdir "$PLACE/storage" && mount -t tmpfs none "$PLACE/storage"'
        ' && mount -o remount,ro "$PLACE" && exec "$@"',
        *(sys.executable, "-c", VOLUMES, str(tmp_path / "home"), str(tmp_path / "elsewhere")),
        environment={"PLACE": str(tmp_path / "home")},
    )
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr


VOLUMES = """
import sys
import dagster as dg
from mastosync_dagster.runs.disk_room import DiskFullError, ensure_room
kept_elsewhere = {"storage": {"sqlite": {"base_dir": sys.argv[2]}}, "telemetry": {"enabled": False}}
with dg.DagsterInstance.local_temp(sys.argv[1], kept_elsewhere) as instance:
    try:
        ensure_room(instance)
    except DiskFullError as error:
        print(error)
"""
