"""What the services say of a disk that cannot be written: a sentence, seldom; and what else they say stays."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from typing import TYPE_CHECKING

import pytest
from dagster._core.storage.tags import RETRY_ON_ASSET_OR_OP_FAILURE_TAG

from mastosync_dagster.installation.condensed_log import condense
from mastosync_dagster.runs import run_lock
from mastosync_dagster_tests.support.mounts import run_with_mounts
from mastosync_dagster_tests.support.run_processes import some_job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import dagster as dg


@pytest.fixture
def log(tmp_path: Path) -> Iterator[logging.Logger]:
    before = logging.getLoggerClass()
    condense(tmp_path)
    try:
        yield logging.getLogger(f"dagster.daemon.{tmp_path}")
    finally:
        logging.setLoggerClass(before)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "is full: make room, files count too (df -h, df -i)"),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), "is full: make room"),
        (RuntimeError("attempt to write a readonly database"), "is read-only"),
        (RuntimeError("unable to open database file"), "has no room for files"),
        (RuntimeError("database is locked"), "is locked"),
    ],
)
def test_of_many_errors_about_the_disk_one_sentence_is_left(
    log: logging.Logger, caplog: pytest.LogCaptureFixture, tmp_path: Path, error: Exception, says: str
) -> None:
    for number in range(50):
        outer = RuntimeError(f"Caught error {number}")
        outer.__cause__ = error
        log.error("SensorDaemon caught an error", exc_info=outer)
        log.error("Caught error:\n%s", f"{error} and a hundred lines of stack")
    (record,) = caplog.records
    assert says in record.getMessage()
    assert str(tmp_path) in record.getMessage()
    assert "\n" not in record.getMessage()
    assert record.exc_info is None


def test_other_errors_stay_as_they_are(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        log.error("SensorDaemon caught an error", exc_info=KeyError("x"))
    assert len(caplog.records) == 3
    assert all(record.exc_info for record in caplog.records)


SMALL = 'mount -t tmpfs -o size=200k none "$DAGSTER_HOME" && head -c 1M /dev/zero > "$DAGSTER_HOME/filler"; exec "$@"'


@pytest.mark.long(cases=0)
def test_a_service_waits_for_room_before_it_starts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mastosync_dagster.installation.dagster_program", "migrate"]
    # The shell makes room after a while, in the name space in which the disk is full.
    script = '(sleep 6; rm "$DAGSTER_HOME/filler") & exec "$@"'
    begun = time.monotonic()
    home = {"DAGSTER_HOME": str(tmp_path)}
    ended = run_with_mounts(SMALL, "sh", "-c", script, "sh", *command, environment=home)
    assert time.monotonic() - begun > 6
    said = [line for line in ended.stderr.splitlines() if "The disk of DAGSTER_HOME" in line]
    assert len(said) == 1
    assert "is full: make room" in said[0]


def test_a_run_that_meets_a_full_disk_may_be_started_again_and_another_failure_not(
    instance: dg.DagsterInstance,
) -> None:
    tags = []
    for error in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ValueError("something else")):
        run = instance.create_run_for_job(some_job)
        with pytest.raises(type(error)), run_lock.working(instance, run.run_id):
            raise error
        found = instance.get_run_by_id(run.run_id)
        assert found is not None
        tags.append(found.tags.get(RETRY_ON_ASSET_OR_OP_FAILURE_TAG))
    assert tags == ["true", None]
