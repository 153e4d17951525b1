"""A history in files is synced in groups."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text

from mastosync_dagster.history.sqlite import grouped_syncs

if TYPE_CHECKING:
    from pathlib import Path

COUNT = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
static int note(void) {
    int file = open(getenv("COUNT_SYNCS"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    write(file, ".", 1);
    close(file);
    return 0;
}
int fsync(int file) { (void)file; return note(); }
int fdatasync(int file) { (void)file; return note(); }
"""

RUN = """
import os, sys
import dagster as dg
from mastosync_dagster.history.sqlite import grouped_syncs
@dg.op
def lines(context):
    for number in range(20):
        context.log.info("line %s", number)
@dg.job
def some():
    lines()
with grouped_syncs(), dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    assert some.execute_in_process(instance=instance).success
"""


@pytest.mark.long
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler, to count the syncs of a process with")
def test_a_run_makes_few_syncs_in_a_new_home_and_in_an_old_one(tmp_path: Path) -> None:
    home, library = tmp_path / "home", tmp_path / "count.so"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}")
    (tmp_path / "count.c").write_text(COUNT)
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", library, tmp_path / "count.c"], check=True)
    counts = []
    for number in range(2):
        count = tmp_path / str(number)
        environment = {**os.environ, "LD_PRELOAD": str(library), "COUNT_SYNCS": str(count)}
        subprocess.run([sys.executable, "-c", RUN, home], env=environment, check=True, capture_output=True)
        counts.append(count.stat().st_size)
    # 510 and 195 as Dagster does it. With 30 ms each these are two seconds, and one.
    assert 0 < counts[0] <= 66
    assert 0 < counts[1] <= 33


def test_a_database_is_held_once_however_deep_the_blocks_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[sqlite3.Connection] = []

    def connect(*arguments: object, **options: object) -> sqlite3.Connection:
        held.append(sqlite3.Connection(*arguments, **options))  # type: ignore[arg-type]  # as they come
        return held[-1]

    engine = create_engine(f"sqlite:///{tmp_path / 'runs.db'}", poolclass=NullPool)
    monkeypatch.setattr("mastosync_dagster.history.sqlite.sqlite3.connect", connect)

    def write() -> None:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS written (here)"))

    with grouped_syncs():
        write()
        with grouped_syncs():
            write()
            assert len([each for each in held if _is_open(each)]) == 1
        # The end of the inner block is none of the outer one's.
        assert len([each for each in held if _is_open(each)]) == 1
    assert not any(map(_is_open, held))


def _is_open(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return False
    return True
