"""``mastosync ui``: the Dagster UI and its daemon on loopback, until a signal ends both."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
import dagster as dg
from dagster._core.storage.tags import GRPC_INFO_TAG

from mastosync_dagster.environment import DAGSTER_HOME
from mastosync_dagster.installation.processes import StopRequested, stop_requests
from mastosync_dagster.installation.services import LONGEST_END, ServiceError, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

_RUNNING = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
_END_SECONDS = 30.0
_POLL_SECONDS = 0.3
_SIGNALLED = 128
"""What shells add to the number of the signal that ended a command."""
_LOCK = "mastosync-ui.lock"
COPIES = "/assets?asset-selection=group%3A%22copy%22"
"""The page of the assets that are copied. Dagster's list of all sorts by name: each verification follows its copy."""


def run_ui(instance: dg.DagsterInstance, port: int) -> int:
    """Serve the UI until Ctrl-C, SIGTERM or SIGHUP, and return the exit status. Call it in the main thread."""
    home = Path(instance.root_directory)
    environment = {**os.environ, DAGSTER_HOME: str(home)}
    ended = 0

    def end_runs(socket: str) -> None:
        nonlocal ended
        ended = end_runs_of(instance, socket)

    with _alone(home) as lock:
        try:
            with stop_requests():
                click.echo("starting the Dagster UI, which takes some seconds")
                with serve(
                    home, environment, port=port, logs=home / "logs" / "ui", before_code_ends=end_runs, held=[lock]
                ) as found:
                    click.echo(
                        f"{found.url} is the Dagster UI, for browsers on this machine alone; Ctrl-C ends it and its"
                        f" runs.\nWhoever can open it can launch anything, web pages in that browser included:"
                        f" docs/deploy.md.\nWhat is copied, without what is verified: {found.url}{COPIES}\nLogs:"
                        f" {home / 'logs' / 'ui'}"
                    )
                    try:
                        found.wait()
                    finally:
                        click.echo("stopping, which takes some seconds")
        except StopRequested as request:
            click.echo(_farewell(instance, ended))
            return _SIGNALLED + request.signal
    return 0


def end_runs_of(instance: dg.DagsterInstance, socket: str) -> int:
    """Terminate the runs that a code server executes, wait until they have published what they did; return how many."""
    ours = [run for run in _running(instance) if _socket_of(run) == socket]
    for run in ours:
        with suppress(dg.DagsterError):
            instance.run_launcher.terminate(run.run_id)
    ids, deadline = {run.run_id for run in ours}, time.monotonic() + _END_SECONDS
    while ids & {run.run_id for run in _running(instance)} and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return len(ours)


def _running(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    return list(instance.get_runs(dg.RunsFilter(statuses=list(_RUNNING))))


def _socket_of(run: dg.DagsterRun) -> str | None:
    found = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
    return str(found["socket"]) if found.get("socket") else None


def _farewell(instance: dg.DagsterInstance, ended: int) -> str:
    waiting = instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
    text = "The UI and the daemon have ended."
    if ended:
        runs = "1 run was" if ended == 1 else f"{ended} runs were"
        text += f" {runs} stopped: what has been copied stays, and launching it again takes the rest."
    if waiting:
        runs = "1 run waits" if waiting == 1 else f"{waiting} runs wait"
        text += f" {runs} in the queue until the daemon runs again."
    return text


@contextmanager
def _alone(home: Path) -> Iterator[int]:
    """Refuse a second UI of this command on the same home: two daemons would launch everything twice.

    Yields the descriptor of the lock. The services keep it too: one may outlive a command that is killed.
    """
    (home / "storage").mkdir(mode=0o700, exist_ok=True)
    with (home / "storage" / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(
                f"`mastosync ui` already runs on {home}: end that one, or use another home (DAGSTER_HOME). If it was"
                f" killed, its services end within {LONGEST_END:.0f} seconds."
            ) from None
        except OSError:  # no locks here
            pass
        yield lock.fileno()
