"""What the launcher and the workers agree on: how Celery uses Redis, and the name of the task that is a run."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from mastosync_dagster.environment import BROKER, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

TASK = "mastosync.execute_run"
"""It has one argument, the id of a run: whatever else a worker needs is in the history."""
QUEUE = "dagster"
CONNECT_SECONDS = 5.0

_REDELIVER_SECONDS = 120
"""A task that was not acknowledged for so long is handed out again: its worker died before the run had begun."""
_SCHEMES = ("redis://", "rediss://")
_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 35_000}
"""A broker that vanished without a word is noticed within 40 s. Not every system has all of these."""


def check_broker(url: str) -> None:
    """Raise `SettingsError` if a URL is no Redis server's."""
    if not url.startswith(_SCHEMES):
        raise SettingsError(
            f"{BROKER} must be the URL of a Redis server, such as redis://10.0.0.5:6379/0, or rediss:// with TLS."
        )


def keepalive() -> dict[int, int]:
    """Return options of TCP sockets by which a silent flow ends."""
    return {getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)}


def celery_settings() -> Mapping[str, Any]:
    """Return the settings of Celery, the same for all that launch runs and all that execute them."""
    return {
        # The history has what became of a run: there is nothing else to store.
        "result_backend": "disabled://",
        "task_ignore_result": True,
        "task_default_queue": QUEUE,
        # A worker takes a run when it is idle, and none to keep from the others meanwhile.
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        # A thread waits for each run, which is a process of its own. One run at a time, where `-c` does not say more.
        "worker_pool": "threads",
        "worker_concurrency": 1,
        # The task is there until the run has ended. Handed out again, a run that has begun or ended is left alone.
        "task_acks_late": True,
        "broker_transport_options": {
            "visibility_timeout": _REDELIVER_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_keepalive": True,
            "socket_keepalive_options": keepalive(),
            # How often a launcher tries to reach the broker: the run then waits in Dagster's queue.
            "max_retries": 3,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.5,
        },
        # A worker waits for a broker that is away, for ever, and its runs go on.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # The log is the admin's: no other program's.
        "worker_hijack_root_logger": False,
    }
