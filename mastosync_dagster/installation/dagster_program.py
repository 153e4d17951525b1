"""Dagster's own programs as services: they take less memory, and ask less often while nothing is to be done.

``python -m mastosync_dagster.installation.dagster_program daemon run -w workspace.yaml``; ``migrate``, ``code`` and
``webserver`` are the others. What is set here Dagster has as constants. On a disk that cannot be written they wait, and
say so seldom.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from mastosync_dagster.environment import DAGSTER_HOME, use_default_home
from mastosync_dagster.errors import AdminError
from mastosync_dagster.installation.condensed_log import SECONDS_BETWEEN, condense
from mastosync_dagster.installation.disk_errors import sentence, try_writing
from mastosync_dagster.installation.new_history import make_history
from mastosync_dagster.installation.services import PARENT
from mastosync_dagster.process import HIGHLIGHTER, RICH, load_without, use_one_malloc_arena

_VARIABLES = {
    # Whether the asset `replica` is late; it is a matter of hours.
    "FRESHNESS_DAEMON_INTERVAL_SECONDS": "600",
    # Whether a run that failed is to be started again.
    "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "15",
}
_LOADED_SECONDS = 180.0
"""After so long a service has loaded all that it keeps for as long as it lives."""
_GARBAGE_SECONDS = 60.0
_COMMANDS = {"code": ["api", "grpc"], "migrate": ["instance", "migrate"]}
_END_SECONDS = 15.0
"""How long the daemon may take to end: where its history is silent, Dagster's threads wait for minutes."""
_PARENT_SECONDS = 2.0
_POLL_SECONDS = 5.0
_RELOAD_SECONDS = 24 * 3600
"""Dagster's daemon reads all definitions again every minute. That the code server is another one, it notices anyway."""
_SENSORS_SECONDS = 20
"""How often the daemon looks which sensors are due; Dagster: every 5 s. Ours are, every two minutes at the most."""
_WATCH_SECONDS = 5
"""How often daemon and webserver ask the code server whether it is still the same one; Dagster: every second."""


def main() -> None:
    """Run the program that the first argument names, with the others."""
    if sys.argv[1].startswith(PARENT):
        _end_with(int(sys.argv.pop(1).removeprefix(PARENT)))
    program = sys.argv.pop(1)
    use_default_home()
    home = Path(os.environ.get(DAGSTER_HOME) or ".")
    condense(home)
    _wait_for_disk(home)
    # Threads of Dagster's pools take turns: each would keep some megabytes of its own.
    use_one_malloc_arena()
    load_without(HIGHLIGHTER, RICH)
    _collect_often()
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    if os.environ.get(DAGSTER_HOME):
        make_history(home)
    if program in _COMMANDS:
        from dagster._cli import main as run  # noqa: PLC0415  (each program has memory for itself alone)

        sys.argv[1:1] = _COMMANDS[program]
    elif program == "daemon":
        _ask_seldom()
        _end_in_time()
        from dagster._daemon.cli import main as run  # noqa: PLC0415  (as above; it reads the variables)
    else:
        _ask_seldom()
        from dagster_webserver.cli import main as run  # noqa: PLC0415  (as above)
    try:
        run()  # type: ignore[no-untyped-call]  # Dagster's own
    except Exception as error:
        # Of a wrong setting, say, for which the definitions do not load: Dagster's error has it as its cause.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, AdminError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise SystemExit(str(cause)) from None


def _collect_often() -> None:
    """Collect garbage every minute, but for what stays for as long as the process lives.

    Python waits until there is a quarter as much of it as of all that lives, which is most of Dagster. What a run
    leaves for good lies between that garbage then, so a service grew with the runs (docs/deploy.md has its nights).
    Without what stays, a collection takes milliseconds.
    """

    def collect() -> None:
        time.sleep(_LOADED_SECONDS)
        gc.collect()
        gc.freeze()
        while True:
            time.sleep(_GARBAGE_SECONDS)
            gc.collect()

    threading.Thread(target=collect, name="garbage", daemon=True).start()


def _wait_for_disk(home: Path) -> None:
    """Wait while the home cannot be written: Dagster would end, and be started again and again."""
    due = time.monotonic()
    while True:
        try:
            try_writing(home)
        except OSError as error:
            if time.monotonic() >= due:
                due += SECONDS_BETWEEN
                print(sentence(home, str(error)) or str(error), file=sys.stderr, flush=True)  # noqa: T201  (for the journal)
            time.sleep(_POLL_SECONDS)
        else:
            return


def _end_with(parent: int) -> None:
    """End this process when its parent has gone: one that is killed cannot end it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(_END_SECONDS)
        os._exit(128 + signal.SIGINT)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _end_in_time() -> None:
    """End this process some seconds after a signal asked it to end. What it has done is in the history."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # Python writes each signal's number there at once: its handlers wait until a call into libpq returns.
    signal.set_wakeup_fd(writer.fileno())

    def watch() -> None:
        with writer:
            while (number := reader.recv(1)[0]) not in (signal.SIGINT, signal.SIGTERM):
                pass
            time.sleep(_END_SECONDS)
            os._exit(128 + number)

    threading.Thread(target=watch, name="end", daemon=True).start()


def _ask_seldom() -> None:
    from dagster._daemon import controller, sensor  # noqa: PLC0415  (it reads the variables)
    from dagster._grpc import server_watcher  # noqa: PLC0415  (as above)

    controller.RELOAD_WORKSPACE_INTERVAL = _RELOAD_SECONDS
    sensor.MIN_INTERVAL_LOOP_TIME = _SENSORS_SECONDS
    server_watcher.WATCH_INTERVAL = _WATCH_SECONDS


if __name__ == "__main__":
    main()
