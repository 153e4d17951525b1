"""Dagster's own programs as services: they take less memory, and ask less often while nothing is to be done.

``python -m mastosync_dagster.installation.dagster_program daemon run -w workspace.yaml``; ``code`` and ``webserver``
are the others. What is set here Dagster has as constants.
"""

from __future__ import annotations

import os
import sys

from mastosync_dagster.process import use_one_malloc_arena

_VARIABLES = {
    # Whether the asset `replica` is late; it is a matter of hours.
    "FRESHNESS_DAEMON_INTERVAL_SECONDS": "600",
    # Whether a run that failed is to be started again.
    "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "15",
}
_RELOAD_SECONDS = 24 * 3600
"""Dagster's daemon reads all definitions again every minute. That the code server is another one, it notices anyway."""
_WATCH_SECONDS = 5
"""How often daemon and webserver ask the code server whether it is still the same one; Dagster: every second."""


def main() -> None:
    """Run the program that the first argument names, with the others."""
    program = sys.argv.pop(1)
    # Threads of Dagster's pools take turns: each would keep some megabytes of its own.
    use_one_malloc_arena()
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    if program == "code":
        from dagster._cli import main as run  # noqa: PLC0415  (each program has memory for itself alone)

        sys.argv[1:1] = ["api", "grpc"]
    elif program == "daemon":
        _ask_seldom()
        from dagster._daemon.cli import main as run  # noqa: PLC0415  (as above; it reads the variables)
    else:
        _ask_seldom()
        from dagster_webserver.cli import main as run  # noqa: PLC0415  (as above)
    run()  # type: ignore[no-untyped-call]  # Dagster's own


def _ask_seldom() -> None:
    from dagster._daemon import controller  # noqa: PLC0415  (it reads the variables)
    from dagster._grpc import server_watcher  # noqa: PLC0415  (as above)

    controller.RELOAD_WORKSPACE_INTERVAL = _RELOAD_SECONDS
    server_watcher.WATCH_INTERVAL = _WATCH_SECONDS


if __name__ == "__main__":
    main()
